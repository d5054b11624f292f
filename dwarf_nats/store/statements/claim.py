"""Claim due steps: they become running, with a lease of the replica that takes them (X1).

First the steps are picked and locked, then taken by the same statement, so nobody else can take one in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

import orjson

from dwarf_nats.rules.claims import BREAKPOINT_HIT, HAS_PROGRESS, ClaimedRow
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.store.columns import numbered, scalars, select_list, unnest
from dwarf_nats.store.dialect import NOW, lease
from dwarf_nats.store.statements.ready import READY
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    import sqlite3

    from dwarf_nats.rules.scheduling.values import Share
    from dwarf_nats.store.database import PostgresSession, SqliteSession


class _Shares(NamedTuple):
    """The shares of a claim, in the order of their turn."""

    priority: Annotated[list[int], "int"]
    fairness_key: Annotated[list[str], "text"]
    n: Annotated[list[int], "int"]
    skip: Annotated[list[int], "int"]


class _TaskBudgets(NamedTuple):
    """The number of steps of a task that may be taken in all."""

    url: Annotated[list[str], "text"]
    most: Annotated[list[int], "int"]


_MARKS = f"s.breakpoint_hit * {BREAKPOINT_HIT} + case when s.progress is null then 0 else {HAS_PROGRESS} end"
_FLOW_CREATED_AT = "coalesce(f.restarted_at, f.created_at)"

# -- PostgreSQL
#
# A row that was locked is found again by its place, `ctid`: it cannot move, and the planner has no other way to take.


def _take(replica_id: str, budget_ms: str) -> str:
    """Take the steps that were `picked`."""
    return f""",
claimed as (
  update dwarf_steps s set status = 'running', parked = {Parked.NO:d}, lease_seq = s.lease_seq + 1,
    claimed_by = {replica_id}, updated_at = {NOW}, started_at = coalesce(s.started_at, {NOW}),
    lease_expires = {NOW} + {lease(f"coalesce(f.time_budget_ms, {budget_ms})")}
  from picked p
  -- Only the primary key has this order, and nothing else is sorted: on an empty table every index looks alike, but a plan
  -- lives on when the table has grown.
  cross join lateral (
    select * from dwarf_flows where flow_id between p.flow_id and p.flow_id order by flow_id limit 1) f
  where s.ctid = p.ctid
  returning {select_list(ClaimedRow, "s", age_us=f"{NOW} - s.started_at", flow_created_at=_FLOW_CREATED_AT, marks=_MARKS)})
select * from claimed order by priority, not_before, step_id
"""


# The shares come in the order of their turn and are served one by one, so that the limit cuts off the last ones unread
# and unlocked.
_LIMIT, *_TAKER = scalars(3, _Shares)
CLAIM = f"""
with share as materialized (select * from {unnest(_Shares)}),
picked as materialized (
  select s.ctid, s.flow_id from share r cross join lateral (
    select ctid, flow_id from dwarf_steps
    where {READY} and priority = r.priority and fairness_key = r.fairness_key and not_before <= {NOW}
    order by not_before, step_id limit r.n offset r.skip for update skip locked) s
  limit {_LIMIT}){_take(*_TAKER)}"""

# Tasks with a budget give no more than that in all; 0 passes them over.
_LIMIT, *_TAKER = scalars(3, _Shares, _TaskBudgets)
CLAIM_WITHIN_BUDGETS = f"""
with recursive
share as materialized (select * from {unnest(_Shares, ordinality="turn")}),
budget as materialized (select * from {unnest(_TaskBudgets, alias="b", first=len(_Shares._fields) + 1)}),
head as (
  select r.*, u.url from share r cross join lateral (
    select url from dwarf_steps where {READY} and priority = r.priority and fairness_key = r.fairness_key
    order by url, not_before, step_id limit 1) u
  union all
  select h.priority, h.fairness_key, h.n, h.skip, h.turn, u.url from head h cross join lateral (
    select url from dwarf_steps where {READY} and priority = h.priority and fairness_key = h.fairness_key and url > h.url
    order by url, not_before, step_id limit 1) u),
