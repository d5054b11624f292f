"""A database that is there and refuses (B6; semantics: database-errors): results wait, callers get a 503, nothing fails."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.ports import DatabaseAway, StatementRefused
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store import sqlite
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.records import Outcome
from tests.support.engines import SOON, Gate, line

pytestmark = pytest.mark.slow

Trouble = Callable[[str], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def admin(dsn: str) -> AsyncIterator[Callable[[str], Any]]:
    """Somebody else's session: runs statements."""
    if dsn.startswith("sqlite"):
        with sqlite3.connect(dsn.removeprefix("sqlite:///"), isolation_level=None, timeout=SOON) as raw:

            async def execute(sql: str) -> None:
                for one in sql.split(";"):
                    raw.execute(one)

            yield execute
        raw.close()
        return
    connection = await asyncpg.connect(dsn)
    try:
        yield connection.execute
    finally:
        await connection.close()


def renamed(table: str) -> Trouble:
    @asynccontextmanager
    async def trouble(dsn: str) -> AsyncIterator[None]:
        async with admin(dsn) as execute:
            await execute(f"alter table {table} rename to gone")
            yield
            await execute(f"alter table gone rename to {table}")

    return trouble


def locked(setting: str) -> Trouble:
    """The steps are locked, and the sessions of the service have a time-out that is shorter."""

    @asynccontextmanager
    async def trouble(dsn: str) -> AsyncIterator[None]:
        async with admin(dsn) as execute, admin(dsn) as other:
            name = dsn.rsplit("/", 1)[1]
            await execute(f"alter database {name} set {setting} = '40ms'")
            await _end_sessions(execute)
            await other("begin; lock table dwarf_steps, dwarf_flows in access exclusive mode")
            yield
            await other("rollback")
            await execute(f"alter database {name} reset {setting}")
            await _end_sessions(execute)

    return trouble


@asynccontextmanager
async def read_only(dsn: str) -> AsyncIterator[None]:
    """As after a failover to a standby."""
    async with admin(dsn) as execute:
        name = dsn.rsplit("/", 1)[1]
        await execute(f"alter database {name} set default_transaction_read_only = on")
        await _end_sessions(execute)
        yield
        await execute("set default_transaction_read_only = off")
        await execute(f"alter database {name} reset default_transaction_read_only")


@asynccontextmanager
async def file_locked(dsn: str) -> AsyncIterator[None]:
    async with admin(dsn) as execute:
        await execute("begin immediate")
        yield
        await execute("rollback")


async def _end_sessions(execute: Callable[[str], Any]) -> None:
    await execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and"
        " application_name = 'dwarf-nats'"
    )


TROUBLES = [
    pytest.param(("sqlite_dsn", renamed("dwarf_steps")), id="sqlite-table gone"),
    pytest.param(("sqlite_dsn", renamed("dwarf_flows")), id="sqlite-other table gone"),
    pytest.param(("sqlite_dsn", file_locked), id="sqlite-locked"),
    pytest.param(("pg_dsn", renamed("dwarf_steps")), id="postgres-table gone", marks=pytest.mark.slow),
    pytest.param(("pg_dsn", renamed("dwarf_flows")), id="postgres-other table gone", marks=pytest.mark.slow),
    pytest.param(("pg_dsn", locked("lock_timeout")), id="postgres-lock_timeout", marks=pytest.mark.slow),
    pytest.param(("pg_dsn", locked("statement_timeout")), id="postgres-statement_timeout", marks=pytest.mark.slow),
    pytest.param(("pg_dsn", read_only), id="postgres-read only", marks=pytest.mark.slow),
]


@pytest.fixture(params=TROUBLES)
def troubled(request: pytest.FixtureRequest) -> tuple[str, Trouble]:
    """A database, and what may befall it."""
    fixture, trouble = request.param
    return request.getfixturevalue(fixture), trouble


async def test_what_the_database_refuses_for_a_while_is_written_later(
    troubled: tuple[str, Trouble], proxy: TaskProxy
) -> None:
    """B6: the result of a task that succeeded is kept and the task not run again; operations answer 503."""
    dsn, trouble = troubled
    gate = Gate({"n": 7})
    proxy.handle_graph(line("gated", "gate"))
    proxy.handle_task("gate", gate)
    async with open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0)) as engine:
        if dsn.startswith("sqlite"):
            await engine.shards[1].store.database.fetch("pragma busy_timeout = 20")
        flow = await engine.create("gated", {}, start=True)
        await gate.began()
        async with trouble(dsn):
            before = engine.shards[1].committer.outages
            gate.open()
            async with asyncio.timeout(SOON):
                while engine.shards[1].committer.outages == before:
                    await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="try again"):
                await engine.create("line", {"n": 1}, start=True)
            assert len(engine.shards[1].in_flight.steps) == 1
        outcome = await _when_back(lambda: engine.await_(flow, SOON))
        assert (outcome.status, outcome.state, gate.entered) == ("completed", {"n": 7}, 1)
        assert (await _when_back(lambda: engine.run("line", {"n": 1}, timeout=SOON))).state == {"n": 4}


