"""Limits: counts and permits in the database of shard 1, and on every shard the steps that wait for one.

`dwarf_steps.parked` may be 4 from here on: the step waits for a limit, and its row in `dwarf_limit_waits` says for which.
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = """
create table dwarf_limit_counts (
  slot text not null,
  name text not null,
  running bigint not null,
  reserved bigint not null,
  tokens double precision,
  at bigint not null,
  primary key (slot)
);

create index dwarf_limit_counts_unused on dwarf_limit_counts (at) where running = 0;

create table dwarf_permits (
  permit text not null,
  name text not null,
  slot text not null,
  shard integer not null,
  holder bigint not null,
  of_flow integer not null,
  generation bigint not null,
  started integer not null,
  primary key (permit)
);

create table dwarf_limit_waits (
  step_id bigint not null,
  name text not null,
  slot text not null,
  because text not null,
  priority integer not null,
  fairness_key text not null,
  turn double precision not null,
  since bigint not null,
  primary key (step_id)
);

create index dwarf_limit_waits_turns on dwarf_limit_waits (name, slot, priority, turn, step_id);

create index dwarf_limit_waits_keys on dwarf_limit_waits (slot, priority, fairness_key, turn)
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        op.get_bind().exec_driver_sql(statement)
