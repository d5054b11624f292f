-- Made by `python -m dwarf_nats.store.schema` from a migrated database; do not edit.
-- Times are microseconds since the epoch on the database's clock, unless the name says otherwise. JSON is text.

-- Flows, one row each. A flow that a step of another flow called (its surgraph) lies on the same shard.
create table dwarf_flows (
  flow_id bigint,
  token text not null,  -- the secret part of the flow's key
  workflow text not null,
  graph_digest text not null,  -- the graph it was created with (dwarf_graphs)
  status text not null,  -- created, running, interrupted, completed, failed or cancelled
  thread_id bigint not null,  -- the first flow of its thread: itself, or the flow that it continues
  thread_token text not null,
  surgraph_flow_id bigint,  -- the flow that called it
  surgraph_step_id bigint,  -- the step that called it, and waits for it
  priority int not null,  -- 1 is the best
  fairness_key text not null,  -- flows of one priority share workers by these keys, in proportion to their weights
  fairness_weight double precision not null,
  start_at bigint,  -- its entry step is not due before
  time_budget_ms bigint,  -- time that a task may take; null: the engine's setting
  baggage text not null,  -- JSON of the caller, handed on to tasks
  notify text not null,  -- who hears that it stopped
  idempotency_key text not null,  -- empty if it has none (dwarf_keys)
  request_digest text not null,  -- of the request with that key, to tell a repetition from another request
  delete_on_completion int not null,
  final_state text,  -- JSON; null in place of a large field that final_borrowed refers to
  error text,  -- JSON, if it failed
  cancel_reason text,
  created_at bigint not null,
  started_at bigint,
  updated_at bigint not null,  -- of the last change of its status; grows with each
  root_id bigint not null default 0,  -- the root of its tree: itself, or the flow at the top of those that called it
  breakpoints text,  -- JSON list of nodes before which it pauses
  final_borrowed text,  -- JSON: large field -> the step that holds its value
  trace text not null default '',  -- the context of its root span: traceparent and, after a blank, tracestate
  restarted_at bigint,  -- shown as its creation time, if it was restarted
  compensating text,  -- the status it takes once its completed steps, and those of flows it called, are compensated
  compensable int not null default 0,  -- 1: flows that it called have completed, and may have to be compensated with it
  tags text,  -- JSON object, if it has some; a flow that was called has those of its root (dwarf_tags)
  primary key (flow_id)
);
create index dwarf_flows_called on dwarf_flows (surgraph_flow_id)
  where surgraph_flow_id is not null and status in ('created', 'running', 'interrupted');
create index dwarf_flows_compensating on dwarf_flows (root_id)
  where compensating is not null;
create index dwarf_flows_going on dwarf_flows (updated_at)
  where status = 'running';
create index dwarf_flows_graph on dwarf_flows (graph_digest);
create unique index dwarf_flows_idempotency on dwarf_flows (fairness_key, idempotency_key)
  where idempotency_key <> '';
create index dwarf_flows_leaving on dwarf_flows (updated_at)
  where delete_on_completion = 1 and status = 'completed';
create index dwarf_flows_newest on dwarf_flows (created_at, flow_id);
create index dwarf_flows_stopped on dwarf_flows (status, created_at, flow_id)
  where status in ('interrupted', 'failed', 'cancelled') and surgraph_step_id is null;
create index dwarf_flows_thread on dwarf_flows (thread_id);
create index dwarf_flows_tree on dwarf_flows (root_id, surgraph_step_id)
  where surgraph_flow_id is not null;
create index dwarf_flows_unstarted on dwarf_flows (status, created_at, flow_id)
  where status = 'created' and surgraph_step_id is null;

