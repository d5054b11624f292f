"""Graphs kept by digest, and the registry that names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports import PruneResult, RegisteredGraph
from dwarf_nats.store import graphs

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database


class SqlGraphs:
    """Implements `ports.GraphStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self.shard = shard
        self._database = database

    async def save(self, digest: str, body: bytes) -> int:
        return await graphs.save(self._database, digest, body)

    async def load(self, digest: str) -> bytes | None:
        rows = await self._database.fetch("select body from dwarf_graphs where digest = $1", digest)
        return rows[0][0].encode() if rows else None

    async def prune(self, after: str, limit: int) -> PruneResult:
        return PruneResult(*await graphs.prune(self._database, after, limit))

    async def register(self, name: str, digest: str, updated_at: int | None = None) -> int:
        rows = await self._database.fetch(
            "insert into dwarf_registry (name, digest, updated_at) values ($1, $2, coalesce($3, {now}))"
            " on conflict (name) do update set digest = excluded.digest, updated_at = excluded.updated_at"
            " where $3 is null or dwarf_registry.updated_at < excluded.updated_at"
            " returning updated_at",
            name,
            digest,
            updated_at,
        )
        return int(rows[0][0]) if rows else 0

    async def unregister(self, name: str) -> bool:
        return bool(await self._database.fetch("delete from dwarf_registry where name = $1 returning name", name))

    async def registered(self) -> list[RegisteredGraph]:
        rows = await self._database.fetch("select name, digest, updated_at from dwarf_registry order by name")
        return [RegisteredGraph(*row) for row in rows]

    async def registered_digests(self, names: Sequence[str]) -> dict[str, str]:
        rows = await self._database.fetch(
            "select name, digest from dwarf_registry where name {in_text:$1}", list(names)
        )
        return {row[0]: row[1] for row in rows}
