"""Steps that wait for events, deadlines of waits, compensation, and steps that run again (E1-E3, P6, N3, N9)."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    "alter table dwarf_steps add column wait_event text",
    "alter table dwarf_steps add column wait_key text",
    "alter table dwarf_steps add column wait_until bigint",
    "alter table dwarf_steps add column event text",
    "alter table dwarf_steps add column interrupt_timed_out int not null default 0",
    "alter table dwarf_steps add column compensates bigint",
    "alter table dwarf_steps add column reruns int not null default 0",
    "alter table dwarf_flows add column compensating text",
    "create index dwarf_steps_events on dwarf_steps (wait_event, wait_key, step_id) where parked = 3",
    "create index dwarf_steps_deadlines on dwarf_steps (wait_until, step_id)"
    " where wait_until is not null and (parked = 3 or status = 'interrupted')",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
