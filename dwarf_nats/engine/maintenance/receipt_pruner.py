"""Removes what is remembered of messages after its time (R1); the leader of the replicas does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty
from dwarf_nats.rules.receiving import REMEMBERED_US

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.sources import SourceRegister
    from dwarf_nats.ports import ReceivingStore, ReplicaStore

PRUNE_SECONDS = 600.0
"""Between two runs: what is removed has been kept for days."""
BATCH = 5_000
"""Messages that are forgotten in one transaction: bounds its locks and its time."""


class ReceiptPruner(Duty):
    """Forgets messages that were used more than two days ago; on the home of the definitions also sources that are gone."""

    def __init__(self, replicas: ReplicaStore, receiving: ReceivingStore, sources: SourceRegister | None) -> None:
        self._replicas = replicas
        self._receiving = receiving
        self._sources = sources

    def interval(self) -> float:
        return PRUNE_SECONDS

    async def run_once(self) -> None:
        """Remove all there are, however many."""
        while await self._replicas.is_leader() and await self._receiving.remove_old(REMEMBERED_US, BATCH) == BATCH:
            pass
        if self._sources is not None and await self._replicas.is_leader():
            await self._sources.forget_old()
