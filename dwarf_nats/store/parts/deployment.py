"""What the replicas of a deployment agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.store import deployment

if TYPE_CHECKING:
    from dwarf_nats.rules.rows import ShardIdentity
    from dwarf_nats.store.database import Database


class SqlDeployment:
    """Implements `ports.DeploymentStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self._shard = shard
        self._database = database

    async def identity(self) -> ShardIdentity | None:
        return await deployment.identity(self._database)

    async def join(self, name: str) -> ShardIdentity:
        return await deployment.enter(self._database, name, self._shard)

    async def raise_shards(self, shards: int) -> None:
        await deployment.raise_shards(self._database, shards)

    async def least_known_shards(self, timeout_ms: int) -> int:
        return await deployment.least_known(self._database, timeout_ms)
