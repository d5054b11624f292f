"""What each retention rule has removed, and when it was last carried out (M2)."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    "create table dwarf_retention (name text not null, removed bigint not null, last_run bigint, primary key (name))",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