-- Steps: one execution of a node of a flow each. Pending steps are the queue: ready if they were due when their row
-- was last written (not_before <= updated_at), else scheduled; each kind has partial indexes of its own.
create table dwarf_steps (
  step_id bigint,
  flow_id bigint not null,
  depth int not null,  -- its place in the flow's order, with step_id
  token text not null,  -- the secret part of the step's key
  node text not null,
  url text not null,  -- the task of the node
  state text not null,  -- its input, JSON; null in place of a large field that borrowed refers to
  changes text not null default '{}',  -- what its task changed, JSON
  status text not null,  -- created, pending, running, interrupted, completed, failed or cancelled
  parked int not null default 0,  -- 0: no, 1: it waits for its child flow, 2: the circuit breaker of its task is tripped, 3: it waits for an event, 4: it waits for a limit (dwarf_limit_waits), 5: it is on hold (dwarf_on_hold)
  attempt int not null default 0,  -- retries so far
  lease_seq int not null default 0,  -- the generation of its claim; a result of an older one is dropped
  claimed_by bigint,  -- the replica that runs it (dwarf_replicas)
  lease_expires bigint,  -- when it may be taken from that replica
  not_before bigint not null,  -- when it is due
  priority int not null,  -- of its flow, as the two that follow
  fairness_key text not null,
  fairness_weight double precision not null,
  error text,  -- JSON, if it failed
  predecessor_id bigint,
  successor_id bigint,  -- the step that followed; a step that fanned out has none
  spawn_id bigint not null default 0,  -- the step that fanned out to its cohort; 0 outside one
  ordinal int not null default 0,  -- its branch in the cohort, from 0
  arrived int not null default 0,  -- 1: the last step of its branch
  cohort_size int,  -- branches that it fanned out to
  arrivals int not null default 0,  -- branches that have arrived
  failures int not null default 0,  -- branches that have failed
  cohort_error text,  -- JSON, of the first failed branch
  created_at bigint not null,
  started_at bigint,
  updated_at bigint not null,
  interrupt_payload text,  -- JSON, while it is interrupted by its task
  resumed text,  -- JSON that it was resumed with
  subgraph_result text,  -- JSON: the final state of the child flow it waited for
  subgraph_error text,  -- JSON: the error of a child that has none
  parked_changes text,  -- its changes at the time it began to wait for a child
  breakpoint_hit int not null default 0,  -- 1: it has paused at its breakpoint
  borrowed text,  -- JSON: large field -> the step that holds its value
  problems text,  -- JSON list: conditions that could not be evaluated when it ended
  wait_event text,  -- the event it waits for, while parked is 3, or waited for last
  wait_key text,  -- and its key
  wait_until bigint,  -- the deadline of that wait, or of its interrupt
  event text,  -- JSON: how its wait for an event ended
  interrupt_timed_out int not null default 0,  -- 1: the deadline of its interrupt passed
  compensates bigint,  -- the completed step that it compensates
  reruns int not null default 0,  -- operations that made it run again: restart and restart_from
  copied_from bigint,  -- the step of which a fork made this copy, which is not compensated with the copy
  attempts text,  -- JSON list: earlier attempts that failed, with their errors and times
  progress text,  -- JSON: the last progress that its worker reported before it completed
  progress_at bigint,  -- when that was
  primary key (step_id)
);
create index dwarf_steps_asleep on dwarf_steps (not_before)
  where status = 'pending' and parked = 0 and not_before > updated_at;
create index dwarf_steps_cohort on dwarf_steps (spawn_id)
  where spawn_id <> 0;
create index dwarf_steps_compensations on dwarf_steps (flow_id, status, step_id)
  where compensates is not null;
create index dwarf_steps_deadlines on dwarf_steps (wait_until, step_id)
  where wait_until is not null and (parked = 3 or status = 'interrupted');
create index dwarf_steps_events on dwarf_steps (wait_event, wait_key, step_id)
  where parked = 3;
create index dwarf_steps_flow on dwarf_steps (flow_id, depth, step_id);
create index dwarf_steps_held on dwarf_steps (claimed_by, lease_expires)
  where status = 'running' and parked = 0;
