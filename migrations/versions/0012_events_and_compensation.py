"""Steps that wait for events, deadlines of waits, compensation, and steps that run again (E1-E3, P6, N3, N9)."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    "alter table dwarf_steps add column wait_event text",
    "alter table dwarf_steps add column wait_key text",
    "alter table dwarf_steps add column wait_until bigint",
    "alter table dwarf_steps add column event text",
    "alter table dwarf_steps add column interrupt_timed_out int not null default 0",
    "alter table dwarf_steps add column compensates bigint",
    "alter table dwarf_steps add column reruns int not null default 0",
    "alter table dwarf_steps add column copied_from bigint",
    "alter table dwarf_flows add column compensating text",
    "alter table dwarf_flows add column compensable int not null default 0",
    # Steps that wait for a child or an event have no lease: what looks for leases must not read them, however many they are.
    "drop index dwarf_steps_held",
    "create index dwarf_steps_held on dwarf_steps (claimed_by, lease_expires) where status = 'running' and parked = 0",
    "create table dwarf_events (event text not null, key text not null, number bigint not null, id text not null,"
    " repeatable int not null, data text not null, at bigint not null, keep_until bigint not null, state text not null,"
    " delivered bigint, kept int, visited text not null default '{}', turn int not null default 0, shard int,"
    " touched_at bigint, primary key (event, key, number))",
    "create unique index dwarf_events_ids on dwarf_events (event, key, id)",
    "create index dwarf_events_kept on dwarf_events (event, key, number) where state = 'kept'",
    "create index dwarf_events_old on dwarf_events (keep_until)",
    "create index dwarf_events_unfinished on dwarf_events (touched_at) where touched_at is not null",
    "create table dwarf_event_visits (event text not null, key text not null, id text not null, turn int not null,"
    " delivered bigint not null, at bigint not null, primary key (event, key, id, turn))",
    "create index dwarf_event_visits_old on dwarf_event_visits (at)",
    "create table dwarf_event_asks (step_id bigint not null, lease_seq int not null, event text not null,"
    " key text not null, touched_at bigint not null, primary key (step_id, lease_seq))",
    "create index dwarf_event_asks_old on dwarf_event_asks (touched_at)",
    "create index dwarf_steps_events on dwarf_steps (wait_event, wait_key, step_id) where parked = 3",
    "create index dwarf_steps_deadlines on dwarf_steps (wait_until, step_id)"
    " where wait_until is not null and (parked = 3 or status = 'interrupted')",
    # The next compensation of a flow, and the one under way: however many there are, one entry is read.
    "create index dwarf_steps_compensations on dwarf_steps (flow_id, status, step_id) where compensates is not null",
    "create index dwarf_flows_compensating on dwarf_flows (root_id) where compensating is not null",
    # The pauses of a flow from the oldest to the newest, among however many other steps.
    "create index dwarf_steps_paused on dwarf_steps (flow_id, updated_at, step_id) where status = 'interrupted'",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
