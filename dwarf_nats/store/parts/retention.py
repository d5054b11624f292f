"""The removal of old flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports import Found, Removal
from dwarf_nats.store.statements import retention

if TYPE_CHECKING:
    from dwarf_nats.rules.retention import Candidate
    from dwarf_nats.store.database import Database


class SqlRetention:
    """Implements `ports.RetentionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def look(self, after: tuple[int, int], age_us: int, limit: int) -> Found:
        return await self._database.transact_by_index(lambda tx: retention.look(tx, after, age_us, limit))

    async def remove(self, flow_ids: Sequence[int], rule_for: Callable[[Candidate, int], str]) -> int:
        return await self._database.transact_by_index(lambda tx: retention.remove(tx, flow_ids, rule_for))

    async def note_run(self, names: Sequence[str]) -> None:
        await self._database.transact(lambda tx: retention.note_run(tx, names))

    async def removals(self) -> dict[str, Removal]:
        return {name: Removal(removed, at) for name, removed, at in await self._database.fetch(retention.REMOVALS)}

    async def forget(self, name: str) -> None:
        await self._database.fetch(retention.FORGET, name)