allowed as (select h.*, b.most from head h left join budget b on b.url = h.url),
candidate as (
  select h.turn, h.n, h.skip, h.url, h.most, s.place as at, s.step_id, s.not_before from allowed h cross join lateral (
    select ctid as place, step_id, not_before from dwarf_steps
    where {READY} and priority = h.priority and fairness_key = h.fairness_key and url = h.url and not_before <= {NOW}
    order by not_before, step_id limit least(h.n + h.skip, h.most)) s),
placed as (select *, row_number() over (partition by turn order by not_before, step_id) as place from candidate),
within as (
  select *, row_number() over (partition by url order by turn, place) as nth from placed
  where place > skip and place <= skip + n),
-- Locked only now, so that what is not taken is left alone; what another replica is about to take is passed over.
picked as materialized (
  select s.ctid, s.flow_id from (select at from within where nth <= most or most is null order by turn, place limit {_LIMIT}) c
  cross join lateral (
    select ctid, flow_id from dwarf_steps where ctid = c.at and {READY} for update skip locked) s){_take(*_TAKER)}"""

# Of the parked steps of a task the one that has been due longest (V4). $1 task, $2 replica, $3 default time budget
PROBE = f"""
with picked as materialized (
  select ctid, flow_id from dwarf_steps
  where parked = {Parked.BREAKER:d} and url = $1 and not_before <= {NOW}
  order by not_before, step_id limit 1 for update skip locked){_take("$2", "$3")}"""

# -- SQLite


class _Leases(NamedTuple):
    """The leases of steps that are taken, column by column."""

    claimed_by: list[int]
    now: list[int]
    lease_expires: list[int]
    step_id: list[int]


_LEASE = numbered(_Leases)
_SOURCES = {
    "lease_seq": "s.lease_seq + 1",
    "age_us": "?1 - coalesce(s.started_at, ?1)",
    "flow_created_at": _FLOW_CREATED_AT,
    "marks": _MARKS,
}
CLAIM_SQLITE = f"""
select {select_list(ClaimedRow, "s", **_SOURCES)}
from json_each(?2) p cross join dwarf_steps s on s.step_id = p.value cross join dwarf_flows f on f.flow_id = s.flow_id
order by s.priority, s.not_before, s.step_id
"""
_TAKE_SQLITE = f"""
update dwarf_steps set status = 'running', parked = {Parked.NO:d}, lease_seq = lease_seq + 1,
  claimed_by = {_LEASE.claimed_by}, updated_at = {_LEASE.now}, started_at = coalesce(started_at, {_LEASE.now}),
  lease_expires = {_LEASE.lease_expires} where step_id = {_LEASE.step_id}
