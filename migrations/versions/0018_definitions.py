"""Definitions: small named documents that steer the deployment, in the database of shard 1.

`dwarf_deployment.definitions` counts their changes: a replica reads that number again and again, and the documents only when it
has changed.
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = """
create table dwarf_definitions (
  kind text not null,
  name text not null,
  body text not null,
  updated_at bigint not null,
  primary key (kind, name)
);

alter table dwarf_deployment add column definitions bigint not null default 0
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        op.get_bind().exec_driver_sql(statement)
