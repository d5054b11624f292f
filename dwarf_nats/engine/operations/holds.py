"""Put, list and delete holds (K2)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from dwarf_nats.actor import current_actor
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.holds import KIND, Hold, name_of, new_hold, write_hold
from dwarf_nats.workflow.records import HoldInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard


HoldInfos: TypeAlias = list[HoldInfo]


class HoldOperations:
    """The operations on holds. `Engine` documents them."""

    def __init__(self, shards: Mapping[int, Shard], replica: Replica) -> None:
        self._shards = shards
        self._definitions = replica.definitions
        self._book = replica.holds
        self._clock = replica.clock

    async def put(self, task: str, workflow: str, *, reason: str, until: int | None) -> HoldInfo:
        hold = new_hold(task, workflow, reason=reason, until=until, now=self._clock.now())
        await self._definitions.refresh()
        before = next((one for one in self._book.lasting() if one.name == hold.name), None)
        since = hold.since if before is None else before.since
        hold = msgspec.structs.replace(hold, since=since, actor=current_actor())
        await self._definitions.put(KIND, hold.name, write_hold(hold))
        return (await self._shown([hold]))[0]

    async def list(self) -> HoldInfos:
        await self._definitions.refresh()
        return await self._shown(self._book.lasting())

    async def delete(self, task: str, workflow: str) -> None:
        await self._definitions.delete(KIND, name_of(task, workflow))

    async def _shown(self, holds: Sequence[Hold]) -> HoldInfos:
        """The holds with the steps that they keep, of the shards that answer."""
        counts: Counter[str] = Counter()
        names = [hold.name for hold in holds]
        if names:
            for found in await asyncio.gather(*(_counts(shard, names) for shard in self._shards.values())):
                counts.update(found)
        return [
            HoldInfo(
                task=hold.task,
                workflow=hold.workflow,
                reason=hold.reason,
                since=hold.since,
                until=hold.until,
                actor=hold.actor,
                steps=counts[hold.name],
            )
            for hold in holds
        ]


async def _counts(shard: Shard, names: Sequence[str]) -> dict[str, int]:
    try:
        return await shard.store.holds.counts(names)
    except Unavailable:
        return {}