"""
PROBE_SQLITE = f"""
select step_id from dwarf_steps indexed by dwarf_steps_parked
where parked = {Parked.BREAKER:d} and url = ? and not_before <= ? order by not_before, step_id limit 1
"""
KEY_STEPS = f"""
select step_id from dwarf_steps indexed by dwarf_steps_ripe
where {READY} and priority = ? and fairness_key = ? and not_before <= ?
order by not_before, step_id limit ? offset ?
"""
NEXT_TASK = f"""
select url from dwarf_steps indexed by dwarf_steps_lane
where {READY} and priority = ? and fairness_key = ? and url > ? order by url, not_before, step_id limit 1
"""
TASK_STEPS = f"""
select not_before, step_id, url from dwarf_steps indexed by dwarf_steps_lane
where {READY} and priority = ? and fairness_key = ? and url = ? and not_before <= ? order by not_before, step_id limit ?
"""


@dataclass(slots=True, kw_only=True)
class Claim:
    """Claim up to `limit` due steps of these shares, best first (X1).

    A task in `task_budgets` gives no more than its number; with 0 its steps are passed over (C3).
    """

    limit: int
    replica_id: int
    budget_ms: int
    """The time budget of flows that have none of their own."""
    shares: Sequence[Share]
    task_budgets: Mapping[str, int]

    async def on_postgres(self, session: PostgresSession) -> list[ClaimedRow]:
        shares = _Shares(
            priority=[share.priority for share in self.shares],
            fairness_key=[share.fairness_key for share in self.shares],
            n=[share.steps for share in self.shares],
            skip=[share.skip for share in self.shares],
        )
        taker = (self.limit, self.replica_id, self.budget_ms)
        if self.task_budgets:
            budgets = _TaskBudgets(url=list(self.task_budgets), most=list(self.task_budgets.values()))
            rows = await session.fetch(CLAIM_WITHIN_BUDGETS, *shares, *budgets, *taker)
        else:
            rows = await session.fetch(CLAIM, *shares, *taker)
        return [ClaimedRow(*row) for row in rows]

    def on_sqlite(self, session: SqliteSession) -> list[ClaimedRow]:
        picked = pick_sqlite(session, self.limit, self.shares, self.task_budgets)
        return _take_sqlite(session, picked, self.replica_id, self.budget_ms)


@dataclass(slots=True, kw_only=True)
class ClaimProbe:
    """Claim the parked step of a task that has been due longest (V4)."""

    url: str
    replica_id: int
    budget_ms: int

    async def on_postgres(self, session: PostgresSession) -> ClaimedRow | None:
        rows = await session.fetch(PROBE, self.url, self.replica_id, self.budget_ms)
        return ClaimedRow(*rows[0]) if rows else None

    def on_sqlite(self, session: SqliteSession) -> ClaimedRow | None:
        picked = [step_id for (step_id,) in session.connection.execute(PROBE_SQLITE, (self.url, session.now))]
        rows = _take_sqlite(session, picked, self.replica_id, self.budget_ms)
        return rows[0] if rows else None


def _take_sqlite(session: SqliteSession, picked: Sequence[int], replica_id: int, budget_ms: int) -> list[ClaimedRow]:
    now = session.now
    found = session.connection.execute(CLAIM_SQLITE, (now, orjson.dumps(picked).decode()))
    rows = [ClaimedRow(*row) for row in found]
    leases = _Leases(
        claimed_by=[replica_id] * len(rows),
        now=[now] * len(rows),
        lease_expires=[now + lease_us(row.time_budget_ms, budget_ms) for row in rows],
        step_id=[row.step_id for row in rows],
    )
    session.connection.executemany(_TAKE_SQLITE, zip(*leases, strict=True))
    return rows


def pick_sqlite(
    session: SqliteSession, limit: int, shares: Sequence[Share], task_budgets: Mapping[str, int]
) -> list[int]:
    """The steps to claim, best first."""
    within = _WithinBudgets(session, task_budgets) if task_budgets else None
    picked: list[int] = []
    for share in shares:
        count = min(share.steps, limit - len(picked))
        if count <= 0:
            break
        if within is not None:
            picked += within.pick(share, count)
        else:
            due = (share.priority, share.fairness_key, session.now, count, share.skip)
            picked += [step_id for (step_id,) in session.connection.execute(KEY_STEPS, due)]
    return picked


class _WithinBudgets:
    """Picks steps while tasks have a budget left."""

    def __init__(self, session: SqliteSession, task_budgets: Mapping[str, int]) -> None:
        self._session = session
        self._left = dict(task_budgets)
        self._taken: set[int] = set()

    def pick(self, share: Share, count: int) -> list[int]:
        """Up to `count` steps of a key: those that have been due longest, of the tasks that may still be asked."""
        left = self._left
        candidates: list[tuple[int, int, str]] = []
        for task in _tasks(self._session.connection, share):
            if left.get(task, 1) > 0:
                due = (share.priority, share.fairness_key, task, self._session.now, count + share.skip)
                candidates += self._session.connection.execute(TASK_STEPS, due)
        picked: list[int] = []
        for _, step_id, url in sorted(candidates):
            if len(picked) == count:
                break
            if step_id not in self._taken and left.get(url, 1) > 0:
                picked.append(step_id)
                if url in left:
                    left[url] -= 1
        self._taken.update(picked)
        return picked


def _tasks(connection: sqlite3.Connection, share: Share) -> Iterator[str]:
    """The tasks of a key's ready steps."""
    found = connection.execute(NEXT_TASK, (share.priority, share.fairness_key, "")).fetchone()
    while found is not None:
        (task,) = found
        yield task
        found = connection.execute(NEXT_TASK, (share.priority, share.fairness_key, task)).fetchone()
