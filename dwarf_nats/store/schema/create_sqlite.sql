-- Made by `python -m dwarf_nats.store.schema` from the migrations; do not edit. An empty database gets these statements.
CREATE TABLE dwarf_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT dwarf_schema_pkc PRIMARY KEY (version_num)
);
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
);
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
  changes text not null default '{}',
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
);
create index dwarf_steps_flow on dwarf_steps (flow_id);
create index dwarf_steps_cohort on dwarf_steps (spawn_id) where spawn_id <> 0;
create index dwarf_steps_due on dwarf_steps (priority, not_before, step_id) where status = 'pending' and parked = 0;
create index dwarf_steps_next on dwarf_steps (not_before) where status = 'pending' and parked = 0;
create index dwarf_steps_held on dwarf_steps (claimed_by, lease_expires) where status = 'running';
create table dwarf_ids (kind text primary key, next bigint not null);
insert into dwarf_ids values ('flow', 1), ('step', 1), ('replica', 1);
alter table dwarf_flows add column root_id bigint not null default 0;
alter table dwarf_flows add column breakpoints text;
update dwarf_flows set root_id = flow_id;
create index dwarf_flows_tree on dwarf_flows (root_id, surgraph_step_id) where surgraph_flow_id is not null;
alter table dwarf_steps add column interrupt_payload text;
alter table dwarf_steps add column resumed text;
alter table dwarf_steps add column subgraph_result text;
alter table dwarf_steps add column subgraph_error text;
alter table dwarf_steps add column parked_changes text;
alter table dwarf_steps add column breakpoint_hit int not null default 0;
drop index dwarf_steps_due;
drop index dwarf_steps_next;
create index dwarf_steps_ripe on dwarf_steps (priority, fairness_key, not_before, step_id)
  where status = 'pending' and parked = 0 and not_before <= updated_at;
create index dwarf_steps_lane on dwarf_steps (priority, fairness_key, url, not_before, step_id)
  where status = 'pending' and parked = 0 and not_before <= updated_at;
create index dwarf_steps_asleep on dwarf_steps (not_before)
  where status = 'pending' and parked = 0 and not_before > updated_at;
create table dwarf_tripped (
  url text primary key,
  cause text not null,
  tripped_at bigint not null
);
create index dwarf_steps_parked on dwarf_steps (url, not_before, step_id) where parked = 2;
create index dwarf_steps_waiting on dwarf_steps (step_id) where parked = 1;
create index dwarf_flows_called on dwarf_flows (surgraph_flow_id)
  where surgraph_flow_id is not null and status in ('created', 'running', 'interrupted');
