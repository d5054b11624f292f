"""The facts that the replicas of a deployment agree on."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from dwarf_nats.ports.shared import NewerSchema
from dwarf_nats.rules.rows import ShardIdentity
from dwarf_nats.rules.shard_counts import read_counts, write_counts
from dwarf_nats.store.revisions import REVISIONS, is_later
from dwarf_nats.store.statements import deployment

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database


class SqlDeployment:
    """Implements `ports.DeploymentStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self._shard = shard
        self._database = database

    async def identity(self) -> ShardIdentity | None:
        for name, shard, shards, counts in await self._database.fetch(deployment.IDENTITY):
            return ShardIdentity(name, shard, shards, read_counts(counts, shards))
        return None

    async def join(self, name: str) -> ShardIdentity:
        await self._database.fetch(deployment.JOIN, name, self._shard)
        identity = await self.identity()
        assert identity is not None
        return identity

    async def newer_schema(self) -> NewerSchema | None:
        ((revision, oldest),) = await self._database.fetch(deployment.SCHEMA)
        if not is_later(revision):
            return None
        return NewerSchema(revision, may_stay=oldest in REVISIONS)

    async def raise_shards(self, shards: int, counts: Collection[int], *, before: int) -> bool:
        return bool(await self._database.fetch(deployment.RAISE_SHARDS, shards, write_counts(counts), before))

    async def least_known_shards(self, timeout_ms: int) -> int:
        ((shards,),) = await self._database.fetch(deployment.LEAST_KNOWN_SHARDS, timeout_ms * 1000)
        return int(shards)
