"""Count the ready steps, for people: the best priorities, of each the steps and the keys as far as they are counted (C4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.rules.scheduling.values import QueueHead
from dwarf_nats.store.dialect import NOW
from dwarf_nats.store.statements.peek import NEXT_KEY, NEXT_PRIORITY
from dwarf_nats.store.statements.ready import READY, READY_ORDER
from dwarf_nats.workflow.records import KeyBacklog, PriorityBacklog

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
# $1 priority, $2 keys, $3 steps of each
KEYS = f"""
with recursive head as (
  (select fairness_key, not_before, 1 as n from dwarf_steps where {READY} and priority = $1
   order by fairness_key, not_before, step_id limit 1)
  union all
  select s.*, h.n + 1 from head h cross join lateral (
    select fairness_key, not_before from dwarf_steps
    where {READY} and priority = $1 and fairness_key > h.fairness_key
    order by fairness_key, not_before, step_id limit 1) s
  where h.n < $2)
select h.fairness_key, c.steps, greatest(0, {NOW} - h.not_before) from head h cross join lateral (
  select count(*) as steps from (
    select 1 from dwarf_steps where {READY} and priority = $1 and fairness_key = h.fairness_key
    order by not_before, step_id limit $3) s) c
"""
KEY_STEPS = f"""
select count(*) from (
  select 1 from dwarf_steps indexed by dwarf_steps_ripe where {READY} and priority = ? and fairness_key = ? limit ?)
"""
KEYS_LOOKED_AT, KEY_COUNTED, KEYS_SHOWN = 50, 200, 10
"""Fairness keys of a priority that are looked at, steps of each that are counted, and keys that are told."""
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


@dataclass(slots=True)
class KeyBacklogs:
    """Of each of these priorities the fairness keys with most due steps, among the first ones."""

    priorities: Sequence[int]

    async def on_postgres(self, session: PostgresSession) -> dict[int, list[KeyBacklog]]:
        for plan in _NO_OTHER_PLANS:
            await session.fetch(f"set local enable_{plan} = off")
        return {
            priority: _most(
                KeyBacklog(*row) for row in await session.fetch(KEYS, priority, KEYS_LOOKED_AT, KEY_COUNTED)
            )
            for priority in self.priorities
        }

    def on_sqlite(self, session: SqliteSession) -> dict[int, list[KeyBacklog]]:
        return {priority: _most(self._keys(session, priority)) for priority in self.priorities}

    def _keys(self, session: SqliteSession, priority: int) -> Iterator[KeyBacklog]:
        row = session.connection.execute(NEXT_PRIORITY, (priority - 1,)).fetchone()
        for _ in range(KEYS_LOOKED_AT):
            if row is None or QueueHead(*row).priority != priority:
                return
            head = QueueHead(*row)
            asked = (priority, head.fairness_key, KEY_COUNTED)
            (steps,) = session.connection.execute(KEY_STEPS, asked).fetchone()
            yield KeyBacklog(head.fairness_key, steps, max(0, session.now - head.due_at))
            row = session.connection.execute(NEXT_KEY, (priority, head.fairness_key)).fetchone()


def _most(keys: Iterable[KeyBacklog]) -> list[KeyBacklog]:
    return sorted(keys, key=lambda one: (-one.steps, -one.oldest_us, one.fairness_key))[:KEYS_SHOWN]
