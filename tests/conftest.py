"""Servers and databases for tests. Servers are started lazily, one of each per test process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dwarf_nats.cli import logs
from dwarf_nats.clock import SystemClock
from dwarf_nats.dev_servers import NatsServer, PostgresServer
from dwarf_nats.store import migrate
from dwarf_nats.store.sqlite import Sqlite
from tests.support.databases import Databases

# How long examples take says more about what else runs on the machine than about the code. The examples are the same in every
# run, so that a test fails for a change and never by chance; `make fuzz` and `make model` look for others.
MORE = int(os.environ.get("DWARF_FUZZ", "0") or 0)
settings.register_profile(
    "shared",
    deadline=None,
    derandomize=not (MORE or int(os.environ.get("DWARF_EXAMPLES", "0") or 0)),
    max_examples=100 * max(1, MORE),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")


LONGEST = (
    "tests/chaos/test_chaos.py",
    "tests/recovery/",
    "tests/model/test_model.py",
    "tests/browser/",
    "tests/bench/",
    "tests/fuzz/",
    "tests/operating/test_documentation_site.py",
    "tests/operating/test_snippets.py",
)
"""Files whose single tests take longest. They come first: one that came last would leave the other workers without work."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, and mark those that need a NATS server as slow: `make check` leaves them to `make test`."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    for item in items:
        if "nats_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Keep what collecting has made out of every garbage collection from now on: it stays to the end, and is a lot."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_log_of_a_command_outlives_its_test() -> Iterator[None]:
    """A command that runs in this process sets up the log of the process, on a stream that ends with the command."""
    loggers = [logging.getLogger(name) for name in ("", "dwarf_nats", "alembic", "nats")]
    levels = [logger.level for logger in loggers]
    yield
    if not logs._in_use:
        return
    logs._in_use.clear()
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for handler in list(loggers[0].handlers):
        if isinstance(handler.formatter, logs.TextFormatter | logs.JsonFormatter):
            loggers[0].removeHandler(handler)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """A running nats-server, shared by the tests of this process: use a prefix of your own."""
    server = NatsServer()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL without fsync, shared by the tests of this process."""
    server = PostgresServer(fast=True)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop("immediate"))


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> Databases:
    """Databases on that server, with the schema and nothing in it."""
    return Databases(postgres)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the schema."""
    path = tmp_path_factory.mktemp("schema") / "dwarf.db"

    async def migrated() -> None:
        database = Sqlite(str(path), SystemClock())
        await database.open()
        await migrate.migrate_sqlite(database)
        await database.close()

    asyncio.run(migrated())
    return path


@pytest.fixture
def pg_dsn(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """A PostgreSQL database of the test's own, with the schema and nothing in it."""
    dsn = databases.take(unused=request.node.get_closest_marker("unused_database") is not None)
    yield dsn
    databases.give_back(dsn)


@pytest.fixture
def empty_pg_dsn(databases: Databases) -> Iterator[str]:
    """A PostgreSQL database of the test's own, without the schema."""
    dsn = databases.take_without_schema()
    yield dsn
    databases.drop(dsn)


@pytest.fixture
def sqlite_dsn(tmp_path: Path, _sqlite_template: Path) -> str:
    """An SQLite file of the test's own, with the schema and nothing in it."""
    path = tmp_path / "dwarf.db"
    shutil.copy(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def empty_sqlite_dsn(tmp_path: Path) -> str:
    """The place of an SQLite file that does not exist."""
    return f"sqlite:///{tmp_path / 'dwarf.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def dsn(request: pytest.FixtureRequest) -> str:
    """A database of each kind, with the schema and nothing in it."""
    value: str = request.getfixturevalue("pg_dsn" if request.param == "postgres" else "sqlite_dsn")
    return value


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def empty_dsn(request: pytest.FixtureRequest) -> str:
    """A database of each kind, without the schema."""
    value: str = request.getfixturevalue("empty_pg_dsn" if request.param == "postgres" else "empty_sqlite_dsn")
    return value
