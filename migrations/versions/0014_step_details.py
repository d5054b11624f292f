"""Attempts of steps that failed, and the progress that workers report (L3, B7)."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    "alter table dwarf_steps add column attempts text",
    "alter table dwarf_steps add column progress text",
    "alter table dwarf_steps add column progress_at bigint",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
