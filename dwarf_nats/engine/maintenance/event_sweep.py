"""The event sweep: removes events whose time is over, and finishes what a replica left behind between two shards (E1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.engine.events import EventExchange
    from dwarf_nats.engine.shard import Shard

REMOVE_SECONDS = 60.0
"""Between two removals of events whose time is over: they are in nobody's way."""
SWEEP_SECONDS = 5.0
"""Between two sweeps of a deployment with several shards."""
REMOVAL_RUNS = round(REMOVE_SECONDS / SWEEP_SECONDS)
"""Runs from one removal to the next, where there are several shards."""
REMOVED_BATCH = 1_000
"""Events removed in one transaction: bounds its locks and its time."""


class EventSweep(Duty):
    """Sweeps the events of one shard. With one shard there is nothing to finish, and only the leader has something to do."""

    def __init__(self, exchange: EventExchange, shard: Shard) -> None:
        self._exchange = exchange
        self._shard = shard
        self._runs = 0

    def interval(self) -> float:
        return SWEEP_SECONDS if self._exchange.has_several_shards else REMOVE_SECONDS

    async def run_once(self) -> None:
        """Finish what is left behind, and now and then remove what is old."""
        self._runs += 1
        if self._exchange.has_several_shards:
            await self._exchange.sweep(self._shard)
            if self._runs % REMOVAL_RUNS:
                return
        store = self._shard.store
        while await store.replicas.is_leader() and await store.events.remove_old(REMOVED_BATCH) == REMOVED_BATCH:
            pass
        if self._exchange.has_several_shards and await store.replicas.is_leader():
            await self._exchange.remove_visits(self._shard)
