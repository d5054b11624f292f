"""`dwarf-nats limit …`: how many of a task or workflow run at once, and how many begin in a second (K1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from dwarf_nats.cli.command import command, new_app, option_group
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, table
from dwarf_nats.sdk import Limit
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.limit_messages import limit_entry

app = new_app("Limits: how many of a task or workflow run at once, and how many begin in a second.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The limit's name.")]


@option_group("The limit")
@dataclass(slots=True, frozen=True)
class Allowance:
    """The task or workflow to limit, and the numbers (K1)."""

    task: Annotated[str, typer.Option(metavar="URL", help="Limit the steps at this task.")] = ""
    workflow: Annotated[str, typer.Option(metavar="NAME", help="Limit the flows of this workflow.")] = ""
    by: Annotated[str, typer.Option(metavar="WHAT", help="A count for each: fairnessKey or tag:<name>.")] = ""
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="So many at once.")] = None
    per_second: Annotated[float | None, typer.Option(metavar="N", help="So many begin in a second.")] = None
    burst: Annotated[int | None, typer.Option(metavar="N", help="So many may begin at once after a pause.")] = None

    def limit(self, name: str) -> Limit:
        """The limit of that name."""
        return Limit(name=name, **asdict(self))


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="limit")


@command(
    app,
    "put",
    short="Set a limit, in place of the one of its name.",
    example="dwarf-nats limit put bank --task billing.charge --by tag:bank --concurrency 4 --per-second 20",
)
async def put(out: Output, bus: Bus, service: Service, name: Name, allowance: Allowance) -> None:
    """Set a limit, in place of the one of its name. It takes effect at once, also for what waits already."""
    limit = allowance.limit(name)
    async with service.client(bus) as client:
        await client.put_limit(limit)
    out.show(m.Empty(), f"{name}: {_allowed(limit)}")


@command(app, "list", example="dwarf-nats limit list --json")
async def list_(out: Output, bus: Bus, service: Service) -> None:
    """List the limits, how many each counts now, and how many steps wait for it."""
    async with service.client(bus) as client:
        found = await client.list_limits()
    rows = [
        (
            one.limit.name,
            f"task {one.limit.task}" if one.limit.task else f"workflow {one.limit.workflow}",
            one.limit.by,
            _allowed(one.limit),
            str(one.running),
            str(one.waiting),
            day_and_clock(one.updated_at),
        )
        for one in found
    ]
    names = ("name", "of", "by", "allowed", "running", "waiting", "updated")
    out.show(m.LimitListReply(limits=[limit_entry(one) for one in found]), table(names, rows))


@command(app, "delete", example="dwarf-nats limit delete bank")
async def delete(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Remove a limit; the steps that wait for it may begin."""
    async with service.client(bus) as client:
        await client.delete_limit(name)
    out.show(m.Empty(), "deleted")


def _allowed(limit: Limit) -> str:
    """The allowance of a limit, for people."""
    parts = [] if limit.concurrency is None else [f"{limit.concurrency} at once"]
    if limit.per_second is not None:
        burst = "" if limit.burst is None else f", {limit.burst} after a pause"
        parts.append(f"{limit.per_second:g} a second{burst}")
    return ", ".join(parts)