create index dwarf_steps_lane on dwarf_steps (priority, fairness_key, url, not_before, step_id)
  where status = 'pending' and parked = 0 and not_before <= updated_at;
create index dwarf_steps_parked on dwarf_steps (url, not_before, step_id)
  where parked = 2;
create index dwarf_steps_paused on dwarf_steps (flow_id, updated_at, step_id)
  where status = 'interrupted';
create index dwarf_steps_ripe on dwarf_steps (priority, fairness_key, not_before, step_id)
  where status = 'pending' and parked = 0 and not_before <= updated_at;
create index dwarf_steps_waiting on dwarf_steps (step_id)
  where parked = 1;

-- The tags of root flows, one row each: flows are found by them, newest first.
create table dwarf_tags (
  tag text not null,  -- name=value
  created_at bigint not null,  -- of the flow
  flow_id bigint not null,
  primary key (tag, created_at, flow_id)
);

-- Graphs in canonical JSON, each once; removed when no flow and no name uses them.
create table dwarf_graphs (
  digest text,  -- SHA-256 of the body, in hex
  body text not null,
  kept_until bigint not null default 0,  -- until then a flow may be created without saving the graph again
  doomed bigint,  -- the transaction that found it unused
  primary key (digest)
);
create index dwarf_graphs_doomed on dwarf_graphs (digest)
  where doomed is not null;

-- The graph registry: names of workflows, on every shard.
create table dwarf_registry (
  name text,
  digest text not null,
  updated_at bigint not null,
  primary key (name)
);
create index dwarf_registry_digest on dwarf_registry (digest);

-- Schedules of workflows; used on shard 1.
create table dwarf_schedules (
  name text,
  workflow text not null,
  body text not null,  -- JSON, as it was put
  paused int not null default 0,
  gone int not null default 0,  -- 1 if it is deleted once the due time that is being fired is done with
  due_at bigint,  -- the due time that fires next; null: none, or paused
  fire_at bigint,  -- due_at with its jitter
  wake_at bigint,  -- when a replica must look at it
  fired_at bigint,  -- since when a due time is being fired
  attempts int not null default 0,  -- how often that was begun
  flow_key text,  -- the flow that was created for the due time flow_due, and may not be started yet; with 'planned ' before it one that may not be created yet
  flow_due bigint,
  last_due bigint,  -- the youngest due time that is done with
  queued_at bigint,  -- a due time that waits for the flow of the last run to end
  last_flow text,  -- the key of the flow of the last run
  runs text not null default '[]',  -- JSON: the last ten runs, the newest first
  claim bigint not null default 0,  -- rises when a replica takes it to fire it
  version bigint not null default 1,  -- rises with each change
  created_at bigint not null,
  updated_at bigint not null,
  primary key (name)
);
create index dwarf_schedules_fire on dwarf_schedules (fire_at)
  where fire_at is not null;
create index dwarf_schedules_wake on dwarf_schedules (wake_at)
  where wake_at is not null;
create index dwarf_schedules_workflow on dwarf_schedules (workflow, name);

-- Documents that steer the deployment, by kind and name, on shard 1.
create table dwarf_definitions (
  kind text not null,
  name text not null,
  body text not null,  -- a JSON object
  updated_at bigint not null,
  primary key (kind, name)
);

-- Steps that are parked because a task or a workflow is on hold.
create table dwarf_on_hold (
  hold text not null,  -- the hold: task:url or workflow:name
  step_id bigint not null,
  primary key (hold, step_id)
);

-- Tasks whose circuit breaker is tripped: their steps are parked.
create table dwarf_tripped (
  url text,  -- the task
  cause text not null,
  tripped_at bigint not null,
  primary key (url)
);

