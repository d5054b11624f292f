"""`dwarf-nats schedule`: start flows at due times (R3)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from msgspec import UNSET
from rich.table import Table
from rich.text import Text

from dwarf_nats.cli.arguments import Cursor
from dwarf_nats.cli.command import command, new_app, option_group
from dwarf_nats.cli.creation import TIME_FORMATS
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, pretty, table
from dwarf_nats.cli.state_arg import read_json
from dwarf_nats.errors import BadRequest
from dwarf_nats.render.terminal import one_line
from dwarf_nats.sdk import Overlap, Schedule, ScheduleInfo
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.decoding import decode
from dwarf_nats.wire.schedules import schedule_message, schedule_record
from dwarf_nats.workflow import documents
from dwarf_nats.workflow.cron import time_zone
from dwarf_nats.workflow.schedule_flows import check_schedule
from dwarf_nats.workflow.schedules import micros_of

app = new_app("Schedules: start flows at due times.")
Name = Annotated[str, typer.Argument(help="The schedule's name.")]
NEXT = 10
"""Due times that `next` shows unless told otherwise."""


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="schedule")


@option_group("When")
@dataclass(slots=True, frozen=True)
class Times:
    """The due times of a schedule."""

    cron: Annotated[
        str, typer.Option(help="Minute, hour, day of month, month, day of week; six fields have the second first.")
    ] = ""
    every_ms: Annotated[
        int | None, typer.Option(min=1, help="Time from one due time to the next, instead of --cron.")
    ] = None
    timezone: Annotated[str, typer.Option(help="Of --cron, such as Europe/Berlin.")] = "UTC"
    jitter_ms: Annotated[int, typer.Option(min=0, help="Each due time fires up to so much later.")] = 0
    from_time: Annotated[
        datetime | None,
        typer.Option("--from", help="Not due before; local time unless a zone is given.", formats=TIME_FORMATS),
    ] = None
    until: Annotated[
        datetime | None, typer.Option(help="Not due after; local time unless a zone is given.", formats=TIME_FORMATS)
    ] = None

    def fields(self) -> dict[str, Any]:
        """The fields of a schedule."""
        return {
            "cron": self.cron,
            "every_ms": self.every_ms or 0,
            "timezone": self.timezone,
            "jitter_ms": self.jitter_ms,
            "from_": _zoned(self.from_time),
            "until": _zoned(self.until),
        }


@option_group("What")
@dataclass(slots=True, frozen=True)
class Flows:
    """The flows of a schedule."""

    workflow: Annotated[str, typer.Option(help="The workflow of its flows.")] = ""
    state: Annotated[
        str | None, typer.Option(help="State of each flow, a template over scheduledAt and firedAt: JSON, @file or -.")
    ] = None
    options: Annotated[str | None, typer.Option(help="Options of each flow, such as tags: JSON, @file or -.")] = None
    overlap: Annotated[Overlap, typer.Option(help="If the last flow has not ended.")] = Overlap.SKIP
    catch_up_ms: Annotated[int, typer.Option(min=0, help="Age up to which a missed due time fires.")] = 60_000
    paused: Annotated[bool, typer.Option("--paused", help="Fire nothing until it is resumed.")] = False

    def fields(self) -> dict[str, Any]:
        """The fields of a schedule."""
        return {
            "workflow": self.workflow,
            "state": None if self.state is None else msgspec.json.decode(read_json(self.state, "--state")),
            "options": None if self.options is None else msgspec.json.decode(read_json(self.options, "--options")),
            "overlap": self.overlap,
            "catch_up_ms": self.catch_up_ms,
            "paused": self.paused,
        }


def _zoned(at: datetime | None) -> datetime | None:
    return None if at is None else at if at.tzinfo is not None else at.astimezone()


@command(
    app,
    "put",
    short="Keep a schedule, in place of one of that name.",
    example="dwarf-nats schedule put nightly --workflow report --cron '0 3 * * *' --timezone Europe/Berlin\n"
    "dwarf-nats schedule put nightly.yaml",
)
async def put(
    out: Output,
    bus: Bus,
    service: Service,
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="The schedule's name, or a file: - or .json, .yaml, .yml.")
    ],
    flows: Flows,
    times: Times,
) -> None:
    """Keep a schedule under its name, in place of one that had it; its runs stay.

    A file has the fields of `dwarf.schedule.put`. Prints in plain words when the schedule is due.
    """
    if name == "-" or name.endswith(documents.SUFFIXES):
        schedule = read_schedule(name)
    elif not flows.workflow:
        raise typer.BadParameter("name the workflow of its flows, or give a file", param_hint="--workflow")
    else:
        schedule = Schedule(name=name, **flows.fields(), **times.fields())
    async with service.client(bus) as client:
        info = await client.put_schedule(schedule)
    warnings = [Text(f"warning: {one_line(one)}", style="yellow") for one in info.warnings]
    out.show(schedule_message(info), _line(info), *warnings)


def read_schedule(path: str) -> Schedule:
    """Read a schedule from a JSON or YAML file, or standard input. Raises `BadRequest` naming the file."""
    try:
        text = sys.stdin.buffer.read(documents.MAX_BYTES + 1) if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from None
    is_yaml = not path.endswith(".json") and not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    try:
        return schedule_record(decode(m.SchedulePutRequest, documents.to_json(text, is_yaml=is_yaml)))
    except BadRequest as error:
        raise BadRequest(f"{path}: {error.message}") from None


@command(app, "get", short="A schedule, its last runs and next due times.", example="dwarf-nats schedule get nightly")
async def get(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Show a schedule with its last ten runs and its next ten due times."""
    async with service.client(bus) as client:
        info = await client.get_schedule(name)
    shown: list[Any] = [_line(info)]
    if info.schedule.state is not None:
        shown.append(Text(f"state: {pretty(msgspec.json.encode(info.schedule.state))}"))
    if info.schedule.options is not None:
        shown.append(Text(f"options: {pretty(msgspec.json.encode(info.schedule.options))}"))
    shown += [_runs(info), *_due(info.next, info.schedule.timezone)]
    out.show(schedule_message(info), *shown)


