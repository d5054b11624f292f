"""Tripped circuit breakers and the steps that are parked for them (V4-V6).

`dwarf_tripped` names the tasks whose breaker is tripped on this shard. A statement that makes a step pending reads it, so that
the step is parked from its birth, whichever replica knows of the trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.store.dialect import Statement
from dwarf_nats.store.statements.ready import READY, SCHEDULED
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx

ANY_HELD = f"""
(exists (select 1 from dwarf_tripped) or exists (select 1 from dwarf_steps where parked = {Parked.BREAKER:d}))
"""
PARKED_TASKS = f"""
with recursive t(url) as (
  -- From one task to the next through the index, however many steps each has (C4).
  select min(url) from dwarf_steps where parked = {Parked.BREAKER:d}
  union all
  select (select min(s.url) from dwarf_steps s where s.parked = {Parked.BREAKER:d} and s.url > t.url) from t
  where t.url is not null)
select url from t where url is not null
"""
# In the order in which everybody locks steps (X10). A row that was locked is found again by its place, `ctid`; in SQLite nobody
# else writes. What is promoted between the two statements was scheduled for the first and is ready for the second.
_PARK = f"""
with found as materialized (select ctid from dwarf_steps where {{which}} and url = $1 order by step_id for update)
update dwarf_steps s set parked = {Parked.BREAKER:d} from found f where s.ctid = f.ctid
"""
_PARK_SQLITE = f"""
update dwarf_steps set parked = {Parked.BREAKER:d} where step_id in (
  select step_id from dwarf_steps indexed by {{index}} where {{which}} and url = $1)
"""
PARKS = (
    Statement(
        postgres=_PARK.format(which=SCHEDULED),
        sqlite=_PARK_SQLITE.format(index="dwarf_steps_asleep", which=SCHEDULED),
    ),
    Statement(
        postgres=_PARK.format(which=READY),
        sqlite=_PARK_SQLITE.format(index="dwarf_steps_lane", which=READY),
    ),
)
# Written now if it is due, so that it is ready (`statements.ready`); what is not due keeps the time since when it waits.
READY_AT = "case when not_before <= {now} then {now} else updated_at end"
RELEASE = Statement(
    postgres=f"""
with found as materialized (
  select ctid from dwarf_steps where parked = {Parked.BREAKER:d} and url = $1 order by not_before, step_id limit $2 for update)
update dwarf_steps s set parked = {Parked.NO:d}, updated_at = {READY_AT}
from found f where s.ctid = f.ctid returning step_id, priority, not_before
""",
    sqlite=f"""
update dwarf_steps set parked = {Parked.NO:d}, updated_at = {READY_AT} where step_id in (
  select step_id from dwarf_steps indexed by dwarf_steps_parked
  where parked = {Parked.BREAKER:d} and url = $1 order by not_before, step_id limit $2)
returning step_id, priority, not_before
""",
)
TRIP = "insert into dwarf_tripped (url, cause, tripped_at) values ($1, $2, {now}) on conflict (url) do nothing"
UNTRIP = "delete from dwarf_tripped where url = $1"
TRIPPED_TASKS = "select url, cause from dwarf_tripped"
IS_TRIPPED = (
    "select 1 where exists (select 1 from dwarf_tripped where url = $1)"
    f" or exists (select 1 from dwarf_steps where parked = {Parked.BREAKER:d} and url = $1)"
)
NEXT_PROBE = (
    f"select not_before - {{now}} from dwarf_steps where parked = {Parked.BREAKER:d} and url = $1"
    " order by not_before limit 1"
)


async def park(tx: Tx, url: str) -> None:
    """Park all pending steps of the task."""
    for statement in PARKS:
        await tx.fetch(statement, url)


async def release(tx: Tx, url: str, limit: int) -> list[ReadyStep]:
    """Unpark up to `limit` steps of the task, those due longest; return them."""
    return [ReadyStep(*row) for row in await tx.fetch(RELEASE, url, limit)]
