"""Traces: a flow carries the context of its root span, as `traceparent` and, after a blank, `tracestate` (T2)."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
old_replicas_may_stay = True


def upgrade() -> None:
    op.get_bind().exec_driver_sql("alter table dwarf_flows add column trace text not null default ''")
