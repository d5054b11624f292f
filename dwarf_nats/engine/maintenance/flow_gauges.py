"""The gauges of flows by workflow and status: read by one replica, now and then, up to a bound (T1)."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.telemetry import catalogue
from dwarf_nats.telemetry.catalogue import COUNTED_FLOWS
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.telemetry.counters import Labels

STATUSES = (Status.CREATED, Status.RUNNING, Status.INTERRUPTED, Status.FAILED, Status.CANCELLED)
INTERVAL_US = 60_000_000
"""Between two counts: each reads up to `COUNTED_FLOWS` flows of each status."""


class FlowGauges:
    """Counts flows on all shards, if this replica leads the first shard that answers; another replica counts otherwise."""

    def __init__(self, replica: Replica, shards: Mapping[int, Shard]) -> None:
        self._instruments = replica.instruments
        self._clock = replica.clock
        self._shards = shards
        self._read_at = -INTERVAL_US
        self._reading = asyncio.Lock()

    async def read_if_due(self) -> None:
        """Count if that was not done for a while. Raises `Unavailable`."""
        now = self._clock.now()
        if now - self._read_at >= INTERVAL_US:
            self._read_at = now
            await self.read()

    async def read(self) -> None:
        """Count now; one count after the other, so that what is shown last is the newest. Raises `Unavailable`."""
        async with self._reading:
            await self._read()

    async def _read(self) -> None:
        there = [shard for _, shard in sorted(self._shards.items()) if not shard.availability.is_away]
        flows: Counter[Labels] = Counter()
        oldest: dict[Status, dict[Labels, float]] = defaultdict(dict)
        if there and await there[0].store.replicas.is_leader():
            for shard in there:
                for status in STATUSES:
                    for workflow, number, oldest_us in await shard.store.statistics.flows(status, COUNTED_FLOWS):
                        flows[workflow, status.value] += number
                        ages = oldest[status]
                        ages[workflow,] = max(ages.get((workflow,), 0.0), oldest_us / 1_000_000)
        show = self._instruments.show
        show(catalogue.FLOWS, flows)
        show(catalogue.OLDEST_RUNNING, oldest[Status.RUNNING])
        show(catalogue.OLDEST_PAUSED, oldest[Status.INTERRUPTED])
