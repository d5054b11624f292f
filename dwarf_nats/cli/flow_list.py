"""`dwarf-nats flow list` and `flow count`: which flows there are (O9).

The module loads what these two need and no more, since `flow list` is the command that is typed most.
"""

from __future__ import annotations

from collections.abc import Sequence

import typer
from msgspec import UNSET

from dwarf_nats.cli.arguments import Cursor
from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.options import Bus, Filters, FlowService
from dwarf_nats.cli.output import Output, flows_view, table
from dwarf_nats.wire import codec
from dwarf_nats.workflow.options import LIST_DEFAULT_FLOWS, Query
from dwarf_nats.workflow.records import FlowSummary

app = new_app("")


def register(family: typer.Typer) -> None:
    family.add_typer(app)


@command(app, "list", example="dwarf-nats flow list --status failed --newer-than 1h")
async def list_(
    out: Output,
    bus: Bus,
    service: FlowService,
    filters: Filters,
    cursor: Cursor = "",
) -> None:
    """List flows, newest first."""
    async with service.client(bus) as client:
        flows, following = await client.list(filters.query(), cursor)
    show_flows(out, flows, following, filters.query())


@command(app, "count", short="Count flows by status.", example="dwarf-nats flow count --workflow order")
async def count(out: Output, bus: Bus, service: FlowService, filters: Filters) -> None:
    """Count flows by status, up to 1,000 of each; with filters, among the newest 10,000."""
    async with service.client(bus) as client:
        found = await client.count(filters.query())
    from dwarf_nats.wire.shards import counts_message

    reply = counts_message(found)
    rows = [
        (status.value, f"{number:,}{'+' if status in found.more else ''}") for status, number in found.counts.items()
    ]
    since = [] if reply.searched_to is UNSET else [f"of the flows created since {reply.searched_to}"]
    out.show(reply, table(("status", "flows"), rows), *since)


def show_flows(out: Output, flows: Sequence[FlowSummary], following: str, query: Query) -> None:
    """Print a page of flows, and how to see the next."""
    reply = codec.flow_list_reply(flows, following, query.limit or LIST_DEFAULT_FLOWS)
    more = [f"more: --cursor {following}"] if following else []
    if reply.searched_to is not UNSET:
        more = [f"searched back to {reply.searched_to}; to go on: --cursor {following}"]
    out.show(reply, flows_view(flows), *more)
