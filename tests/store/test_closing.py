"""A database that is closed leaves no connection behind."""

from __future__ import annotations

import asyncio

import pytest

from dwarf_nats.errors import Unavailable
from dwarf_nats.store.postgres import Postgres


@pytest.mark.slow
@pytest.mark.parametrize("turns", [0, 1, 20], ids=["at once", "soon", "later"])
async def test_a_pool_that_was_replaced_is_closed_with_its_database(pg_dsn: str, turns: int) -> None:
    """Also while a statement still runs on it; `turns` of the loop pass between the change of its size and the close."""
    database = Postgres(pg_dsn, 2)
    await database.open()
    begun = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as tx:
            await tx.fetch("select 1")
            begun.set()
            await tx.fetch("select pg_sleep(600)")

    working = asyncio.create_task(work())
    await begun.wait()
    database.resize(3)
    for _ in range(turns):
        await asyncio.sleep(0)
    await database.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(working, 20)
