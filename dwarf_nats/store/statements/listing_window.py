"""The part of a list that is read for one page, bounded so that no filter makes a page read all flows (O9).

A filter without an index is tried on one flow after the other. A page looks through so many of them at most, newest first, and
ends where it got to: it may be short, or empty, and its cursor goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.store.statements.tags import COMMON_FLOWS
from dwarf_nats.workflow.list_cursors import Place
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwarf_nats.store.database import Database
    from dwarf_nats.workflow.options import Query

FIRST_FLOWS = 2_000
"""Flows that are looked through first: where most flows match, that is enough for a page."""
CHEAP_FLOWS = 50_000
"""Flows that are looked through for one page at most, if a look takes the row of the flow alone."""
COSTLY_FLOWS = 10_000
"""The same if a look takes a further row, or searches a text."""
STOPPED = (Status.INTERRUPTED, Status.FAILED, Status.CANCELLED)
"""The statuses in `dwarf_flows_stopped`, in the order of its condition."""
_BY_INDEX = (*STOPPED, Status.CREATED)
_BY_ROW = ("workflow", "fairness_key", "priority", "older_than_ms", "newer_than_ms")


class Driver(NamedTuple):
    """The source of the flows of a page, in order: the entries of a tag, a status with an index of its own, or all flows.

    `tag`: the text of the tag, of `tags` the first. `status`: written out as conditions; empty if it is tried on each flow.
    """

    tags: Sequence[str]
    by_tag: bool
    status: str = ""

    @property
    def alias(self) -> str:
        return "t" if self.by_tag else "f"


def of_status(status: Status) -> list[str]:
    """The conditions for a status, written out: only so can the planners use the index of the flows that stopped.

    SQLite uses a partial index only if the condition of the index stands in the statement, word for word.
    """
    found = [f"f.status = '{status}'"]
    return [*found, f"f.status in ({', '.join(map(repr, map(str, STOPPED)))})"] if status in STOPPED else found


def has_filters(query: Query) -> bool:
    """True if there is a filter, beside that by shard."""
    others = (query.status, query.task, query.search, query.flow_id, query.thread, query.tags)
    return any(one is not None for one in others) or any(getattr(query, name) is not None for name in _BY_ROW)


async def driver(database: Database, query: Query, tags: Sequence[str]) -> Driver:
    """Choose what gives the flows of a page. `tags`: as texts, one that few flows have first."""
    if query.status is None or query.status not in _BY_INDEX:
        return Driver(tags, by_tag=bool(tags))
    status = " and ".join(of_status(Status(query.status)))
    if not tags:
        return Driver(tags, by_tag=False, status=status)
    # Of both, what fewer flows have; counted up to a bound.
    ((tagged, stopped),) = await database.fetch(
        f"select (select count(*) from (select 1 from dwarf_tags where tag = $1 limit {COMMON_FLOWS}) a),"
        f" (select count(*) from (select 1 from dwarf_flows f where f.surgraph_step_id is null and {status}"
        f" limit {COMMON_FLOWS}) b)",
        tags[0],
    )
    by_tag = tagged <= stopped
    return Driver(tags, by_tag=by_tag, status="" if by_tag else status)


async def sizes(database: Database, query: Query, chosen: Driver) -> tuple[int, ...]:
    """The numbers of flows to look through for a page, one after the other; none if every filter has an index."""
    if query.flow_id is not None or query.thread is not None:
        return ()
    others = len(chosen.tags) - chosen.by_tag
    if others or query.task is not None or query.search is not None:
        most = COSTLY_FLOWS
    elif any(getattr(query, name) is not None for name in _BY_ROW) or (query.status is not None and not chosen.status):
        most = CHEAP_FLOWS
    else:
        return ()
    if query.status is Status.RUNNING and not chosen.by_tag and await _are_few_running(database):
        return ()
    return FIRST_FLOWS, most


async def _are_few_running(database: Database) -> bool:
    """True if the flows that run can all be looked at: they are found by their index, in no order."""
    ((running,),) = await database.fetch(
        f"select count(*) from (select 1 from dwarf_flows where status = 'running' limit {COSTLY_FLOWS}) counted"
    )
    return bool(running < COSTLY_FLOWS)


async def end(database: Database, chosen: Driver, after: Place | None, flows: int) -> Place | None:
    """The place of the last of so many flows after a place, whatever they are like; `None` if fewer are left.

    Read from an index alone.
    """
    args: list[object] = []
    where = []
    if chosen.by_tag:
        args.append(chosen.tags[0])
        where.append("t.tag = $1")
    elif chosen.status:
        where += ["f.surgraph_step_id is null", chosen.status]
    if after is not None:
        args += after
        where.append(f"({chosen.alias}.created_at, {chosen.alias}.flow_id) < (${len(args) - 1}, ${len(args)})")
    rows = await database.fetch(
        f"select {chosen.alias}.created_at, {chosen.alias}.flow_id"
        f" from {'dwarf_tags t' if chosen.by_tag else 'dwarf_flows f'}{' where ' if where else ''}{' and '.join(where)}"
        f" order by {chosen.alias}.created_at desc, {chosen.alias}.flow_id desc limit 1 offset {flows - 1}",
        *args,
    )
    return Place(*rows[0]) if rows else None
