"""Servers and databases for tests. Servers are started lazily, one of each per test process."""

from __future__ import annotations

import asyncio
import itertools
import logging
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

# How long examples take says more about what else runs on the machine than about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a NATS server as slow: `make check` leaves them to `make test`."""
    for item in items:
        if "nats_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


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
def _postgres_template(postgres: PostgresServer) -> str:
    """A PostgreSQL database with the schema: to copy it is five times as fast as to migrate."""
    asyncio.run(migrate.migrate_postgres(asyncio.run(postgres.create_database("schema"))))
    return "schema"


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
def pg_dsn(postgres: PostgresServer, _postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database of the test's own, with the schema and nothing in it."""
    name = f"test_{next(_numbers)}"
    yield asyncio.run(postgres.create_database(name, _postgres_template))
    asyncio.run(postgres.drop_database(name))


@pytest.fixture
def empty_pg_dsn(postgres: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database of the test's own, without the schema."""
    name = f"test_{next(_numbers)}"
    yield asyncio.run(postgres.create_database(name))
    asyncio.run(postgres.drop_database(name))


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
