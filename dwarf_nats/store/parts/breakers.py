"""Tripped circuit breakers and the steps that are parked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.store import breakers

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import ReadyStep
    from dwarf_nats.store.database import Database


class SqlBreakers:
    """Implements `ports.BreakerStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def trip(self, url: str, cause: str) -> None:
        await breakers.trip(self._database, url, cause)

    async def untrip(self, url: str) -> None:
        await breakers.untrip(self._database, url)

    async def park(self, url: str) -> None:
        await self._database.transact_by_index(lambda tx: breakers.park(tx, url))

    async def release(self, url: str, limit: int) -> list[ReadyStep]:
        return await self._database.transact_by_index(lambda tx: breakers.release(tx, url, limit))

    async def next_probe(self, url: str) -> int | None:
        return await breakers.next_probe(self._database, url)

    async def is_tripped(self, url: str) -> bool:
        return await breakers.is_tripped(self._database, url)

    async def tripped_tasks(self) -> dict[str, str]:
        return await breakers.tripped_tasks(self._database)

    async def parked_tasks(self) -> list[str]:
        return await breakers.parked_tasks(self._database)
