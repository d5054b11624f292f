"""The queue of ready steps: how it is kept, at a cost that does not grow with it (C4).

A pending, unparked step is *ready* if it was due when its row was last written, else it is *scheduled*. Both can be told from
the row alone, `not_before` against `updated_at`, so partial indexes hold each apart: those of the ready steps say who is
next, that of the scheduled ones who is due next. A step whose successor is born due is ready at birth and costs nothing
extra; a scheduled one is promoted (`PromoteDue`) by one more write of its row once its time has come.

Priorities and fairness keys are found by skipping: each probe of the index begins behind the last key found. Two indexes
hold the ready steps:

- `dwarf_steps_ripe` (priority, key, due time): the steps of a key, longest due first, are a prefix.
- `dwarf_steps_lane` (priority, key, task, due time): used when tasks are to be passed over (C3); a task's steps are then
  stepped over by one probe, however many there are, and a key's steps are merged from its other tasks.

`peek` reads the queue, `claim` takes from it, `backlog` counts it. On PostgreSQL each is one statement; SQLite runs the same
probes one by one in its thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.store.dialect import NOW
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.store.database import PostgresSession, SqliteSession

# As the partial indexes have them, word for word.
READY = f"status = 'pending' and parked = {Parked.NO:d} and not_before <= updated_at"
SCHEDULED = f"status = 'pending' and parked = {Parked.NO:d} and not_before > updated_at"
# In the order of an index, so that it is read no further than its first entry.
READY_ORDER = "priority, fairness_key, not_before, step_id"
FIRST_READY = f"select not_before from dwarf_steps where {READY} order by {READY_ORDER} limit 1"
NEXT_SCHEDULED = f"select not_before from dwarf_steps where {SCHEDULED} order by not_before limit 1"

PROMOTE = f"""
with due as materialized (
  select ctid from dwarf_steps where {SCHEDULED} and not_before <= {NOW}
  order by not_before limit $1 for update skip locked)
update dwarf_steps s set updated_at = {NOW} from due d where s.ctid = d.ctid returning s.step_id
"""
PROMOTE_SQLITE = f"""
update dwarf_steps set updated_at = ?1 where step_id in (
  select step_id from dwarf_steps indexed by dwarf_steps_asleep where {SCHEDULED} and not_before <= ?1
  order by not_before limit ?2)
"""


@dataclass(slots=True)
class PromoteDue:
    """Make up to `limit` scheduled steps ready whose time has come, those due first; how many."""

    limit: int

    async def on_postgres(self, session: PostgresSession) -> int:
        return len(await session.fetch(PROMOTE, self.limit))

    def on_sqlite(self, session: SqliteSession) -> int:
        return session.connection.execute(PROMOTE_SQLITE, (session.now, self.limit)).rowcount
