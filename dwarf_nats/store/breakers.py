"""Tripped tasks and the steps that are parked for them (V4-V6), in the words both databases share.

`dwarf_tripped` names the tasks whose breaker is tripped on this shard. Whoever makes a step pending looks there, in the same
statement, so that it is born parked whichever replica knows of the trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.store.dialect import Statement
from dwarf_nats.store.statements.ready import READY, SCHEDULED
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database, Tx

ANY_HELD = f"""
(exists (select 1 from dwarf_tripped) or exists (select 1 from dwarf_steps where parked = {Parked.BREAKER:d}))
"""
_DISTINCT = f"""
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
# Written now, so that what is due is ready (`statements.ready`).
RELEASE = Statement(
    postgres=f"""
with found as materialized (
  select ctid from dwarf_steps where parked = {Parked.BREAKER:d} and url = $1 order by not_before, step_id limit $2 for update)
update dwarf_steps s set parked = {Parked.NO:d}, updated_at = {{now}} from found f where s.ctid = f.ctid
returning step_id, priority, not_before
""",
    sqlite=f"""
update dwarf_steps set parked = {Parked.NO:d}, updated_at = {{now}} where step_id in (
  select step_id from dwarf_steps indexed by dwarf_steps_parked
  where parked = {Parked.BREAKER:d} and url = $1 order by not_before, step_id limit $2)
returning step_id, priority, not_before
""",
)


async def trip(database: Database, url: str, cause: str) -> None:
    """From now on the task's steps are born parked."""
    await database.fetch(
        "insert into dwarf_tripped (url, cause, tripped_at) values ($1, $2, {now}) on conflict (url) do nothing",
        url,
        cause,
    )


async def untrip(database: Database, url: str) -> None:
    """From now on the task's steps are born as any other."""
    await database.fetch("delete from dwarf_tripped where url = $1", url)


async def park(tx: Tx, url: str) -> None:
    """Park all pending steps of the task."""
    for sql in PARKS:
        await tx.fetch(sql, url)


async def release(tx: Tx, url: str, limit: int) -> list[ReadyStep]:
    """Release up to `limit` parked steps of the task, those due longest."""
    return [ReadyStep(*row) for row in await tx.fetch(RELEASE, url, limit)]


async def tripped_tasks(database: Database) -> dict[str, str]:
    """The tripped tasks, and why."""
    return {row[0]: row[1] for row in await database.fetch_by_index("select url, cause from dwarf_tripped")}


async def parked_tasks(database: Database) -> list[str]:
    """The tasks that have parked steps."""
    return [row[0] for row in await database.fetch_by_index(_DISTINCT)]


async def is_tripped(database: Database, url: str) -> bool:
    """Whether the task is tripped, or has steps that are still parked."""
    return bool(
        await database.fetch_by_index(
            "select 1 where exists (select 1 from dwarf_tripped where url = $1)"
            f" or exists (select 1 from dwarf_steps where parked = {Parked.BREAKER:d} and url = $1)",
            url,
        )
    )


async def next_probe(database: Database, url: str) -> int | None:
    """Microseconds until a parked step of the task is due, not above 0 if one is; `None` if none is parked."""
    rows = await database.fetch_by_index(
        f"select not_before - {{now}} from dwarf_steps where parked = {Parked.BREAKER:d} and url = $1"
        " order by not_before limit 1",
        url,
    )
    return int(rows[0][0]) if rows else None
