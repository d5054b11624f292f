"""Definitions, kept by kind and name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.ports import Definition
from dwarf_nats.store.statements import definitions

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database


class SqlDefinitions:
    """Implements `ports.DefinitionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, kind: str, name: str, body: str) -> Definition:
        return await self._database.transact(lambda tx: definitions.put(tx, kind, name, body))

    async def delete(self, kind: str, name: str) -> bool:
        return await self._database.transact(lambda tx: definitions.delete(tx, kind, name))

    async def revision(self) -> int:
        for (revision,) in await self._database.fetch(definitions.REVISION):
            return int(revision)
        return 0

    async def all(self) -> tuple[int, list[Definition]]:
        revision = await self.revision()  # first: what changes meanwhile is read once more
        return revision, [Definition(*row) for row in await self._database.fetch(definitions.ALL)]