create index dwarf_flows_going on dwarf_flows (updated_at) where status = 'running';
alter table dwarf_steps add column borrowed text;
alter table dwarf_flows add column final_borrowed text;
alter table dwarf_flows add column trace text not null default '';
drop index dwarf_steps_flow;
create index dwarf_steps_flow on dwarf_steps (flow_id, depth, step_id);
alter table dwarf_steps add column problems text;
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
alter table dwarf_flows add column restarted_at bigint;
alter table dwarf_graphs add column kept_until bigint not null default 0;
alter table dwarf_graphs add column doomed bigint;
create index dwarf_graphs_doomed on dwarf_graphs (digest) where doomed is not null;
create index dwarf_flows_graph on dwarf_flows (graph_digest);
create index dwarf_registry_digest on dwarf_registry (digest);
alter table dwarf_steps add column wait_event text;
alter table dwarf_steps add column wait_key text;
alter table dwarf_steps add column wait_until bigint;
alter table dwarf_steps add column event text;
alter table dwarf_steps add column interrupt_timed_out int not null default 0;
alter table dwarf_steps add column compensates bigint;
alter table dwarf_steps add column reruns int not null default 0;
alter table dwarf_steps add column copied_from bigint;
alter table dwarf_flows add column compensating text;
alter table dwarf_flows add column compensable int not null default 0;
drop index dwarf_steps_held;
create index dwarf_steps_held on dwarf_steps (claimed_by, lease_expires) where status = 'running' and parked = 0;
create table dwarf_events (event text not null, key text not null, number bigint not null, id text not null, repeatable int not null, data text not null, at bigint not null, keep_until bigint not null, state text not null, delivered bigint, kept int, visited text not null default '{}', turn int not null default 0, shard int, touched_at bigint, primary key (event, key, number));
create unique index dwarf_events_ids on dwarf_events (event, key, id);
create index dwarf_events_kept on dwarf_events (event, key, number) where state = 'kept';
create index dwarf_events_old on dwarf_events (keep_until);
create index dwarf_events_unfinished on dwarf_events (touched_at) where touched_at is not null;
create table dwarf_event_visits (event text not null, key text not null, id text not null, turn int not null, delivered bigint not null, at bigint not null, primary key (event, key, id, turn));
create index dwarf_event_visits_old on dwarf_event_visits (at);
create table dwarf_event_asks (step_id bigint not null, lease_seq int not null, event text not null, key text not null, touched_at bigint not null, primary key (step_id, lease_seq));
create index dwarf_event_asks_old on dwarf_event_asks (touched_at);
create index dwarf_steps_events on dwarf_steps (wait_event, wait_key, step_id) where parked = 3;
create index dwarf_steps_deadlines on dwarf_steps (wait_until, step_id) where wait_until is not null and (parked = 3 or status = 'interrupted');
create index dwarf_steps_compensations on dwarf_steps (flow_id, status, step_id) where compensates is not null;
create index dwarf_flows_compensating on dwarf_flows (root_id) where compensating is not null;
create index dwarf_steps_paused on dwarf_steps (flow_id, updated_at, step_id) where status = 'interrupted';
alter table dwarf_flows add column tags text;
create table dwarf_tags (tag text not null, created_at bigint not null, flow_id bigint not null, primary key (tag, created_at, flow_id)) without rowid;
alter table dwarf_steps add column attempts text;
alter table dwarf_steps add column progress text;
alter table dwarf_steps add column progress_at bigint;
alter table dwarf_replicas add column bus_away_since bigint;
create index dwarf_flows_stopped on dwarf_flows (status, created_at, flow_id) where status in ('interrupted', 'failed', 'cancelled') and surgraph_step_id is null;
create index dwarf_flows_unstarted on dwarf_flows (status, created_at, flow_id) where status = 'created' and surgraph_step_id is null;
create table dwarf_definitions (
  kind text not null,
  name text not null,
  body text not null,
  updated_at bigint not null,
  primary key (kind, name)
);
alter table dwarf_deployment add column definitions bigint not null default 0;
create table dwarf_audit (at bigint not null, number bigint not null, operation text not null, flow_id bigint, name text not null, actor text not null, reason text not null, code int not null, message text not null, details text not null, primary key (at, number));
create index dwarf_audit_flow on dwarf_audit (flow_id, at, number) where flow_id is not null;
create index dwarf_audit_actor on dwarf_audit (actor, at, number);
create index dwarf_audit_operation on dwarf_audit (operation, at, number);
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
create index dwarf_limit_waits_keys on dwarf_limit_waits (slot, priority, fairness_key, turn);
create table dwarf_on_hold (
  hold text not null,
  step_id bigint not null,
  primary key (hold, step_id)
);
create table dwarf_retention (name text not null, removed bigint not null, last_run bigint, primary key (name));
create table dwarf_compatibility (one int not null primary key, oldest_revision text not null);
create table dwarf_schedules (name text primary key, workflow text not null, body text not null, paused int not null default 0, gone int not null default 0, due_at bigint, fire_at bigint, wake_at bigint, fired_at bigint, attempts int not null default 0, flow_key text, flow_due bigint, last_due bigint, queued_at bigint, last_flow text, runs text not null default '[]', claim bigint not null default 0, version bigint not null default 1, created_at bigint not null, updated_at bigint not null);
create index dwarf_schedules_wake on dwarf_schedules (wake_at) where wake_at is not null;
create index dwarf_schedules_fire on dwarf_schedules (fire_at) where fire_at is not null;
create index dwarf_schedules_workflow on dwarf_schedules (workflow, name);
create table dwarf_received (scope bigint not null, sequence bigint not null, flow_id bigint not null, received_at bigint not null, primary key (scope, sequence));
create index dwarf_received_old on dwarf_received (received_at);
create table dwarf_source_progress (source text not null, origin text not null, floor bigint not null, rejected bigint not null, last_error text, last_error_at bigint, updated_at bigint not null, primary key (source, origin));
alter table dwarf_deployment add column counts text not null default '';
update dwarf_deployment set counts = '0' where exists (select 1 from dwarf_keys) or exists (select 1 from dwarf_flows where idempotency_key <> '') or exists (select 1 from dwarf_received);
update dwarf_deployment set counts = counts || case when counts = '' then '' else ' ' end || cast(shards as text) where shards > 0;
alter table dwarf_received add column shard integer not null default 0;
