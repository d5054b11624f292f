"""Count the ready steps, for people: the best priorities, of each the steps and the keys as far as they are counted (C4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import PriorityBacklog
from dwarf_nats.rules.scheduling.values import QueueHead
from dwarf_nats.store.dialect import NOW
from dwarf_nats.store.statements.peek import NEXT_KEY, NEXT_PRIORITY
from dwarf_nats.store.statements.ready import READY, READY_ORDER

if TYPE_CHECKING:
    from dwarf_nats.store.database import PostgresSession, SqliteSession

# $1 priorities, $2 steps of each, $3 keys of each
BACKLOG = f"""
with recursive found as (
  (select priority from dwarf_steps where {READY} order by {READY_ORDER} limit 1)
  union all
  select s.priority from found p cross join lateral (
    select priority from dwarf_steps where {READY} and priority > p.priority order by {READY_ORDER} limit 1) s)
select p.priority, c.steps, k.keys, greatest(0, {NOW} - k.oldest)
from (select priority from found limit $1) p
cross join lateral (
  select count(*) as steps from (
    select 1 from dwarf_steps where {READY} and priority = p.priority
    order by fairness_key, not_before, step_id limit $2) s) c
cross join lateral (
  with recursive head as (
    (select fairness_key, not_before, 1 as n from dwarf_steps where {READY} and priority = p.priority
     order by fairness_key, not_before, step_id limit 1)
    union all
    select s.*, h.n + 1 from head h cross join lateral (
      select fairness_key, not_before from dwarf_steps
      where {READY} and priority = p.priority and fairness_key > h.fairness_key
      order by fairness_key, not_before, step_id limit 1) s
    where h.n < $3)
  select count(*) as keys, min(not_before) as oldest from head) k
"""
PRIORITY_STEPS = f"""
select count(*) from (select 1 from dwarf_steps indexed by dwarf_steps_ripe where {READY} and priority = ? limit ?)
"""
_NO_OTHER_PLANS = ("bitmapscan", "sort", "hashjoin", "mergejoin")


@dataclass(slots=True)
class Backlog:
    """The best `priorities` with ready steps, of each at most so many `steps` and fairness `keys` counted."""

    priorities: int
    steps: int
    keys: int

    async def on_postgres(self, session: PostgresSession) -> list[PriorityBacklog]:
        for plan in _NO_OTHER_PLANS:  # so that it reads no more than it counts
            await session.fetch(f"set local enable_{plan} = off")
        return [PriorityBacklog(*row) for row in await session.fetch(BACKLOG, self.priorities, self.steps, self.keys)]

    def on_sqlite(self, session: SqliteSession) -> list[PriorityBacklog]:
        connection = session.connection
        found: list[PriorityBacklog] = []
        row = connection.execute(NEXT_PRIORITY, (0,)).fetchone()
        while row is not None and len(found) < self.priorities:
            priority = QueueHead(*row).priority
            count, oldest = 0, session.now
            while row is not None and count < self.keys:
                head = QueueHead(*row)
                count, oldest = count + 1, min(oldest, head.due_at)
                row = connection.execute(NEXT_KEY, (priority, head.fairness_key)).fetchone()
            (number,) = connection.execute(PRIORITY_STEPS, (priority, self.steps)).fetchone()
            found.append(PriorityBacklog(priority, number, count, session.now - oldest))
            row = connection.execute(NEXT_PRIORITY, (priority,)).fetchone()
        return found
