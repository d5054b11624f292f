"""The outbox of a shard on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.receiving import OutboxDepth, OutboxEntry, OutboxRow
from dwarf_nats.store.statements import outbox

if TYPE_CHECKING:
    from dwarf_nats.ports.receiving import CreatedFlows
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.parts.replicas import SqlReplicas
    from dwarf_nats.store.postgres import Postgres


class SqlOutbox:
    """Implements `ports.OutboxStore`."""

    def __init__(self, database: Postgres, replicas: SqlReplicas) -> None:
        self._database = database
        self._replicas = replicas

    def on_enqueued(self, call: Callable[[], None]) -> None:
        self._database.listen(outbox.CHANNEL, call)

    async def take(self, limit: int, lease_ms: int) -> list[OutboxRow]:
        return [OutboxRow(*row) for row in await self._database.fetch(outbox.TAKE, limit, lease_ms * 1000)]

    async def send_away(self, row_ids: Sequence[int]) -> set[int]:
        return {row_id for (row_id,) in await self._database.fetch(outbox.SEND_AWAY, list(row_ids))}

    async def create(self, group: Sequence[tuple[int, NewFlow]], budget_ms: int) -> CreatedFlows:
        operation = outbox.CreateEnqueued(group=group, replica_id=self._replicas.replica_id, budget_ms=budget_ms)
        return await self._database.transact(lambda tx: tx.run(operation))

    async def remove(self, row_id: int) -> bool:
        return bool(await self._database.fetch(outbox.REMOVE, row_id))

    async def defer(self, row_id: int, delay_ms: int, reason: str) -> None:
        await self._database.fetch(outbox.DEFER, row_id, delay_ms * 1000, reason)

    async def reject(self, row_id: int, reason: str) -> None:
        await self._database.fetch(outbox.REJECT, row_id, reason)

    async def retry(self, row_id: int) -> bool:
        return bool(await self._database.fetch(outbox.RETRY, row_id))

    async def entries(self, after: int, limit: int, *, rejected: bool) -> list[OutboxEntry]:
        statement = outbox.REJECTED if rejected else outbox.ENTRIES
        return [OutboxEntry(*row) for row in await self._database.fetch(statement, after, limit)]

    async def depth(self, most: int) -> OutboxDepth:
        ((waiting, rejected, oldest_us),) = await self._database.fetch(outbox.DEPTH, most)
        return OutboxDepth(waiting, rejected, oldest_us)
