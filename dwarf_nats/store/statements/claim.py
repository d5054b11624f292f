"""Claim due steps: they become running, with a lease of the replica that takes them (X1).

`line` picks the steps and locks them; the same statement takes what was picked, so nobody else can take it in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

from dwarf_nats.rules.claims import ClaimedRow
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.store import line
from dwarf_nats.store.columns import select_list
from dwarf_nats.store.dialect import NOW, lease
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    import sqlite3

_FLOW_CREATED_AT = "coalesce(f.restarted_at, f.created_at)"

# -- PostgreSQL: $1 limit, $2 replica, $3 default time budget in milliseconds

_TAKE = f""",
claimed as (
  update dwarf_steps s set status = 'running', parked = {Parked.NO:d}, lease_seq = s.lease_seq + 1, claimed_by = $2,
    updated_at = {NOW}, started_at = coalesce(s.started_at, {NOW}),
    lease_expires = {NOW} + {lease("coalesce(f.time_budget_ms, $3)")}
  from picked p
  -- Only the primary key has this order, and nothing else is sorted: on an empty table every index looks alike, but a plan
  -- lives on when the table has grown.
  cross join lateral (
    select * from dwarf_flows where flow_id between p.flow_id and p.flow_id order by flow_id limit 1) f
  where s.ctid = p.ctid
  returning {select_list(ClaimedRow, "s", age_us=f"{NOW} - s.started_at", flow_created_at=_FLOW_CREATED_AT)})
select * from claimed order by priority, not_before, step_id
"""
CLAIM = line.PICK + _TAKE
CLAIM_PAST = line.PICK_PAST + _TAKE

PROBE = f"""
with picked as materialized (
  -- Of the parked steps of a task the one that has been due longest (V4).
  select ctid, flow_id from dwarf_steps
  where parked = {Parked.BREAKER:d} and url = $4 and not_before <= {NOW}
  order by not_before, step_id
  limit $1 for update skip locked){_TAKE}"""

# -- SQLite

_SQLITE_SOURCES = {
    "lease_seq": "s.lease_seq + 1",
    "age_us": "?1 - coalesce(s.started_at, ?1)",
    "flow_created_at": _FLOW_CREATED_AT,
}
CLAIM_SQLITE = f"""
select {select_list(ClaimedRow, "s", **_SQLITE_SOURCES)}
from json_each(?2) p cross join dwarf_steps s on s.step_id = p.value cross join dwarf_flows f on f.flow_id = s.flow_id
order by s.priority, s.not_before, s.step_id
"""
_TAKE_SQLITE = f"""
update dwarf_steps set status = 'running', parked = {Parked.NO:d}, lease_seq = lease_seq + 1, claimed_by = ?1, updated_at = ?2,
  started_at = coalesce(started_at, ?2), lease_expires = ?3 where step_id = ?4
"""
_PROBE_SQLITE = f"""
select step_id from dwarf_steps indexed by dwarf_steps_parked
where parked = {Parked.BREAKER:d} and url = ? and not_before <= ? order by not_before, step_id limit 1
"""


def take_sqlite(
    connection: sqlite3.Connection, now: int, picked: Sequence[int], replica_id: int, budget_ms: int
) -> list[ClaimedRow]:
    """Take the steps that were picked."""
    rows = [ClaimedRow(*row) for row in connection.execute(CLAIM_SQLITE, (now, orjson.dumps(picked).decode()))]
    connection.executemany(
        _TAKE_SQLITE, [(replica_id, now, now + lease_us(row.time_budget_ms, budget_ms), row.step_id) for row in rows]
    )
    return rows


def pick_parked_sqlite(connection: sqlite3.Connection, now: int, url: str) -> list[int]:
    """The parked step of a task that has been due longest (V4), if there is one."""
    return [step_id for (step_id,) in connection.execute(_PROBE_SQLITE, (url, now))]
