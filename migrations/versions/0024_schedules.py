"""Schedules (R3)."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None
old_replicas_may_stay = True

STATEMENTS = (
    "create table dwarf_schedules (name text primary key, workflow text not null, body text not null,"
    " paused int not null default 0, gone int not null default 0, due_at bigint, fire_at bigint, wake_at bigint,"
    " fired_at bigint, attempts int not null default 0, flow_key text, flow_due bigint, last_due bigint, queued_at bigint,"
    " last_flow text, runs text not null default '[]', claim bigint not null default 0, version bigint not null default 1,"
    " created_at bigint not null, updated_at bigint not null)",
    # The next to be looked at is the first entry, however many schedules there are.
    "create index dwarf_schedules_wake on dwarf_schedules (wake_at) where wake_at is not null",
    # Those that are late are counted by their own time: a schedule whose flow cannot be created is looked at again and again.
    "create index dwarf_schedules_fire on dwarf_schedules (fire_at) where fire_at is not null",
    "create index dwarf_schedules_workflow on dwarf_schedules (workflow, name)",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
