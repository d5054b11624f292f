"""Limits: put, listed and deleted while everything runs (K1)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from dwarf_nats.workflow.limit import KIND, LimitInfo, checked_limit, limits_of

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.workflow.limit import Limit

Infos = list[LimitInfo]


class LimitOperations:
    """The operations on limits."""

    def __init__(self, replica: Replica) -> None:
        self._definitions = replica.definitions
        self._limits = replica.limits
        self._clock = replica.clock

    async def put(self, limit: Limit) -> None:
        """Set a limit. What was counted under its name before is counted on. Raises `BadRequest`, `Unavailable`."""
        checked_limit(limit)
        known = limits_of({one.name: one for one in await self._definitions.list(KIND)}).get(limit.name)
        same = known is not None and (known.task, known.workflow) == (limit.task, limit.workflow)
        since = known.since if known is not None and same else self._clock.now()
        await self._definitions.put(KIND, limit.name, msgspec.structs.replace(limit, since=since).body())

    async def list(self) -> Infos:
        """Return the limits by name, with what they count. Raises `Unavailable`."""
        found = {one.name: one for one in await self._definitions.list(KIND)}
        if not found:
            return []
        running = await self._limits.home.running()
        waiting: Counter[str] = Counter()
        for shard in self._limits.opened():
            waiting.update({name: one.steps for name, one in (await shard.limits.waiting()).items()})
        return [
            LimitInfo(limit, running.get(name, 0), waiting[name], found[name].updated_at)
            for name, limit in limits_of(found).items()
        ]

    async def delete(self, name: str) -> None:
        """Remove a limit; who waits for it may begin. Raises `NotFound`, `Unavailable`."""
        await self._definitions.delete(KIND, name)
