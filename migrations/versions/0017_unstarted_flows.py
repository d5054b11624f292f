"""Flows that were created and not started are listed without reading all others (O9)."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    # A flow that is created and started at once is never in it.
    "create index dwarf_flows_unstarted on dwarf_flows (status, created_at, flow_id)"
    " where status = 'created' and surgraph_step_id is null",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
