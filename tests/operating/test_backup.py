"""A backup made while a replica works, restored into a fresh database: flows go on from there (X11)."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from dwarf_nats.dev_servers import PostgresServer, postgres_install
from dwarf_nats.engine import Engine
from dwarf_nats.errors import NotFound
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status

SOON = 20.0
PROGRAMS = postgres_install() / "bin"
_numbers = itertools.count(1)
Back = Callable[[], Awaitable[str]]
"""Puts what was saved into a fresh database; its DSN."""


async def _run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(str(PROGRAMS / program), *arguments)
    assert await process.wait() == 0


async def save_sqlite(dsn: str, folder: Path) -> Back:
    """As `sqlite3 dwarf.db "VACUUM INTO 'backup.db'"` does."""
    saved = folder / "backup.db"
    beside = sqlite3.connect(dsn.removeprefix("sqlite:///"))
    beside.execute("vacuum into ?", (str(saved),))
    beside.close()

    async def back() -> str:
        shutil.copy(saved, folder / "restored.db")
        return f"sqlite:///{folder}/restored.db"

    return back


class Dumps:
    """`pg_dump --format=custom`, and `pg_restore` into a database of its own."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.made: list[str] = []

    async def __call__(self, dsn: str, folder: Path) -> Back:
        await _run("pg_dump", "--format=custom", f"--file={folder}/dwarf.dump", dsn)

        async def back() -> str:
            self.made.append(f"restored_{next(_numbers)}")
            restored = await self._server.create_database(self.made[-1])
            await _run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={restored}", f"{folder}/dwarf.dump")
            return restored

        return back


@pytest.fixture
def save(request: pytest.FixtureRequest, dsn: str) -> Iterator[Callable[[str, Path], Awaitable[Back]]]:
    """Saves a database while it is in use."""
    if dsn.startswith("sqlite:"):
        yield save_sqlite
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    dumps = Dumps(server)
    yield dumps
    for name in dumps.made:
        asyncio.run(server.drop_database(name))


class Slow:
    """A task that stands still until told; remembers the steps it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, flow: Flow) -> dict[str, int]:
        self.asked.append(flow.step_key)
        self.began.set()
        await self.go_on.wait()
        return {"slow": 1}


def _engine(dsn: str, proxy: TaskProxy) -> Engine:
    # The replica that was at work when the backup was made stands in it, and is taken for dead after this time.
    return open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0, replica_timeout_ms=500))


async def test_flows_in_mid_run_go_on_from_the_backup_and_later_ones_are_unknown(
    dsn: str, save: Callable[[str, Path], Awaitable[Back]], tmp_path: Path
) -> None:
    proxy, slow = TaskProxy(), Slow()
    graph = Graph("two")
    graph.add_chain("slow", "quick", "END")
    proxy.handle_graph(graph)
    proxy.handle_task("slow", slow)
    proxy.handle_task("quick", lambda: {"quick": 1})
    paid = FlowOptions(idempotency_key="order-7")
    async with _engine(dsn, proxy) as engine:
        done = await engine.create_task("quick", start=True)
        await engine.await_(done, SOON)
        created = await engine.create("two")
        running = await engine.create("two", start=True)
        async with asyncio.timeout(SOON):
            await slow.began.wait()
        back = await save(dsn, tmp_path)
        slow.go_on.set()
        assert (await engine.await_(running, SOON)).status is Status.COMPLETED
        later = await engine.create_task("quick", {"order": 7}, paid, start=True)
        await engine.await_(later, SOON)
    before = dict(proxy.calls)

    async with _engine(await back(), proxy) as engine:
        assert (await engine.snapshot(done)).status is Status.COMPLETED
        assert (await engine.await_(running, SOON)).state == {"slow": 1, "quick": 1}
        await engine.start(created)
        assert (await engine.await_(created, SOON)).state == {"slow": 1, "quick": 1}
        with pytest.raises(NotFound):
            await engine.snapshot(later)
        again = await engine.create_task("quick", {"order": 7}, paid, start=True)
        assert again != later, "whoever repeats the request makes another flow: this one was never made"
        await engine.await_(again, SOON)
    assert slow.asked[1] == slow.asked[0], "the step in hand is the same step: its key stays"
    assert len(set(slow.asked)) == 2
    assert proxy.calls["quick"] - before["quick"] == 3, "what came after the backup happens once more"
