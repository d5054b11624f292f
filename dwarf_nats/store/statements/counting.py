"""Count flows by status, up to a bound, for people (O9).

Statuses that have an index are counted by it; otherwise the newest flows are counted that a page of a list would look through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.store.statements import listing, listing_window
from dwarf_nats.store.statements.listing_window import STOPPED, Driver, of_status
from dwarf_nats.workflow.records import FlowCounts
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database
    from dwarf_nats.workflow.options import Query

COUNTED = 1_000
"""Flows of one status that are counted at most."""
LOOKED_AT = 5_000
"""Flows that run, and newest flows, that are looked at for those which no other flow called."""
_INDEXED = (*STOPPED, Status.CREATED)
_BY_INDEX = "(select count(*) from (select 1 from dwarf_flows f where f.surgraph_step_id is null and {} limit {}) {})"
_EACH = ", ".join(_BY_INDEX.format(" and ".join(of_status(status)), COUNTED + 1, f"of_{status}") for status in _INDEXED)
BY_STATUS = f"select {_EACH}"
_LOOK = (
    "select count(*), coalesce(sum(case when f.surgraph_step_id is null and f.status = '{0}' then 1 else 0 end), 0) from"
    " (select f.surgraph_step_id, f.status from dwarf_flows f {1} limit {2}) f"
)
RUNNING = _LOOK.format(Status.RUNNING, "where f.status = 'running'", LOOKED_AT)
COMPLETED = _LOOK.format(Status.COMPLETED, "order by f.created_at desc, f.flow_id desc", LOOKED_AT)


async def counts(database: Database, shard: int, query: Query, thread_id: int | None) -> FlowCounts:
    """Count the root flows that match, by status."""
    if thread_id is None and not listing_window.has_filters(query):
        return await _by_index(database)
    tags = await listing.tag_texts_of(database, query)
    driver = Driver(tags, by_tag=bool(tags))
    end = None
    if thread_id is None and query.flow_id is None:
        end = await listing_window.end(database, driver, None, listing_window.COSTLY_FLOWS)
    where, args = listing.conditions(shard, query, thread_id, driver, roots_only=query.flow_id is None)
    if end is not None:
        args += end
        where.append(f"({driver.alias}.created_at, {driver.alias}.flow_id) >= (${len(args) - 1}, ${len(args)})")
    rows = await database.fetch(
        f"select f.status, count(*) from {listing.flows_of(driver)} where {' and '.join(where)} group by f.status",
        *args,
    )
    found = {Status(status): count for status, count in rows}
    return FlowCounts(found, searched_to=None if end is None else end.created_at)


async def _by_index(database: Database) -> FlowCounts:
    ((*indexed,),) = await database.fetch(BY_STATUS)
    found = dict(zip(_INDEXED, indexed, strict=True))
    more = {status for status, count in found.items() if count > COUNTED}
    for status, statement in ((Status.RUNNING, RUNNING), (Status.COMPLETED, COMPLETED)):
        ((looked, count),) = await database.fetch(statement)
        found[status] = count
        if looked == LOOKED_AT or count > COUNTED:
            more.add(status)
    return FlowCounts({status: min(count, COUNTED) for status, count in found.items() if count}, more=frozenset(more))
