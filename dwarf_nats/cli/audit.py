"""`dwarf-nats audit list`: who did what (M3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from msgspec import UNSET
from rich.table import Table

from dwarf_nats.cli.arguments import Cursor
from dwarf_nats.cli.command import command, new_app, option_group
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, table
from dwarf_nats.sdk import AuditQuery, AuditRecord
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.audits import audit_message, audit_outcome
from dwarf_nats.workflow.keys import without_tokens

app = new_app("The audit trail: who did what, and when.")


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="audit")


@option_group("Filters")
@dataclass(slots=True, frozen=True)
class Filters:
    """Filters of the list; all must hold."""

    flow: Annotated[str | None, typer.Option(metavar="FLOW", help="What was done to this flow: id or key.")] = None
    by: Annotated[str | None, typer.Option("--by", metavar="ACTOR", help="What this actor did.")] = None
    operation: Annotated[
        str | None, typer.Option(metavar="NAME", help="The subject without its prefix: flow.cancel.")
    ] = None
    older_than_ms: Annotated[int | None, typer.Option(min=0, help="Only what is older.")] = None
    newer_than_ms: Annotated[int | None, typer.Option(min=0, help="Only what is newer.")] = None
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Records of one page.")] = 100

    def query(self) -> AuditQuery:
        """The filters as the client takes them; a key counts as its id."""
        return AuditQuery(
            flow_id=without_tokens(self.flow) if self.flow is not None else None,
            actor=self.by,
            operation=self.operation,
            older_than_ms=self.older_than_ms,
            newer_than_ms=self.newer_than_ms,
            limit=self.limit,
        )


@command(
    app,
    "list",
    short="Operations that steered or were refused, newest first.",
    example="dwarf-nats audit list --flow 1-42\ndwarf-nats audit list --by ada@build-7 --newer-than 7d",
)
async def list_(
    out: Output,
    bus: Bus,
    service: Service,
    filters: Filters,
    cursor: Cursor = "",
) -> None:
    """List audit records, newest first: when, which operation, on what, by whom, why, and whether it was carried out.

    Operations that read, create or start flows leave no record; a flow itself tells of them.
    """
    async with service.client(bus) as client:
        records, following = await client.list_audit(filters.query(), cursor)
    reply = m.AuditListReply(records=[audit_message(one) for one in records], cursor=following or UNSET)
    shown = [audit_view(records)] if records else ["no records"]
    out.show(reply, *shown, *([f"more: --cursor {following}"] if following else []))


def audit_view(records: Sequence[AuditRecord]) -> Table:
    """Records in a table."""
    rows = [
        (
            day_and_clock(one.at),
            one.operation,
            one.flow_id or one.name,
            one.actor,
            f"{one.code}: {one.message}" if one.code > 0 else audit_outcome(one),
            _why(one),
        )
        for one in records
    ]
    return table(("at", "operation", "on", "by", "outcome", "why"), rows)


def _why(record: AuditRecord) -> str:
    """The reason that was given, and the details."""
    details = ", ".join(f"{name} {value}" for name, value in record.details.items() if str(value) != record.name)
    return "; ".join(filter(None, (record.reason, details)))
