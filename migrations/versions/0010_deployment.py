"""What all replicas agree on, and the idempotency keys that are taken.

`dwarf_deployment` has one row: the deployment this database belongs to, which of its shards it is, and how many shards are
agreed on (0: not yet). `dwarf_keys` has a row for each idempotency key whose home is this shard: the flow that has it, on
shard `shard` (0: here). `dwarf_placed` has a row for each flow made here under a key whose home is another shard. `gone` there:
0 no, 1 deleted or never to be made, 2 the same, and the home knows.

A flow is listed by when it was first created, which a restart does not change; `restarted_at` is what is shown then.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
old_replicas_may_stay = False

STATEMENTS = """
create table dwarf_deployment (
  one int primary key,
  deployment text not null,
  shard int not null,
  shards int not null
);

create table dwarf_keys (
  fairness_key text not null,
  idempotency_key text not null,
  shard int not null,
  flow_id bigint not null,
  token text not null,
  request_digest text not null,
  created_at bigint not null,
  primary key (fairness_key, idempotency_key)
);

create table dwarf_placed (
  flow_id bigint primary key,
  fairness_key text not null,
  idempotency_key text not null,
  gone int not null,
  updated_at bigint not null
);

create index dwarf_placed_gone on dwarf_placed (updated_at) where gone > 0;

insert into dwarf_keys
select fairness_key, idempotency_key, 0, flow_id, token, request_digest, created_at from dwarf_flows
where idempotency_key <> '';

alter table dwarf_replicas add column shards int not null default 0;

alter table dwarf_flows add column restarted_at bigint
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        op.get_bind().exec_driver_sql(statement)
