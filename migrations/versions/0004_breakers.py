"""Breakers: the tasks that are tripped, and an index of the steps parked for them."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
old_replicas_may_stay = False

CHANGES = """
create table dwarf_tripped (
  url text primary key,
  cause text not null,
  tripped_at bigint not null
);
create index dwarf_steps_parked on dwarf_steps (url, not_before, step_id) where parked = 2
"""


def upgrade() -> None:
    for statement in CHANGES.split(";"):
        op.get_bind().exec_driver_sql(statement)
