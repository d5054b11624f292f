"""`dwarf-nats flow …`: the operations that end flows or remove them (O9, O10). They print what they did, or would do."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

import msgspec
import typer

from dwarf_nats.cli.arguments import FlowKey
from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.options import Bus, FlowService, Matching
from dwarf_nats.cli.output import Output, coloured, day_and_clock, error_line, table
from dwarf_nats.errors import BadRequest, Conflict, DwarfError, NotFound
from dwarf_nats.render.terminal import one_line
from dwarf_nats.sdk import Client, Query
from dwarf_nats.wire import codec
from dwarf_nats.wire import messages as m
from dwarf_nats.workflow.records import FlowSummary, Outcome
from dwarf_nats.workflow.status import Status

app = new_app("")
MAX_PURGED_FLOWS = 10_000
"""Flows that one call of purge deletes at most; the bound of the service."""
PAGE_FLOWS = 1_000
"""Flows read at a time to count those that match; the bound of the service."""
SAMPLE_FLOWS = 10
"""Flows that a dry run of purge lists."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]


def register(family: typer.Typer) -> None:
    family.add_typer(app)


async def read_before(client: Client, flow: str) -> Outcome | None:
    """The outcome of a flow before an operation on it; `None` if this user may not read it.

    Raises `NotFound` and `BadRequest` for a key that names nothing.
    """
    try:
        return await client.snapshot(flow)
    except (NotFound, BadRequest):
        raise
    except DwarfError:
        return None


def flow_label(flow: str, before: Outcome | None) -> str:
    """The flow in words: its workflow, if known, and its key."""
    return f"{one_line(before.workflow)} {flow}" if before is not None else flow


def previous_status(before: Outcome | None) -> str:
    """The status of the flow before, in brackets; empty if it is not known."""
    if before is None:
        return ""
    why = error_line(before.error) or one_line(before.cancel_reason or "")
    return f" (it was {before.status.value}{': ' + why if why else ''})"


def show_dry_run(out: Output, flow: str, before: Outcome | None, *, verb: str, refused: tuple[Status, ...]) -> None:
    """Print what an operation would do. Raises `Conflict` if the flow's status forbids it."""
    if before is None:
        raise BadRequest("a dry run must read the flow, which this user may not do")
    if before.status in refused:
        raise Conflict(f"the flow is {before.status.value}, so it would not be {verb}")
    out.show(
        {"dryRun": True, "status": before.status.value},
        f"would be {verb}: {flow_label(flow, before)}{previous_status(before)}",
    )


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal. Raises `typer.Exit` with code 1 unless the answer is yes."""
    if yes or not sys.stdin.isatty():
        return
    if not typer.confirm(question, err=True):
        print("nothing was done", file=sys.stderr)
        raise typer.Exit(1)


@command(
    app,
    "cancel",
    short="Cancel a flow that has not ended.",
    example="dwarf-nats flow cancel 1-42-a1B2c3D4e5F6g7H8 --reason 'ordered twice'",
)
async def cancel(
    out: Output,
    bus: Bus,
    service: FlowService,
    flow: FlowKey,
    reason: Annotated[str, typer.Option(help="Kept with the flow.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Cancel a flow that has not ended, with every flow above and below it."""
    async with service.client(bus) as client:
        before = await read_before(client, flow)
        if dry_run:
            ended = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
            show_dry_run(out, flow, before, verb="cancelled", refused=ended)
            return
        await client.cancel(flow, reason)
    out.show(m.Empty(), f"cancelled {flow_label(flow, before)}{previous_status(before)}")


@command(
    app,
    "delete",
    short="Delete a flow that is not running.",
    example="dwarf-nats flow delete 1-42-a1B2c3D4e5F6g7H8 --yes",
)
async def delete(
    out: Output, bus: Bus, service: FlowService, flow: FlowKey, dry_run: DryRun = False, yes: Yes = False
) -> None:
    """Delete a flow that is not running, with its history and its subgraphs."""
    async with service.client(bus) as client:
        before = await read_before(client, flow)
        if dry_run:
            show_dry_run(out, flow, before, verb="deleted", refused=(Status.RUNNING,))
            return
        confirm(f"delete {flow_label(flow, before)}{previous_status(before)} and its history?", yes)
        await client.delete(flow)
    out.show(m.Empty(), f"deleted {flow_label(flow, before)}{previous_status(before)}")


@command(
    app,
    "purge",
    short="Delete the flows that match and are not running.",
    example="dwarf-nats flow purge --status completed --older-than 30d --dry-run\n"
    "dwarf-nats flow purge --status completed --older-than 30d --yes",
)
async def purge(
    out: Output,
    bus: Bus,
    service: FlowService,
    matching: Matching,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PURGED_FLOWS, help="At most so many.")] = MAX_PURGED_FLOWS,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Delete the flows that match and are not running, the oldest first; needs --status, --workflow or --older-than.

    One call deletes at most --limit. If there may be more, it says so: run it again.
    """
    query = replace(matching.query(), limit=limit)
    if matching.status is None and matching.workflow is None and matching.older_than_ms is None:
        raise BadRequest("purge needs at least one of --status, --workflow, --older-than")
    async with service.client(bus) as client:
        if dry_run:
            await _show_purge(out, client, query)
            return
        if not yes and sys.stdin.isatty():
            found = [one async for one in _purged(client, query)]
            confirm(f"delete {flows_text(len(found))} and their histories?", yes)
        deleted = await client.purge(query)
    more = "; there may be more: run it again" if deleted >= limit else ""
    out.show(m.FlowPurgeReply(deleted=deleted), f"deleted {flows_text(deleted)}{more}")


async def _show_purge(out: Output, client: Client, query: Query) -> None:
    found = [one async for one in _purged(client, query)]
    sample = found[:SAMPLE_FLOWS]
    rows = [(one.flow_key, one.workflow, coloured(one.status), day_and_clock(one.updated_at)) for one in sample]
    out.show(
        {"matched": len(found), "sample": [msgspec.to_builtins(codec.summary_message(one)) for one in sample]},
        f"would delete {flows_text(len(found))}" + (", among them:" if rows else ""),
        *([table(("flow", "workflow", "status", "updated"), rows)] if rows else []),
    )


async def _purged(client: Client, query: Query) -> AsyncIterator[FlowSummary]:
    """The flows that one purge would delete. If more match than its limit, the service decides which."""
    count = 0
    async for one in client.list_all(replace(query, limit=PAGE_FLOWS)):
        if count == query.limit:
            return
        if one.status is not Status.RUNNING:
            count += 1
            yield one


def flows_text(count: int) -> str:
    """A number of flows in words."""
    return f"{count:,} flow" + ("" if count == 1 else "s")
