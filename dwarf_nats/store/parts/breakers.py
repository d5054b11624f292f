"""Tripped circuit breakers and the steps that are parked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.store.statements import breakers

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import ReadyStep
    from dwarf_nats.store.database import Database


class SqlBreakers:
    """Implements `ports.BreakerStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def trip(self, url: str, cause: str) -> None:
        await self._database.fetch(breakers.TRIP, url, cause)

    async def untrip(self, url: str) -> None:
        await self._database.fetch(breakers.UNTRIP, url)

    async def park(self, url: str) -> None:
        await self._database.transact_by_index(lambda tx: breakers.park(tx, url))

    async def release(self, url: str, limit: int) -> list[ReadyStep]:
        return await self._database.transact_by_index(lambda tx: breakers.release(tx, url, limit))

    async def next_probe(self, url: str) -> int | None:
        for (due_in,) in await self._database.fetch_by_index(breakers.NEXT_PROBE, url):
            return int(due_in)
        return None

    async def is_tripped(self, url: str) -> bool:
        return bool(await self._database.fetch_by_index(breakers.IS_TRIPPED, url))

    async def tripped_tasks(self) -> dict[str, str]:
        causes: dict[str, str] = {}
        for url, cause in await self._database.fetch_by_index(breakers.TRIPPED_TASKS):
            causes[url] = cause
        return causes

    async def parked_tasks(self) -> list[str]:
        return [url for (url,) in await self._database.fetch_by_index(breakers.PARKED_TASKS)]
