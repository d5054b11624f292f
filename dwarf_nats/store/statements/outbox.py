"""The outbox: take rows, and turn them into flows in the transaction that removes them. PostgreSQL only.

`dwarf_enqueue` (migrations) writes the rows in a transaction of the caller's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.ports.receiving import CreatedFlows, StaleGraph
from dwarf_nats.rules.receiving import OutboxEntry
from dwarf_nats.store.columns import select_list
from dwarf_nats.store.statements.create import CreateFlows

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import PostgresSession, SqliteSession

CHANNEL = "dwarf_outbox"
"""The channel on which `dwarf_enqueue` notifies."""
# A replica that dies leaves its rows to the next one, when its lease on them is over.
TAKE = """
with due as materialized (
  select row_id from dwarf_outbox where rejected_at is null and due_at <= {now} order by due_at, row_id limit $1
  {skip_locked})
update dwarf_outbox set due_at = {now} + $2 where row_id in (select row_id from due)
returning row_id, workflow, state, options, attempts, sent_away
"""
SEND_AWAY = "update dwarf_outbox set sent_away = 1 where row_id {in:$1} returning row_id"
REMOVE_MANY = "delete from dwarf_outbox where row_id {in:$1} and rejected_at is null and sent_away = 0 returning row_id"
REMOVE = "delete from dwarf_outbox where row_id = $1 returning row_id"
DEFER = "update dwarf_outbox set due_at = {now} + $2, attempts = attempts + 1, reason = $3 where row_id = $1"
REJECT = (
    "update dwarf_outbox set rejected_at = {now}, attempts = attempts + 1, reason = $2"
    " where row_id = $1 and rejected_at is null"
)
RETRY = "update dwarf_outbox set rejected_at = null, due_at = {now} where row_id = $1 returning row_id"
_ENTRIES = f"select {select_list(OutboxEntry)} from dwarf_outbox where"
ENTRIES = f"{_ENTRIES} row_id > $1 order by row_id limit $2"
REJECTED = f"{_ENTRIES} rejected_at is not null and row_id > $1 order by row_id limit $2"
DEPTH = """
select (select count(*) from (select from dwarf_outbox where rejected_at is null order by due_at limit $1) w),
  (select count(*) from (select from dwarf_outbox where rejected_at is not null order by row_id limit $1) r),
  coalesce({now} - (select min(created_at)
    from (select created_at from dwarf_outbox where rejected_at is null order by due_at limit $1) o), 0)
"""


@dataclass(slots=True, kw_only=True)
class CreateEnqueued:
    """Remove rows and insert their flows. Raises `StaleGraph`; then nothing was written."""

    group: Sequence[tuple[int, NewFlow]]
    replica_id: int
    budget_ms: int

    async def on_postgres(self, session: PostgresSession) -> CreatedFlows:
        rows = await session.fetch(REMOVE_MANY, sorted(row_id for row_id, _ in self.group))
        there = {row_id for (row_id,) in rows}
        flows = [new for row_id, new in self.group if row_id in there]
        create = CreateFlows(flows=flows, replica_id=self.replica_id, budget_ms=self.budget_ms)
        made = await create.on_postgres(session) if flows else {}
        if len(made) != len(flows):
            raise StaleGraph
        return CreatedFlows(made, len(self.group) - len(made))

    def on_sqlite(self, session: SqliteSession) -> CreatedFlows:
        raise NotImplementedError("SQLite has no outbox")
