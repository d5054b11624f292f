"""Graphs kept by digest, and the registry that names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports import PruneResult, RegisteredGraph
from dwarf_nats.store.statements import graphs

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database


class SqlGraphs:
    """Implements `ports.GraphStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self.shard = shard
        self._database = database

    async def save(self, digest: str, body: bytes) -> int:
        rows = await self._database.fetch(graphs.KEEP_LONGER, digest)
        if not rows:
            rows = await self._database.fetch(graphs.SAVE, digest, body.decode())
        ((kept_until,),) = rows
        return int(kept_until)

    async def load(self, digest: str) -> bytes | None:
        for (body,) in await self._database.fetch(graphs.LOAD, digest):
            return bytes(body.encode())
        return None

    async def prune(self, after: str, limit: int) -> PruneResult:
        removed = await self._database.transact_by_index(lambda tx: graphs.remove_marked(tx, limit))
        return PruneResult(
            removed, await self._database.transact_by_index(lambda tx: graphs.mark_unused(tx, after, limit))
        )

    async def register(self, name: str, digest: str, updated_at: int | None = None) -> int:
        for (at,) in await self._database.fetch(graphs.REGISTER, name, digest, updated_at):
            return int(at)
        return 0

    async def unregister(self, name: str) -> bool:
        return bool(await self._database.fetch(graphs.UNREGISTER, name))

    async def registered(self) -> list[RegisteredGraph]:
        return [RegisteredGraph(*row) for row in await self._database.fetch(graphs.REGISTERED)]

    async def registered_digests(self, names: Sequence[str]) -> dict[str, str]:
        digests: dict[str, str] = {}
        for name, digest in await self._database.fetch(graphs.REGISTERED_DIGESTS, list(names)):
            digests[name] = digest
        return digests