-- Limits, in the database of shard 1: what is counted, one row for each limit and key that was used.
create table dwarf_limit_counts (
  slot text not null,  -- limit/key
  name text not null,
  running bigint not null,  -- permits (dwarf_permits), the reserved ones included
  reserved bigint not null,  -- permits whose holders have not begun
  tokens double precision,  -- beginnings that the rate allowed at that time; null: all it allows after a pause
  at bigint not null,
  primary key (slot)
);
create index dwarf_limit_counts_unused on dwarf_limit_counts (at)
  where running = 0;

-- Permits of limits, in the database of shard 1: steps and flows that are counted.
create table dwarf_permits (
  permit text not null,  -- limit/s<shard>-<step>, or limit/f<shard>-<flow>
  name text not null,
  slot text not null,
  shard integer not null,
  holder bigint not null,  -- the step or flow
  of_flow integer not null,
  generation bigint not null,  -- of a step its lease_seq, of a flow its updated_at: it is over with that
  started integer not null,  -- 0: reserved
  primary key (permit)
);

-- Steps that wait for a limit: the queue of each slot, in the order of priority and turn.
create table dwarf_limit_waits (
  step_id bigint not null,
  name text not null,
  slot text not null,
  because text not null,  -- limit or rate
  priority integer not null,
  fairness_key text not null,
  turn double precision not null,  -- virtual time: fair to the fairness keys of a priority
  since bigint not null,
  primary key (step_id)
);
create index dwarf_limit_waits_keys on dwarf_limit_waits (slot, priority, fairness_key, turn);
create index dwarf_limit_waits_turns on dwarf_limit_waits (name, slot, priority, turn, step_id);

-- Replicas of the engine that live, or died not long ago.
create table dwarf_replicas (
  replica_id bigint,
  name text not null,
  seen_at bigint not null,  -- of its last heartbeat
  shards int not null default 0,  -- how many shards it knows
  bus_away_since bigint,  -- since when it holds its steps because NATS is away; null if it does not
  primary key (replica_id)
);

-- One row: what this database is, and what the replicas agree on.
create table dwarf_deployment (
  one int,  -- 1
  deployment text not null,  -- the name of the deployment
  shard int not null,  -- the number of this shard in it, from 1
  shards int not null,  -- the agreed number of shards; 0: not yet
  definitions bigint not null default 0,  -- how often definitions have changed
  counts text not null default '',  -- the numbers agreed on so far, such as '2 3'; 0 among them: keys may lie on any shard
  primary key (one)
);

-- Idempotency keys whose home is this shard, and the flows that have them.
create table dwarf_keys (
  fairness_key text not null,
  idempotency_key text not null,
  shard int not null,  -- of the flow; 0: this one
  flow_id bigint not null,
  token text not null,
  request_digest text not null,
  created_at bigint not null,
  primary key (fairness_key, idempotency_key)
);

-- Flows made here under a key whose home is another shard.
create table dwarf_placed (
  flow_id bigint,
  fairness_key text not null,
  idempotency_key text not null,
  gone int not null,  -- 0: no, 1: deleted, or never to be made, 2: the same, and the home of the key knows
  updated_at bigint not null,
  primary key (flow_id)
);
create index dwarf_placed_gone on dwarf_placed (updated_at)
  where gone > 0;

-- Events whose home is this shard: kept for a step to come, remembered for a repetition of their id, or under way to
-- the other shards.
create table dwarf_events (
  event text not null,
  key text not null,  -- an event goes to the steps that wait for it with this key
  number bigint not null,  -- the order in which the events of one name and key came
  id text not null,  -- the caller's, or one that was made up
  repeatable int not null,  -- 1: the id is the caller's
  data text not null,  -- JSON; empty once it is handed out
  at bigint not null,
  keep_until bigint not null,  -- until then it waits for a step, and its id counts once
  state text not null,  -- open: not all shards were visited, kept, reserved: for a step of another shard, or done
  delivered bigint,  -- how many steps received it, as it was answered first
  kept int,  -- 1: it was answered that the event is kept
  visited text not null default '{}',  -- JSON: shard -> steps there that received it
  turn int not null default 0,  -- how often it was reserved
  shard int,  -- the shard it is reserved for
  touched_at bigint,  -- when a replica last took up what is left to do; null if nothing is
  primary key (event, key, number)
);
create unique index dwarf_events_ids on dwarf_events (event, key, id);
create index dwarf_events_kept on dwarf_events (event, key, number)
  where state = 'kept';
