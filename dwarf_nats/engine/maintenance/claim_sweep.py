"""The claim sweep: removes large values that no row refers to; the leader of the replicas of the home shard does it (B10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.claim_reading import ShardRows, spare_used
from dwarf_nats.engine.maintenance.duty import Duty
from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.ports.definitions import HOME
from dwarf_nats.telemetry import catalogue

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports.values import BucketContents, StoredValue, ValueBucket

SWEEP_SECONDS = 3_600.0
"""Between two sweeps: each reads all rows."""
DONE, AWAY, FAILED = "done", "away", "failed"
"""The outcomes of a sweep."""


class ClaimSweep(Duty):
    """Removes what two sweeps in a row have found old and unused. Values that were sent meanwhile are young."""

    def __init__(self, bucket: ValueBucket, replica: Replica) -> None:
        self._bucket = bucket
        self._deployment = replica.deployment
        self._log = replica.logger
        self._counters = replica.counters
        self._instruments = replica.instruments
        self._clock = replica.clock
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
            self._counters.value_sweeps.add(AWAY)
            return
        try:
            if await home.store.replicas.is_leader():
                self._counters.value_sweeps.add(DONE if await self._sweep(shards, home, before) else AWAY)
        except Unavailable as error:
            self._log.info("large values: nothing more is removed now: %s", error)
            self._counters.value_sweeps.add(AWAY)
        except DwarfError as error:
            self._log.warning("large values cannot be removed: %s", error)
            self._counters.value_sweeps.add(FAILED)

    async def _sweep(self, shards: list[Shard], home: Shard, before: dict[str, StoredValue]) -> bool:
        """Sweep; false if that was given up because a shard went away, or another replica leads now."""
        contents = await self._bucket.look()
        unused = {value.digest: value for value in contents.old}
        if unused:
            await spare_used(unused, [ShardRows(shard.store.claims, shard.pace) for shard in shards])
        if self._deployment.all_there() != shards or not await home.store.replicas.is_leader():
            return False
        removed: list[StoredValue] = []
        for digest, value in unused.items():
            if before.get(digest) != value:
                self._unused[digest] = value
            elif await self._bucket.remove(value):
                removed.append(value)
                self._counters.values_removed.add()
                self._counters.value_bytes_removed.add(n=value.size)
        for leftover in contents.leftovers:
            await self._bucket.drop(leftover)
        self._tell(contents, removed)
        return True

    def _tell(self, contents: BucketContents, removed: list[StoredValue]) -> None:
        doomed, doomed_bytes = len(self._unused), sum(value.size for value in self._unused.values())
        left = contents.objects - len(removed)
        left_bytes = contents.bytes - sum(value.size for value in removed)
        show = self._instruments.show
        show(catalogue.VALUES, {("kept",): left - doomed, ("unused",): doomed})
        show(catalogue.VALUE_BYTES, {("kept",): left_bytes - doomed_bytes, ("unused",): doomed_bytes})
        show(catalogue.LAST_SWEEP, {(): self._clock.now() / 1_000_000})
        self._log.info(
            "large values: %d removed, %d kept, of which %d are to go with the next sweep; %d leftovers removed",
            len(removed),
            left,
            doomed,
            len(contents.leftovers),
        )
