"""Flows that messages start, with the receipts of these, and the progress of sources."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.receiving import Receipt, SourceProgress
from dwarf_nats.store.statements import received

if TYPE_CHECKING:
    from dwarf_nats.ports.receiving import CreatedFlows
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Database
    from dwarf_nats.store.parts.replicas import SqlReplicas


class SqlReceiving:
    """Implements `ports.ReceivingStore`."""

    def __init__(self, database: Database, replicas: SqlReplicas) -> None:
        self._database = database
        self._replicas = replicas

    async def known(self, receipts: Collection[Receipt]) -> dict[Receipt, int]:
        return await self._database.read_aside(received.KnownReceipts(receipts)) if receipts else {}

    async def point(self, receipts: Collection[Receipt], *, to: int, shards: int) -> dict[Receipt, int]:
        operation = received.PointReceipts(receipts=set(receipts), to=to, shards=shards)
        return await self._database.transact(lambda tx: tx.run(operation))

    async def create(self, group: Sequence[tuple[Receipt, NewFlow]], *, shards: int, budget_ms: int) -> CreatedFlows:
        operation = received.CreateReceived(
            group=group, shards=shards, replica_id=self._replicas.replica_id, budget_ms=budget_ms
        )
        return await self._database.transact(lambda tx: tx.run(operation))

    async def remove_old(self, age_us: int, limit: int) -> int:
        return len(await self._database.fetch(received.REMOVE_OLD, age_us, limit))

    async def note(self, progress: SourceProgress) -> None:
        await self._database.fetch(received.NOTE, *progress)

    async def progress(self, sources: Sequence[str]) -> list[SourceProgress]:
        return [SourceProgress(*row) for row in await self._database.fetch(received.PROGRESS, list(sources))]

    async def remove_progress(self, age_us: int, kept: Sequence[str]) -> None:
        await self._database.fetch(received.REMOVE_PROGRESS, age_us, list(kept))
