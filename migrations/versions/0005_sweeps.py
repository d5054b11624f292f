"""What the sweeps look for is found by index, however much history there is (B5)."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
old_replicas_may_stay = False

CHANGES = """
create index dwarf_steps_waiting on dwarf_steps (step_id) where parked = 1;
create index dwarf_flows_called on dwarf_flows (surgraph_flow_id)
  where surgraph_flow_id is not null and status in ('created', 'running', 'interrupted');
create index dwarf_flows_going on dwarf_flows (updated_at) where status = 'running'
"""


def upgrade() -> None:
    for statement in CHANGES.split(";"):
        op.get_bind().exec_driver_sql(statement)
