"""Holds: which steps are parked because a task or a workflow is on hold."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENT = """
create table dwarf_on_hold (
  hold text not null,
  step_id bigint not null,
  primary key (hold, step_id)
)
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(STATEMENT)
