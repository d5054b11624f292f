"""Problems: what a step's conditions could not be evaluated for, a JSON list of texts; nothing where there are none (G9)."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
old_replicas_may_stay = True


def upgrade() -> None:
    op.get_bind().exec_driver_sql("alter table dwarf_steps add column problems text")
