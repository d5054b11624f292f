"""A task that is cancelled in a transaction ends as cancelled, also if its database is closed meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.store.store import open_database


async def test_a_cancellation_in_a_transaction_of_a_closed_database_is_not_lost(dsn: str) -> None:
    """Else the job of a replica that stops would take it for an outage, go on, and hold up the stop for ever."""
    database = open_database(dsn, 2, SystemClock())
    await database.open_shard(migrated=True)
    begun, never = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with database.transaction() as tx:
            await tx.fetch("select 1")
            begun.set()
            await never.wait()

    working = asyncio.create_task(work())
    await begun.wait()
    closing = asyncio.create_task(database.close())
    await asyncio.wait({closing}, timeout=0.05)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await closing
