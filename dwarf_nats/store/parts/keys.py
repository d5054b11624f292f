"""Idempotency keys, kept at their home shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports import DeletedFlow, KeyLookup
from dwarf_nats.store import deployment

if TYPE_CHECKING:
    from dwarf_nats.rules.rows import Reservation
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Database


class SqlKeys:
    """Implements `ports.KeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lookup(self, fairness_key: str, idempotency_key: str) -> KeyLookup:
        return KeyLookup(*await deployment.key(self._database, fairness_key, idempotency_key))

    async def reserve(self, new: NewFlow) -> Reservation | None:
        try:
            return await self._database.transact(lambda tx: deployment.reserve(tx, new))
        except deployment.OtherCount:
            return None

    async def free(self, fairness_key: str, idempotency_key: str, shard: int, flow_id: int) -> None:
        await deployment.free_key(self._database, fairness_key, idempotency_key, shard, flow_id)

    async def is_placed(self, flow_id: int) -> bool | None:
        return await deployment.placed(self._database, flow_id)

    async def fence(self, fairness_key: str, idempotency_key: str, flow_id: int) -> bool:
        return await deployment.fence(self._database, fairness_key, idempotency_key, flow_id)

    async def deleted_flows(self, limit: int) -> list[DeletedFlow]:
        return [DeletedFlow(*row) for row in await deployment.gone(self._database, limit)]

    async def confirm_deleted(self, flow_ids: Sequence[int]) -> None:
        await deployment.told(self._database, flow_ids)
