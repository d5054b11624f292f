"""Read a page of the queue of ready steps: the heads of its keys, without taking any (C4)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.rules.scheduling.values import Page, PageRequest, QueueHead
from dwarf_nats.store.columns import select_list
from dwarf_nats.store.dialect import NOW
from dwarf_nats.store.statements.ready import NEXT_SCHEDULED, READY, READY_ORDER, SCHEDULED

if TYPE_CHECKING:
    import sqlite3

    from dwarf_nats.store.database import PostgresSession, Row, SqliteSession

BLOCKED_PROBES = 1_000
"""Heads of blocked tasks that one page reads past, at most: each costs a probe of the index."""
_HEAD = select_list(QueueHead, due_at="not_before", weight="fairness_weight")

# -- PostgreSQL: $1 only behind this priority, $2 and $3 the priority and the key to begin at, $4 how many heads;
# with blocked tasks $5 those, $6 the task to begin at

# The first probe finds the best priority; if that is the one asked for, the walk begins at the key asked for.
_PEEK = """
with recursive
best as materialized (
  select priority from dwarf_steps where {ready} and priority > $1 order by {ready_order} limit 1),
walk as (
  (select s.*, {counts} as n, 1 as probes from best b cross join lateral (
    select priority, fairness_key, url, not_before, fairness_weight from dwarf_steps
    where {ready} and ({head}) >= (b.priority, case when b.priority = $2 then $3 else '' end{from_task})
    order by {head}, not_before, step_id limit 1) s)
  union all
  select s.*, w.n + {counts}, w.probes + 1 from walk w cross join lateral (
    select priority, fairness_key, url, not_before, fairness_weight from dwarf_steps
    where {ready} and ({head}) > ({walked})
    order by {head}, not_before, step_id limit 1) s
  where w.n < $4 and w.probes < $4 + {blocked_probes})
select {now}, (select priority from best), ({next_scheduled}),
  w.priority, w.fairness_key, w.url, w.not_before, w.fairness_weight, w.n, w.probes
from (select 1) one left join walk w on true
"""
_SHARED = {"ready": READY, "ready_order": READY_ORDER, "next_scheduled": NEXT_SCHEDULED, "now": NOW}
PEEK = _PEEK.format(
    **_SHARED,
    counts="1",
    head="priority, fairness_key",
    walked="w.priority, w.fairness_key",
    from_task="",
    blocked_probes=0,
)
PEEK_PAST = _PEEK.format(
    **_SHARED,
    counts="(s.url <> all($5::text[]))::int",
    head="priority, fairness_key, url",
    walked="w.priority, w.fairness_key, w.url",
    from_task=", case when b.priority = $2 then $6 else '' end",
    blocked_probes=BLOCKED_PROBES,
)

# -- SQLite: the same walk, probe by probe

_BY_KEY = f"select {_HEAD} from dwarf_steps indexed by dwarf_steps_ripe where {READY}"
_BY_TASK = f"select {_HEAD} from dwarf_steps indexed by dwarf_steps_lane where {READY}"
_KEY_ORDER = f"order by {READY_ORDER} limit 1"
_TASK_ORDER = "order by priority, fairness_key, url, not_before, step_id limit 1"
# The first head not before a given one. SQLite reads `(a, b) > (?, ?)` as `>=` and then walks through all that is equal, so
# the next head is looked for column by column.
KEY_FROM = f"{_BY_KEY} and (priority, fairness_key) >= (?, ?) {_KEY_ORDER}"
NEXT_PRIORITY = f"{_BY_KEY} and priority > ? {_KEY_ORDER}"
NEXT_KEY = f"{_BY_KEY} and priority = ? and fairness_key > ? {_KEY_ORDER}"
TASK_FROM = f"{_BY_TASK} and (priority, fairness_key, url) >= (?, ?, ?) {_TASK_ORDER}"
TASK_NEXT_PRIORITY = f"{_BY_TASK} and priority > ? {_TASK_ORDER}"
TASK_NEXT_KEY = f"{_BY_TASK} and priority = ? and fairness_key > ? {_TASK_ORDER}"
NEXT_TASK = f"{_BY_TASK} and priority = ? and fairness_key = ? and url > ? {_TASK_ORDER}"
NEXT_SCHEDULED_SQLITE = (
    f"select not_before from dwarf_steps indexed by dwarf_steps_asleep where {SCHEDULED} order by not_before limit 1"
)
BEST = f"select priority from dwarf_steps indexed by dwarf_steps_ripe where {READY} and priority > ? {_KEY_ORDER}"
_BEST_AND_NEXT = f"select ({BEST}), ({NEXT_SCHEDULED_SQLITE})"
# The next head: of the same key, of the next key, of the next priority.
_KEY_PROBES = (NEXT_KEY, NEXT_PRIORITY)
_TASK_PROBES = (NEXT_TASK, TASK_NEXT_KEY, TASK_NEXT_PRIORITY)


@dataclass(slots=True)
class Peek:
    """Read a page; the heads of `blocked_tasks` are read past and not counted (C3)."""

    request: PageRequest
    blocked_tasks: Collection[str]

    async def on_postgres(self, session: PostgresSession) -> Page:
        request, blocked = self.request, self.blocked_tasks
        plain = (request.floor, request.band, request.fairness_key, request.limit)
        rows = await (
            session.fetch(PEEK_PAST, *plain, list(blocked), request.url) if blocked else session.fetch(PEEK, *plain)
        )
        return _page(rows, request, blocked)

    def on_sqlite(self, session: SqliteSession) -> Page:
        connection, request, blocked = session.connection, self.request, self.blocked_tasks
        best, next_due_at = connection.execute(_BEST_AND_NEXT, (request.floor,)).fetchone()
        page = Page(now=session.now, best=best, heads=[], full=False, next_due_at=next_due_at)
        if best is None:
            return page
        start = (best, request.fairness_key, request.url) if best == request.band else (best, "", "")
        begin, following = (TASK_FROM, _TASK_PROBES) if blocked else (KEY_FROM, _KEY_PROBES)
        found = connection.execute(begin, start[: len(following)]).fetchone()
        heads: list[QueueHead] = []
        counted = 0
        while found is not None and not page.full:
            heads.append(QueueHead(*found))
            counted += heads[-1].url not in blocked
            page.full = counted >= request.limit or len(heads) >= _most_probes(request, blocked)
            found = None if page.full else _next(connection, heads[-1], following)
        page.heads = heads
        return page


def _page(rows: Sequence[Row], request: PageRequest, blocked_tasks: Collection[str]) -> Page:
    """The page in the rows of a walk; one row without a head if nothing is ready."""
    now, best, next_due_at, *_ = rows[0]
    *_, counted, probes = rows[-1]
    heads = [
        QueueHead(priority=priority, fairness_key=key, url=url, due_at=due_at, weight=weight)
        for _, _, _, priority, key, url, due_at, weight, _, _ in rows
        if priority is not None
    ]
    full = bool(heads) and (counted >= request.limit or probes >= _most_probes(request, blocked_tasks))
    return Page(now=now, best=best, heads=heads, full=full, next_due_at=next_due_at)


def _most_probes(request: PageRequest, blocked_tasks: Collection[str]) -> int:
    return request.limit + (BLOCKED_PROBES if blocked_tasks else 0)


def _next(connection: sqlite3.Connection, head: QueueHead, following: Sequence[str]) -> Row | None:
    for place, probe in enumerate(following):
        found = connection.execute(probe, head[: len(following) - place]).fetchone()
        if found is not None:
            return found  # type: ignore[no-any-return]
    return None