create index dwarf_events_old on dwarf_events (keep_until);
create index dwarf_events_unfinished on dwarf_events (touched_at)
  where touched_at is not null;

-- What was done here with an event of another shard, so that nothing is done twice.
create table dwarf_event_visits (
  event text not null,
  key text not null,
  id text not null,
  turn int not null,  -- 0: the visit to all who wait; else the number of the reservation
  delivered bigint not null,  -- steps that received it
  at bigint not null,
  primary key (event, key, id, turn)
);
create index dwarf_event_visits_old on dwarf_event_visits (at);

-- Steps here that began to wait: whether other shards keep an event for them is still to be asked.
create table dwarf_event_asks (
  step_id bigint not null,
  lease_seq int not null,  -- of the step when it began to wait
  event text not null,
  key text not null,
  touched_at bigint not null,  -- when a replica last took that up
  primary key (step_id, lease_seq)
);
create index dwarf_event_asks_old on dwarf_event_asks (touched_at);

-- What was done to flows of this shard, and on shard 1 to all else, and by whom; removed after a time.
create table dwarf_audit (
  at bigint not null,
  number bigint not null,  -- made at random, so that a record is written once
  operation text not null,  -- the subject without its prefix
  flow_id bigint,  -- the flow it was about
  name text not null,  -- of what it was about, if that is no flow
  actor text not null,  -- who asked, as far as is known
  reason text not null,
  code int not null,  -- of the refusal; 0: it was carried out, -1: it was begun, and nobody knows how it ended
  message text not null,  -- of the refusal
  details text not null,  -- JSON object: what was asked, and what came of it; empty if there are none
  primary key (at, number)
);
create index dwarf_audit_actor on dwarf_audit (actor, at, number);
create index dwarf_audit_flow on dwarf_audit (flow_id, at, number)
  where flow_id is not null;
create index dwarf_audit_operation on dwarf_audit (operation, at, number);

-- What each retention rule has removed here.
create table dwarf_retention (
  name text not null,
  removed bigint not null,  -- root flows so far
  last_run bigint,  -- when it was last carried out to the end
  primary key (name)
);

-- Messages of sources that started flows, remembered for two days, also when the flow is gone.
create table dwarf_received (
  scope bigint not null,  -- a hash of source, stream and creation time of the stream
  sequence bigint not null,  -- of the message in the stream
  flow_id bigint not null,
  received_at bigint not null,
  shard integer not null default 0,  -- 0: the message was used here; else the shard that decides whether it is used
  primary key (scope, sequence)
);
create index dwarf_received_old on dwarf_received (received_at);

-- How far sources have come, in the database of shard 1.
create table dwarf_source_progress (
  source text not null,
  origin text not null,  -- the stream and its creation time; empty for a source without a stream
  floor bigint not null,  -- all messages up to this sequence are dealt with
  rejected bigint not null,  -- messages that could not be used
  last_error text,
  last_error_at bigint,
  updated_at bigint not null,
  primary key (source, origin)
);

-- The next id of each kind: flow, step and replica; taken in blocks.
create table dwarf_ids (
  kind text,
  next bigint not null,
  primary key (kind)
);

-- One row: which replicas may run on this schema.
create table dwarf_compatibility (
  one int not null,  -- 1
  oldest_revision text not null,  -- a replica that does not know this revision stops claiming
  primary key (one)
);

-- The newest migration that was applied.
create table dwarf_schema (
  version_num varchar(32) not null,
  primary key (version_num)
);
