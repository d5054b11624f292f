"""Keeps the leases of steps that wait in the queues of workers, while there are any (K3, B2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.engine.execution.queued_steps import QueuedSteps

INTERVAL_SECONDS = 5.0
"""Pause between two looks: a third of the margin with which a lease is extended."""


class LeaseKeeper(Duty):
    """Has the leases of a shard extended."""

    def __init__(self, queued: QueuedSteps) -> None:
        self._queued = queued
        self.wanted = queued.wanted

    def interval(self) -> float:
        return INTERVAL_SECONDS

    async def run_once(self) -> None:
        await self._queued.keep_leases()
