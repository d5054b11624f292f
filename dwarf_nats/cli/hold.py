"""`dwarf-nats hold …`: stop tasks and workflows by hand (K2)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.durations import parse_ms
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, table
from dwarf_nats.render.terminal import one_line
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.holds import hold_message
from dwarf_nats.workflow.records import HoldInfo

app = new_app("Holds: stop tasks and workflows by hand, and let them go on.")


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="hold")


Task = Annotated[str, typer.Option("--task", metavar="URL", help="The task, by its url.")]
Workflow = Annotated[str, typer.Option("--workflow", metavar="NAME", help="The workflow.")]
Until = Annotated[
    str,
    typer.Option("--until", metavar="TIME|DURATION", help="When it ends by itself: 2026-12-01T08:00+01:00, or 90m."),
]


@command(
    app,
    "put",
    example="dwarf-nats hold put --task billing.charge --reason 'the bank is being moved' --until 2h\n"
    "dwarf-nats hold put --workflow order",
)
async def put(
    out: Output,
    bus: Bus,
    service: Service,
    task: Task = "",
    workflow: Workflow = "",
    reason: Annotated[str, typer.Option("--reason", help="Shown with every step that the hold stops.")] = "",
    until: Until = "",
) -> None:
    """Stop a task or a workflow: their steps are not dispatched any more.

    What runs goes on, and flows can be created. A hold that is there is changed.
    """
    ends = read_end(until)
    async with service.client(bus) as client:
        hold = await client.put_hold(task=task, workflow=workflow, reason=reason, until=ends)
    ended = "" if hold.until is None else f" until {day_and_clock(hold.until)}"
    out.show(hold_message(hold), f"{_what(hold)} is on hold{ended}")


@command(app, "list", example="dwarf-nats hold list")
async def list_(out: Output, bus: Bus, service: Service) -> None:
    """List the holds, the oldest first, with the number of steps that each keeps."""
    async with service.client(bus) as client:
        holds = await client.list_holds()
    rows = [
        (
            _what(one),
            str(one.steps),
            day_and_clock(one.since),
            "" if one.until is None else day_and_clock(one.until),
            one_line(one.actor),
            one_line(one.reason),
        )
        for one in holds
    ]
    reply = m.HoldListReply(holds=[hold_message(one) for one in holds])
    out.show(reply, table(("on hold", "steps", "since", "until", "by", "reason"), rows))


@command(app, "delete", example="dwarf-nats hold delete --task billing.charge")
async def delete(out: Output, bus: Bus, service: Service, task: Task = "", workflow: Workflow = "") -> None:
    """End a hold: the steps that it kept go on."""
    async with service.client(bus) as client:
        await client.delete_hold(task=task, workflow=workflow)
    out.show(m.Empty(), "deleted")


def _what(hold: HoldInfo) -> str:
    return f"task {hold.task}" if hold.task else f"workflow {hold.workflow}"


def read_end(text: str) -> datetime | None:
    """The time that `--until` names. Raises `typer.BadParameter`."""
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) + timedelta(milliseconds=parse_ms(text))
        except (ValueError, OverflowError):
            problem = (
                f"{text[:40]!r} is neither a time nor a duration: write it like 2026-12-01T08:00+01:00, or like 90m"
            )
            raise typer.BadParameter(problem, param_hint="--until") from None
    return when if when.tzinfo is not None else when.astimezone()
