"""A store on each database."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dwarf_nats.clock import ManualClock, SystemClock
from dwarf_nats.store.store import SqlStore
from tests.support.databases import Databases


@pytest.fixture(scope="module")
def module_pg_dsn(databases: Databases) -> Iterator[str]:
    """A PostgreSQL database with the schema, for the tests of a module that only read what the first of them writes."""
    dsn = databases.take(unused=True)
    yield dsn
    databases.drop(dsn)


@pytest.fixture(scope="module")
def module_sqlite_dsn(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> str:
    """An SQLite file with the schema, for the tests of a module that only read what the first of them writes."""
    path = tmp_path_factory.mktemp("module") / "dwarf.db"
    shutil.copy(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def module_dsn(request: pytest.FixtureRequest) -> str:
    """A database of each kind, with the schema, for the tests of a module that only read what the first of them writes."""
    value: str = request.getfixturevalue("module_pg_dsn" if request.param == "postgres" else "module_sqlite_dsn")
    return value


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
