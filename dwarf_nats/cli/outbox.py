"""`dwarf-nats outbox …`: flows that callers enqueued in transactions of their own, and that have not begun yet."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import UNSET

from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, table
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.outbox_messages import row_message

app = new_app("Outboxes: flows that were enqueued in the database and have not begun yet.")

Row = Annotated[str, typer.Argument(metavar="ROW", help="Shard and number of the row, as the list shows it: 1-42.")]


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="outbox")


@command(app, "list", example="dwarf-nats outbox list --rejected")
async def list_(
    out: Output,
    bus: Bus,
    service: Service,
    rejected: Annotated[bool, typer.Option("--rejected", help="Only rows that cannot be used.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Rows of the page.")] = 100,
    cursor: Annotated[str, typer.Option("--cursor", help="Where the page begins, from the page before.")] = "",
) -> None:
    """List rows that wait to become flows, and those that were put aside, with the reason."""
    async with service.client(bus) as client:
        rows, following = await client.list_outbox(rejected=rejected, limit=limit, cursor=cursor)
    reply = m.OutboxListReply(rows=[row_message(one) for one in rows], cursor=following or UNSET)
    lines = [
        (
            one.row,
            one.workflow,
            day_and_clock(one.created_at),
            "rejected" if one.rejected_at is not None else "waiting",
            str(one.attempts),
            one.reason or "",
        )
        for one in rows
    ]
    shown = table(("row", "workflow", "created", "state", "attempts", "reason"), lines)
    out.show(reply, shown, *([f"more: --cursor {following}"] if following else []))


@command(app, "retry", example="dwarf-nats outbox retry 1-42")
async def retry(out: Output, bus: Bus, service: Service, row: Row) -> None:
    """Take up a row now, also one that was put aside."""
    async with service.client(bus) as client:
        await client.retry_outbox(row)
    out.show(m.Empty(), "taken up")


@command(app, "delete", example="dwarf-nats outbox delete 1-42")
async def delete(out: Output, bus: Bus, service: Service, row: Row) -> None:
    """Remove a row: no flow comes of it."""
    async with service.client(bus) as client:
        await client.delete_outbox(row)
    out.show(m.Empty(), "deleted")
