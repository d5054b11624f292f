"""The claims in the rows of one shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwarf_nats.ports.values import ClaimPage, Place, RecentFlows
from dwarf_nats.store.statements import claims
from dwarf_nats.workflow.claims import digests_in

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database


class SqlClaims:
    """Implements `ports.ClaimStore`. `has_outbox`: the database has an outbox."""

    def __init__(self, database: Database, *, has_outbox: bool) -> None:
        self._database = database
        self._has_outbox = has_outbox

    async def now(self) -> int:
        [(now,)] = await self._database.fetch(claims.NOW)
        return int(now)

    async def page(self, holder: str, after: Place | None, limit: int) -> ClaimPage:
        if holder == "outbox" and not self._has_outbox:
            return ClaimPage(set(), None)
        return await self._page(claims.HOLDERS[holder], after, limit)

    async def recent(self, since: int, after: int, limit: int) -> RecentFlows:
        rows = await self._database.fetch_by_index(claims.RECENT, after, since, limit)
        last = None
        found: list[int] = []
        for last, is_recent in rows:
            if is_recent:
                found.append(last)
        return RecentFlows(found, last if len(rows) == limit else None)

    async def page_of_flows(self, flow_ids: Sequence[int], after: Place | None, limit: int) -> ClaimPage:
        return await self._page(claims.OF_FLOWS, after, limit, list(flow_ids))

    async def _page(self, holder: claims.Holder, after: Place | None, limit: int, *more: Any) -> ClaimPage:
        place = after if after is not None else holder.start
        rows = await self._database.fetch_by_index(holder.page, *place, limit, claims.PATTERN, *more)
        digests: set[str] = set()
        last: Place | None = None
        for *key, text in rows:
            last = tuple(key)
            if text is not None:
                digests |= digests_in(text)
        return ClaimPage(digests, last if len(rows) == limit else None)