async def _when_back(operation: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """Ask again for as long as the database is away, as a caller would."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                return await operation()
            except Unavailable:
                await asyncio.sleep(0)


@pytest.mark.slow
async def test_rights_that_are_taken_away_are_waited_for(empty_pg_dsn: str, proxy: TaskProxy) -> None:
    """Semantics: database-errors; a right that is missing says nothing of the value."""
    name = empty_pg_dsn.rsplit("/", 1)[1]
    gate = Gate()
    proxy.handle_graph(line("gated", "gate"))
    proxy.handle_task("gate", gate)
    async with admin(empty_pg_dsn) as execute:
        await execute(f"create role {name}_app login; grant all on schema public to {name}_app")
        theirs = empty_pg_dsn.replace("postgres@", f"{name}_app@")
        try:
            async with open_engine(theirs, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0)) as engine:
                flow = await engine.create("gated", {}, start=True)
                await gate.began()
                await execute(f"alter table dwarf_steps owner to postgres; revoke all on dwarf_steps from {name}_app")
                gate.open()
                async with asyncio.timeout(SOON):
                    while not engine.shards[1].committer.outages:
                        await asyncio.sleep(0)
                with pytest.raises(Unavailable, match="permission denied"):
                    await engine.list(Query())
                await execute(f"grant all on dwarf_steps to {name}_app")
                assert (await _when_back(lambda: engine.await_(flow, SOON))).status == "completed"
                assert gate.entered == 1
        finally:
            await execute(f"drop owned by {name}_app cascade; drop role {name}_app")


@pytest.mark.slow
async def test_tables_that_are_altered_under_a_running_replica_are_no_outage(pg_dsn: str, proxy: TaskProxy) -> None:
    """X10: a cached plan whose result has changed is made anew, inside a transaction as well."""
    async with (
        open_engine(pg_dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0)) as engine,
        admin(pg_dsn) as execute,
    ):
        for kind in ("varchar(3000)", "text", "varchar(2000)"):
            for _ in range(2):
                outcome = await engine.run("line", {"n": 1}, timeout=SOON)
                assert outcome.state == {"n": 4}
                await engine.history(outcome.flow_key)
                await engine.restart(outcome.flow_key, {"n": 2})
                assert (await engine.await_(outcome.flow_key, SOON)).state == {"n": 6}
                fork = await engine.fork((await engine.history(outcome.flow_key))[0].step_key, {})
                assert (await engine.await_(fork, SOON)).state == {"n": 6}
                await engine.list(Query())
                await engine.delete(outcome.flow_key)
            for table, column in (("flows", "workflow"), ("steps", "url"), ("steps", "state"), ("graphs", "digest")):
                await execute(f"alter table dwarf_{table} alter column {column} type {kind}")


async def test_a_child_that_cannot_be_begun_for_the_database_is_begun_later(
    engine: Engine, proxy: TaskProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, B6: the step is given back; it does not fail because its database was away for longer than its budget."""
    proxy.handle_graph(line("parent", "call"))
    refused = 0
    save = engine.replica.graphs.save

    async def refusing(shard: int, graph: Any) -> str:
        nonlocal refused
        if graph.name == "line" and refused < 3:
            refused += 1
            raise StatementRefused("permission denied for table dwarf_graphs, try again")
        return await save(shard, graph)

    def call(flow: Flow) -> dict[str, Any]:
        return {"n": flow.subgraph("line", {"n": 1})["n"]}

    proxy.handle_task("call", call)
    monkeypatch.setattr(engine.replica.graphs, "save", refusing)
    monkeypatch.setattr(
        engine.shards[1].executor.runner.children, "retry", lambda _, work: work()
    )  # as when the step's budget is used up
    assert (await engine.run("parent", {}, timeout=SOON)).state == {"n": 4}
    assert refused == 3


async def test_callers_are_answered_soon_while_another_program_has_the_file_locked(
    sqlite_dsn: str, proxy: TaskProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B6: one statement waits for the lock at length; the many that stand in line behind it do not."""
    async with open_engine(sqlite_dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0)) as engine:
        database = engine.shards[1].store.database
        waits: list[str] = []
        monkeypatch.setattr(
            database, "_set_lock_timeout", lambda ms, was=database._set_lock_timeout: (waits.append(ms), was(ms))
        )
        async with file_locked(sqlite_dsn), asyncio.timeout(SOON):
            found = await asyncio.gather(
                *(engine.create("line", {"n": 1}, start=True) for _ in range(50)), return_exceptions=True
            )
            for _ in range(20):
                with pytest.raises(Unavailable, match="locked"):
                    await engine.create("line", {"n": 1}, start=True)
        assert {type(error) for error in found} == {DatabaseAway}
        assert (await _when_back(lambda: engine.run("line", {"n": 1}, timeout=SOON))).state == {"n": 4}
        assert waits[:2] == [sqlite.SHORT_LOCK_TIMEOUT_MS, sqlite.LOCK_TIMEOUT_MS]


async def test_a_defect_while_claiming_is_told_once_and_not_with_every_try(
    engine: Engine, proxy: TaskProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A statement that is wrong for a reason of ours neither spins nor floods the log; nothing is lost by it."""
    store = engine.shards[1].store
    peek = store.steps.peek
    tries = 0

    async def wrong(*_: Any, **__: Any) -> Any:
        nonlocal tries
        tries += 1
        raise KeyError("a column that is not there")

    monkeypatch.setattr(store.steps, "peek", wrong)
    gate = Gate({"n": 1})
    proxy.handle_graph(line("gated", "gate"))
    proxy.handle_task("gate", gate)
    with caplog.at_level(logging.ERROR, "dwarf_nats.engine"):
        flow = await engine.create("gated", {})
        await engine.start(flow)
        async with asyncio.timeout(SOON):
            while tries < 3:
                await asyncio.sleep(0)
    assert sum("a defect while claiming" in message for message in caplog.messages) == 1
    monkeypatch.setattr(store.steps, "peek", peek)
    await gate.began()
    gate.open()
    assert (await engine.await_(flow, SOON)).status == "completed"
