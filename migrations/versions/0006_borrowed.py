"""Large fields are stored once: a step's row names the steps that hold what it does not hold itself."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql("alter table dwarf_steps add column borrowed text")
