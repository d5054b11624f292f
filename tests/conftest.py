"""Servers and databases for tests. Servers are started lazily, one of each per test process."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dwarf_nats.cli import logs
from dwarf_nats.embedded import NatsServer, PostgresServer

# How long examples take says more about what else runs on the machine than about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
_numbers = itertools.count(1)


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


@pytest.fixture
def pg_dsn(postgres: PostgresServer) -> Iterator[str]:
    """An empty PostgreSQL database of the test's own."""
    name = f"test_{next(_numbers)}"
    yield asyncio.run(postgres.create_database(name))
    asyncio.run(postgres.drop_database(name))


@pytest.fixture
def sqlite_dsn(tmp_path: Path) -> str:
    """An empty SQLite file of the test's own."""
    return f"sqlite:///{tmp_path / 'dwarf.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def dsn(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    value: str = request.getfixturevalue("pg_dsn" if request.param == "postgres" else "sqlite_dsn")
    return value
