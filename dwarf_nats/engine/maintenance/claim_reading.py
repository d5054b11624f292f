"""Reads the rows of all shards for the large values that they refer to (B10)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from dwarf_nats.ports.values import HOLDERS

if TYPE_CHECKING:
    from dwarf_nats.ports.values import ClaimPage, ClaimStore, Place, StoredValue

PAGE_ROWS = 200
"""Rows that one statement reads at most; fewer if they are large, so that it stays short."""
PAGE_FLOWS = 1_000
"""Flows of which one statement reads the times."""
MARGIN_US = 600_000_000
"""Flows that are so much older than the sweep are read twice: no transaction takes as long."""
ReadPage: TypeAlias = "Callable[[Place | None, int], Awaitable[ClaimPage]]"


class Paces(Protocol):
    """Runs work on a group of members, and rests afterwards."""

    async def run(
        self, members: Sequence[Any], work: Callable[[Sequence[Any]], Awaitable[ClaimPage]]
    ) -> tuple[int, ClaimPage]: ...


class ShardRows:
    """The rows of one shard, read at its pace, or as fast as they come."""

    def __init__(self, claims: ClaimStore, pace: Paces | None = None) -> None:
        self.claims = claims
        self._pace = pace

    async def spare(self, unused: dict[str, StoredValue], page: ReadPage) -> int:
        """Read all pages, and take out of `unused` what their rows refer to; return how many pages there were."""
        last: Place | None = None
        pages = 0

        async def work(rows: Sequence[Any]) -> ClaimPage:
            return await page(last, len(rows))

        while True:
            rows = range(PAGE_ROWS)
            found = await work(rows) if self._pace is None else (await self._pace.run(rows, work))[1]
            pages += 1
            for digest in found.digests:
                unused.pop(digest, None)
            last = found.last
            if last is None:
                return pages

    async def spare_recent(self, unused: dict[str, StoredValue], since: int) -> None:
        """Read the flows that changed since then once more: a fork has what was read nowhere else."""
        last: int | None = -1
        while last is not None:
            flow_ids, last = await self.claims.recent(since, last, PAGE_FLOWS)
            if flow_ids:
                await self.spare(unused, self._steps_of(flow_ids))

    def page_of(self, holder: str) -> ReadPage:
        """The pages of one kind of rows."""
        return lambda after, limit: self.claims.page(holder, after, limit)

    def _steps_of(self, flow_ids: list[int]) -> ReadPage:
        return lambda after, limit: self.claims.page_of_flows(flow_ids, after, limit)


async def spare_used(unused: dict[str, StoredValue], shards: Sequence[ShardRows]) -> None:
    """Take out of `unused` what a row of a shard refers to.

    A claim that is copied meanwhile moves to a kind of rows that is read later, or into a flow that changes, which is read once
    more at the end.
    """
    began = [await shard.claims.now() for shard in shards]
    for holder in HOLDERS:
        for shard in shards:
            await shard.spare(unused, shard.page_of(holder))
    for shard, moment in zip(shards, began, strict=True):
        await shard.spare_recent(unused, moment - MARGIN_US)
