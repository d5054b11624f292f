"""Audit records: who did what, found newest first by flow, actor or operation (M3)."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    "create table dwarf_audit (at bigint not null, number bigint not null, operation text not null, flow_id bigint,"
    " name text not null, actor text not null, reason text not null, code int not null, message text not null,"
    " details text not null, primary key (at, number))",
    "create index dwarf_audit_flow on dwarf_audit (flow_id, at, number) where flow_id is not null",
    "create index dwarf_audit_actor on dwarf_audit (actor, at, number)",
    "create index dwarf_audit_operation on dwarf_audit (operation, at, number)",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