@command(app, "list", short="Schedules by name.", example="dwarf-nats schedule list --workflow report")
async def list_(
    out: Output,
    bus: Bus,
    service: Service,
    workflow: Annotated[str | None, typer.Option(help="Of this workflow.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    cursor: Cursor = "",
) -> None:
    """List schedules by name, with when they are due next and what became of the last due time."""
    async with service.client(bus) as client:
        found, following = await client.list_schedules(limit, cursor, workflow=workflow)
    reply = m.ScheduleListReply(
        schedules=[schedule_message(one, short=True) for one in found], cursor=following or UNSET
    )
    rows = [
        (
            one.schedule.name,
            one.schedule.workflow,
            one.description,
            "paused" if one.schedule.paused else day_and_clock(one.next[0]) if one.next else "never again",
            one.last[0].outcome.value if one.last else "",
        )
        for one in found
    ]
    shown = [table(("schedule", "workflow", "due", "next", "last"), rows)] if rows else ["no schedules"]
    out.show(reply, *shown, *([f"more: --cursor {following}"] if following else []))


@command(
    app,
    "next",
    short="The next due times of a schedule or a cron text.",
    example="dwarf-nats schedule next nightly\ndwarf-nats schedule next '0 3 * * 1-5' --timezone Europe/Berlin",
)
async def next_(
    out: Output,
    bus: Bus,
    service: Service,
    what: Annotated[
        str, typer.Argument(metavar="NAME|CRON", help="A schedule, or a cron text, which needs no service.")
    ],
    timezone: Annotated[str, typer.Option(help="Of a cron text.")] = "UTC",
    count: Annotated[int, typer.Option(min=1, max=1000, help="Due times of a cron text.")] = NEXT,
) -> None:
    """Say in plain words when a schedule is due, and show the next due times in its time zone."""
    if " " in what.strip() or what.startswith("@"):
        schedule = Schedule(name="next", workflow="next", cron=what, timezone=timezone)
        check_schedule(schedule)
        due = schedule.following(micros_of(datetime.now(UTC)), count)
        info = ScheduleInfo(schedule=schedule, next=due, description=schedule.description())
    else:
        async with service.client(bus) as client:
            info = await client.get_schedule(what)
    reply = schedule_message(info)
    out.show(
        msgspec.json.encode({"description": reply.description, "next": reply.next}),
        one_line(info.description),
        *_due(info.next, info.schedule.timezone),
    )


@command(app, "pause", short="Fire nothing until it is resumed.", example="dwarf-nats schedule pause nightly")
async def pause(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Fire no due time of a schedule until it is resumed. Flows that run go on."""
    async with service.client(bus) as client:
        info = await client.pause_schedule(name)
    out.show(schedule_message(info), _line(info))


@command(app, "resume", short="Fire from now on.", example="dwarf-nats schedule resume nightly")
async def resume(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Fire the due times of a paused schedule from now on. What was due meanwhile does not fire."""
    async with service.client(bus) as client:
        info = await client.resume_schedule(name)
    out.show(schedule_message(info), _line(info))


@command(app, "trigger", short="Start a flow now.", example="dwarf-nats schedule trigger nightly")
async def trigger(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Start a flow of a schedule now, also of a paused one, and whatever its overlap says."""
    async with service.client(bus) as client:
        info = await client.trigger_schedule(name)
    out.show(schedule_message(info), f"started {info.last[0].flow_id}" if info.last else "started")


@command(
    app,
    "backfill",
    short="Start the flows of past due times.",
    example="dwarf-nats schedule backfill nightly --from 2026-11-01 --to 2026-11-07",
)
async def backfill(
    out: Output,
    bus: Bus,
    service: Service,
    name: Name,
    from_time: Annotated[
        datetime, typer.Option("--from", help="The first time; local unless a zone is given.", formats=TIME_FORMATS)
    ],
    to_time: Annotated[
        datetime, typer.Option("--to", help="The last time; local unless a zone is given.", formats=TIME_FORMATS)
    ],
) -> None:
    """Start a flow for each due time of a past range that has none, at most 1,000."""
    first, last = _zoned(from_time), _zoned(to_time)
    assert first is not None
    assert last is not None
    async with service.client(bus) as client:
        fired = await client.backfill_schedule(name, first, last)
    out.show(m.ScheduleBackfillReply(fired=fired), f"started {fired}")


@command(app, "delete", example="dwarf-nats schedule delete nightly")
async def delete(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Forget a schedule; its flows stay."""
    async with service.client(bus) as client:
        await client.delete_schedule(name)
    out.show(m.Empty(), "deleted")


def _line(info: ScheduleInfo) -> str:
    schedule = info.schedule
    when = "paused" if schedule.paused else f"next {day_and_clock(info.next[0])}" if info.next else "never due again"
    return one_line(f"{schedule.name}  {schedule.workflow}  {info.description}  {when}")


def _runs(info: ScheduleInfo) -> Table | str:
    rows = [
        (
            day_and_clock(run.due_at),
            run.outcome.value,
            run.flow_id or "",
            "" if run.fired_at is None else day_and_clock(run.fired_at),
            one_line(run.message or ""),
        )
        for run in info.last
    ]
    return table(("due", "outcome", "flow", "fired", "why"), rows) if rows else "no runs yet"


def _due(times: Sequence[int], zone: str) -> list[str]:
    """Due times in the zone of the schedule."""
    where = time_zone(zone)
    return [
        datetime.fromtimestamp(due / 1_000_000, UTC).astimezone(where).strftime("%a %Y-%m-%d %H:%M:%S %z")
        for due in times
    ]
