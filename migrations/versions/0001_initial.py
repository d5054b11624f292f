"""Flows, steps, graphs and replicas.

Times are microseconds since the epoch on the database's clock. JSON is kept as text: neither database is asked to look
inside, and a NUL escaped in a string is stored like any other character.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
old_replicas_may_stay = False

TABLES = """
create table dwarf_graphs (
  digest text primary key,
  body text not null
);

create table dwarf_registry (
  name text primary key,
  digest text not null,
  updated_at bigint not null
);

create table dwarf_replicas (
  replica_id bigint primary key,
  name text not null,
  seen_at bigint not null
);

create table dwarf_flows (
  flow_id bigint primary key,
  token text not null,
  workflow text not null,
  graph_digest text not null,
  status text not null,
  thread_id bigint not null,
  thread_token text not null,
  surgraph_flow_id bigint,
  surgraph_step_id bigint,
  priority int not null,
  fairness_key text not null,
  fairness_weight double precision not null,
  start_at bigint,
  time_budget_ms bigint,
  baggage text not null,
  notify text not null,
  idempotency_key text not null,
  request_digest text not null,
  delete_on_completion int not null,
  final_state text,
  error text,
  cancel_reason text,
  created_at bigint not null,
  started_at bigint,
  updated_at bigint not null
) {flows_storage};

create unique index dwarf_flows_idempotency on dwarf_flows (fairness_key, idempotency_key) where idempotency_key <> '';
create index dwarf_flows_newest on dwarf_flows (created_at, flow_id);
create index dwarf_flows_thread on dwarf_flows (thread_id);
create index dwarf_flows_leaving on dwarf_flows (updated_at) where delete_on_completion = 1 and status = 'completed';

create table dwarf_steps (
  step_id bigint primary key,
  flow_id bigint not null,
  depth int not null,
  token text not null,
  node text not null,
  url text not null,
  state text not null,
  changes text not null default '{{}}',
  status text not null,
  parked int not null default 0,
  attempt int not null default 0,
  lease_seq int not null default 0,
  claimed_by bigint,
  lease_expires bigint,
  not_before bigint not null,
  priority int not null,
  fairness_key text not null,
  fairness_weight double precision not null,
  error text,
  predecessor_id bigint,
  successor_id bigint,
  spawn_id bigint not null default 0,
  ordinal int not null default 0,
  arrived int not null default 0,
  cohort_size int,
  arrivals int not null default 0,
  failures int not null default 0,
  cohort_error text,
  created_at bigint not null,
  started_at bigint,
  updated_at bigint not null
) {steps_storage};

create index dwarf_steps_flow on dwarf_steps (flow_id);
create index dwarf_steps_cohort on dwarf_steps (spawn_id) where spawn_id <> 0;
create index dwarf_steps_due on dwarf_steps (priority, not_before, step_id) where status = 'pending' and parked = 0;
create index dwarf_steps_next on dwarf_steps (not_before) where status = 'pending' and parked = 0;
create index dwarf_steps_held on dwarf_steps (claimed_by, lease_expires) where status = 'running'
"""

POSTGRES = """
create sequence dwarf_flow_ids start 1 increment 1000;
create sequence dwarf_step_ids start 1 increment 5000;
create sequence dwarf_replica_ids
"""

SQLITE = """
create table dwarf_ids (kind text primary key, next bigint not null);
insert into dwarf_ids values ('flow', 1), ('step', 1), ('replica', 1)
"""

# A queue table turns over many times a day: vacuum by count rather than by share, and leave room for updates in place.
QUEUE = "with (fillfactor = {fill}, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, \
autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1)"


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    tables = TABLES.format(
        flows_storage=QUEUE.format(fill=80) if postgres else "",
        steps_storage=QUEUE.format(fill=70) if postgres else "",
    )
    for statement in (tables + ";" + (POSTGRES if postgres else SQLITE)).split(";"):
        if statement.strip():
            op.get_bind().exec_driver_sql(statement)
