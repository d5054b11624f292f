"""Large fields are stored once: a row names the steps that hold those fields of its state which it does not hold itself."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
old_replicas_may_stay = False


def upgrade() -> None:
    op.get_bind().exec_driver_sql("alter table dwarf_steps add column borrowed text")
    op.get_bind().exec_driver_sql("alter table dwarf_flows add column final_borrowed text")
