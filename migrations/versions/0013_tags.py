"""Tags of flows, and the table by which flows are found by them (Q1)."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
old_replicas_may_stay = True


def upgrade() -> None:
    connection = op.get_bind()
    postgres = connection.dialect.name == "postgresql"
    # Compared byte by byte: shorter to compare and to keep than in the order of a language.
    collation, storage = (' collate "C"', "") if postgres else ("", " without rowid")
    connection.exec_driver_sql("alter table dwarf_flows add column tags text")
    connection.exec_driver_sql(
        f"create table dwarf_tags (tag text{collation} not null, created_at bigint not null, flow_id bigint not null,"
        f" primary key (tag, created_at, flow_id)){storage}"
    )
