"""Pages over several shards, and their cursors (O9)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dwarf_nats.engine.projections import summary_of
from dwarf_nats.workflow import list_cursors

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.records import FlowSummary


async def page(
    shards: list[Shard], query: Query, limit: int, *, thread_id: int | None, cursor: str
) -> tuple[list[FlowSummary], str]:
    """Read one page: the limit is divided among the shards, the flows are grouped by shard.

    Returns the flows and the cursor of the next page, which is empty on the last one.
    """
    at = list_cursors.shards(cursor) if cursor else {shard.number: "" for shard in shards}
    going = [shard for shard in shards if shard.number in at]
    share, more = divmod(limit, max(1, len(going)))
    limits = {shard.number: share + (place < more) for place, shard in enumerate(going)}
    asked = [shard for shard in going if limits[shard.number]]
    pages = await asyncio.gather(
        *(shard.store.flows.list_page(query, limits[shard.number], thread_id, at[shard.number]) for shard in asked)
    )
    following = {shard.number: at[shard.number] for shard in going if not limits[shard.number]}
    found: list[FlowSummary] = []
    for shard, (rows, after) in zip(asked, pages, strict=True):
        found += [summary_of(shard.number, row) for row in rows]
        if after:
            following[shard.number] = after
    return found, list_cursors.of_shards(following) if following else ""
