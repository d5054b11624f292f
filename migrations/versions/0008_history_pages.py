"""A page of a history is read by index, however many steps the flow has: the index of a flow's steps has their order (O7)."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = """
drop index dwarf_steps_flow;
create index dwarf_steps_flow on dwarf_steps (flow_id, depth, step_id)
"""


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS.split(";"):
        connection.exec_driver_sql(statement)
