"""Flows that failed, were cancelled or wait for a person are listed without reading all others (O9)."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    # Root flows of the statuses that people look for. No flow that runs and completes is ever in it.
    "create index dwarf_flows_stopped on dwarf_flows (status, created_at, flow_id)"
    " where status in ('interrupted', 'failed', 'cancelled') and surgraph_step_id is null",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
