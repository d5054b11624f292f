"""Idempotency keys, kept at their home shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports import DeletedFlow, KeyLookup
from dwarf_nats.rules.rows import Reservation
from dwarf_nats.rules.shard_counts import read_counts
from dwarf_nats.store.statements import keys

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Database


class SqlKeys:
    """Implements `ports.KeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lookup(self, fairness_key: str, idempotency_key: str) -> KeyLookup:
        for shards, counts, shard, *more in await self._database.fetch(keys.LOOK_UP, fairness_key, idempotency_key):
            held = None if shard is None else Reservation(shard, *more)
            return KeyLookup(shards, read_counts(counts, shards), held)
        return KeyLookup(0, frozenset(), None)

    async def reserve(self, new: NewFlow) -> Reservation | None:
        try:
            return await self._database.transact(lambda tx: keys.reserve(tx, new))
        except keys.OtherCount:
            return None

    async def free(self, fairness_key: str, idempotency_key: str, shard: int, flow_id: int) -> None:
        await self._database.fetch(keys.FREE, fairness_key, idempotency_key, shard, flow_id)

    async def is_placed(self, flow_id: int) -> bool | None:
        for (there,) in await self._database.fetch(keys.IS_PLACED, flow_id):
            return bool(there)
        return None

    async def fence(self, fairness_key: str, idempotency_key: str, flow_id: int) -> bool:
        return bool(await self._database.fetch(keys.USE_ID, flow_id, fairness_key, idempotency_key, 1))

    async def deleted_flows(self, limit: int) -> list[DeletedFlow]:
        return [DeletedFlow(*row) for row in await self._database.fetch(keys.DELETED, limit)]

    async def confirm_deleted(self, flow_ids: Sequence[int]) -> None:
        await self._database.fetch(keys.CONFIRM_DELETED, list(flow_ids))
        await self._database.fetch(keys.REMOVE_OLD, keys.REMEMBERED_US)
