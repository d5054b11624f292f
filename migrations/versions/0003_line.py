"""The line of due steps.

A pending step whose row was last written when it was due already is ripe; the others sleep. Each kind has partial
indexes of its own, so that what is due later is in nobody's way.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
old_replicas_may_stay = False

STATEMENTS = """
drop index dwarf_steps_due;
drop index dwarf_steps_next;
create index dwarf_steps_ripe on dwarf_steps (priority, fairness_key, not_before, step_id)
  where status = 'pending' and parked = 0 and not_before <= updated_at;
create index dwarf_steps_lane on dwarf_steps (priority, fairness_key, url, not_before, step_id)
  where status = 'pending' and parked = 0 and not_before <= updated_at;
create index dwarf_steps_asleep on dwarf_steps (not_before)
  where status = 'pending' and parked = 0 and not_before > updated_at
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        op.get_bind().exec_driver_sql(statement)
