"""The claim sweep: removes large values that no row refers to; the leader of the replicas of the home shard does it (B10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty
from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.ports.definitions import HOME
from dwarf_nats.ports.values import HOLDERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports.values import ClaimPage, Place, StoredValue, ValueBucket

SWEEP_SECONDS = 3_600.0
"""Between two sweeps: each reads all rows."""
PAGE_ROWS = 200
"""Rows that one statement reads at most; fewer if they are large, so that it stays short."""
PAGE_FLOWS = 1_000
"""Flows of which one statement reads the times."""
MARGIN_US = 600_000_000
"""Flows that are so much older than the sweep are read twice: no transaction takes as long."""


class ClaimSweep(Duty):
    """Removes what two sweeps in a row have found old and unused.

    A claim that is copied while a sweep reads moves to a kind of rows that is read later, or into a flow that changes, which
    is read once more at the end. Values that were sent meanwhile are young.
    """

    def __init__(self, bucket: ValueBucket, replica: Replica) -> None:
        self._bucket = bucket
        self._deployment = replica.deployment
        self._log = replica.logger
        self._unused: dict[str, StoredValue] = {}
        """The objects that the last sweep found unused, by digest."""

    def interval(self) -> float:
        return SWEEP_SECONDS

    async def run_once(self) -> None:
        """Sweep. Removes nothing if a shard or the bucket is away, or becomes so meanwhile."""
        before, self._unused = self._unused, {}
        shards = self._deployment.all_there()
        home = next((shard for shard in shards if shard.number == HOME), None)
        if home is None:
            self._log.info("large values: nothing is removed while a shard is away")
            return
        try:
            if await home.store.replicas.is_leader():
                await self._sweep(shards, home, before)
        except Unavailable as error:
            self._log.info("large values: nothing more is removed now: %s", error)
        except DwarfError as error:
            self._log.warning("large values cannot be removed: %s", error)

    async def _sweep(self, shards: list[Shard], home: Shard, before: dict[str, StoredValue]) -> None:
        contents = await self._bucket.look()
        unused = {value.digest: value for value in contents.old}
        if unused:
            await self._spare(unused, shards)
        if self._deployment.all_there() != shards or not await home.store.replicas.is_leader():
            return
        removed = 0
        for digest, value in unused.items():
            if before.get(digest) == value:
                removed += await self._bucket.remove(value)
            else:
                self._unused[digest] = value
        for leftover in contents.leftovers:
            await self._bucket.drop(leftover)
        self._log.info(
            "large values: %d removed, %d kept, of which %d are to go with the next sweep; %d leftovers removed",
            removed,
            contents.objects - removed,
            len(self._unused),
            len(contents.leftovers),
        )

    async def _spare(self, unused: dict[str, StoredValue], shards: list[Shard]) -> None:
        """Take out of `unused` what a row refers to."""
        began = {shard.number: await shard.store.claims.now() for shard in shards}
        for holder in HOLDERS:
            for shard in shards:
                await _read(shard, unused, _pages_of(shard, holder))
        for shard in shards:
            await self._spare_recent(unused, shard, began[shard.number] - MARGIN_US)

    async def _spare_recent(self, unused: dict[str, StoredValue], shard: Shard, since: int) -> None:
        """Read the flows once more that changed since the sweep began: a fork has what was read nowhere else."""
        claims = shard.store.claims
        last: int | None = -1
        while last is not None:
            flow_ids, last = await claims.recent(since, last, PAGE_FLOWS)
            if flow_ids:
                await _read(shard, unused, _steps_of(shard, flow_ids))


def _pages_of(shard: Shard, holder: str) -> Callable[[Place | None, int], Awaitable[ClaimPage]]:
    return lambda after, limit: shard.store.claims.page(holder, after, limit)


def _steps_of(shard: Shard, flow_ids: list[int]) -> Callable[[Place | None, int], Awaitable[ClaimPage]]:
    return lambda after, limit: shard.store.claims.page_of_flows(flow_ids, after, limit)


async def _read(
    shard: Shard, unused: dict[str, StoredValue], page: Callable[[Place | None, int], Awaitable[ClaimPage]]
) -> None:
    """Read all pages, at the pace of the shard."""
    last: Place | None = None

    async def work(rows: Sequence[int]) -> ClaimPage:
        return await page(last, len(rows))

    while True:
        _, found = await shard.pace.run(range(PAGE_ROWS), work)
        for digest in found.digests:
            unused.pop(digest, None)
        last = found.last
        if last is None:
            return
