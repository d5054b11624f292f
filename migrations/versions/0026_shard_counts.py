"""The numbers of shards that a deployment has had; messages and rows of outboxes whose flows lie on other shards (O17, R1).

The homes of idempotency keys and receipts follow from these numbers.
"""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    "alter table dwarf_deployment add column counts text not null default ''",
    # Of keys and receipts that are there already nobody knows with how many shards they were placed: 0 stands for that.
    "update dwarf_deployment set counts = '0' where exists (select 1 from dwarf_keys)"
    " or exists (select 1 from dwarf_flows where idempotency_key <> '') or exists (select 1 from dwarf_received)",
    "update dwarf_deployment set counts = counts || case when counts = '' then '' else ' ' end || cast(shards as text)"
    " where shards > 0",
    "alter table dwarf_received add column shard integer not null default 0",
)
POSTGRES = ("alter table dwarf_outbox add column sent_away integer not null default 0",)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS + (POSTGRES if connection.dialect.name == "postgresql" else ()):
        connection.exec_driver_sql(statement)
