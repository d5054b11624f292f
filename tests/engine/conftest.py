"""An engine on each database, and one whose clock is moved by hand."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.ports import Ports
from dwarf_nats.library import engine_on, open_engine
from dwarf_nats.ports import TaskCapabilities
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from tests.support.databases import Databases
from tests.support.direct import DirectTasks
from tests.support.engines import Dsns, Remembered, line


@pytest.fixture
def proxy() -> TaskProxy:
    """Serves `line`: add, double; `single`: add."""
    made = TaskProxy()
    made.handle_graph(line("line", "add", "double"))
    made.handle_graph(line("single", "add"))
    made.handle_task("add", lambda n=0: {"n": n + 1})
    made.handle_task("double", lambda n: {"n": n * 2})
    return made


@pytest.fixture
def heard() -> Remembered:
    return Remembered()


@pytest.fixture
async def engine(dsn: str, proxy: TaskProxy, heard: Remembered) -> AsyncIterator[Engine]:
    """A started engine on each database; the tests leave nothing in hand that they want to finish.

    The one on PostgreSQL asks its tasks directly, the one on SQLite by coroutines: the two ways are the same on both.
    """
    capabilities = TaskCapabilities() if dsn.startswith("sqlite") else DirectTasks(proxy).capabilities
    ports = Ports(tasks=proxy, capabilities=capabilities, graphs=proxy, notices=heard, signals=heard)
    async with engine_on([dsn], ports, EngineSettings(drain_ms=0)) as made:
        yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def timed(proxy: TaskProxy, heard: Remembered, clock: ManualClock) -> AsyncIterator[Engine]:
    """A started engine on SQLite in memory whose time is `clock`."""
    made = open_engine(
        "sqlite://",
        tasks=proxy,
        graphs=proxy,
        notices=heard,
        signals=heard,
        settings=EngineSettings(drain_ms=0),
        clock=clock,
    )
    async with made:
        yield made


@pytest.fixture
def shared(databases: Databases) -> Iterator[Dsns]:
    """So many empty databases that several replicas can share."""
    taken: list[str] = []

    def take(count: int) -> list[str]:
        new = [databases.take() for _ in range(count)]
        taken.extend(new)
        return new

    yield take
    for dsn in taken:
        databases.give_back(dsn)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def dsns(request: pytest.FixtureRequest, tmp_path: Path) -> Dsns:
    """So many empty databases of each kind."""
    if request.param == "sqlite":
        return lambda count: [f"sqlite:///{tmp_path / f'{secrets.token_hex(4)}.db'}" for _ in range(count)]
    shared: Dsns = request.getfixturevalue("shared")
    return shared
