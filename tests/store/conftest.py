"""A store on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dwarf_nats.clock import ManualClock, SystemClock
from dwarf_nats.store.store import SqlStore


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[SqlStore]:
    """An opened store on an empty database, of each kind."""
    opened = SqlStore(1, dsn, pool=4, clock=SystemClock())
    await opened.open("one", migrated=True)
    yield opened
    await opened.close()


@pytest.fixture
async def pg_stores(pg_dsn: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Two replicas' stores on one PostgreSQL database."""
    stores = [SqlStore(1, pg_dsn, pool=4, clock=SystemClock()) for _ in range(2)]
    for number, opened in enumerate(stores):
        await opened.open(f"replica {number}", migrated=True)
    yield stores[0], stores[1]
    for opened in stores:
        await opened.close()


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def timed(sqlite_dsn: str, manual: ManualClock) -> AsyncIterator[SqlStore]:
    """A store on SQLite whose time is `manual`."""
    opened = SqlStore(1, sqlite_dsn, pool=1, clock=manual)
    await opened.open("one", migrated=True)
    yield opened
    await opened.close()
