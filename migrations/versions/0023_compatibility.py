"""The oldest replicas that may run on this schema, so that one which is older stops by itself.

`store.migrate` writes it after each upgrade, from what the revisions say of themselves.
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None
old_replicas_may_stay = True


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        "create table dwarf_compatibility (one int not null primary key, oldest_revision text not null)"
    )
