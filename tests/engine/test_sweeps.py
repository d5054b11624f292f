"""Sweeps heal what a crash can leave (B5), on both databases."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, crash, line, maintenance_of, replica, shard_of


async def fetch(engine: Engine, sql: str, *args: Any) -> list[Any]:
    rows: list[Any] = await shard_of(engine).store.database.fetch(sql, *args)  # type: ignore[attr-defined]
    return rows


@pytest.fixture
def calling() -> TaskProxy:
    """`top` calls `child`, whose task hangs; the caller keeps the result or the error."""
    proxy = TaskProxy()
    proxy.handle_graph(line("top", "call"))
    proxy.handle_graph(line("child", "hang"))

    def call(flow: Flow) -> dict[str, Any]:
        try:
            return {"result": flow.subgraph("child")}
        except Exception as error:
            return {"error": str(error)}

    async def hang() -> None:
        await asyncio.Event().wait()

    proxy.handle_task("call", call)
    proxy.handle_task("hang", hang)
    return proxy


async def started(engine: Engine, proxy: TaskProxy) -> str:
    before = proxy.calls.get("hang", 0)
    key = await engine.create("top", start=True)
    async with asyncio.timeout(SOON):
        while proxy.calls.get("hang", 0) == before:
            await asyncio.sleep(0)
    return key


async def test_a_step_waiting_for_a_child_that_is_gone_is_told_so(dsn: str, calling: TaskProxy) -> None:
    async with workflow_engine(dsn, proxy=calling, settings=EngineSettings(drain_ms=0)) as (engine, _):
        key = await started(engine, calling)
        await fetch(engine, "delete from dwarf_steps where node = 'hang'")
        await fetch(engine, "delete from dwarf_flows where workflow = 'child'")
        await maintenance_of(engine).integrity.repair()
        assert (await engine.await_(key, SOON)).state == {"error": "the sub-workflow is gone"}


async def test_a_step_waiting_for_a_child_that_has_ended_gets_its_end(dsn: str, calling: TaskProxy) -> None:
    async with workflow_engine(dsn, proxy=calling, settings=EngineSettings(drain_ms=0)) as (engine, _):
        key = await started(engine, calling)
        await fetch(engine, "update dwarf_steps set status = 'completed' where node = 'hang'")
        await fetch(
            engine, "update dwarf_flows set status = 'completed', final_state = '{\"x\":1}' where workflow = 'child'"
        )
        await maintenance_of(engine).integrity.repair()
        await maintenance_of(engine).integrity.repair()
        assert (await engine.await_(key, SOON)).state == {"result": {"x": 1}}


async def test_a_child_whose_caller_has_ended_is_cancelled_and_its_task_told(dsn: str, calling: TaskProxy) -> None:
    async with workflow_engine(dsn, proxy=calling, settings=EngineSettings(drain_ms=0)) as (engine, _):
        await started(engine, calling)
        await fetch(engine, "update dwarf_flows set status = 'completed' where workflow = 'top'")
        await maintenance_of(engine).integrity.repair()
        rows = await fetch(
            engine, "select status, cancel_reason, final_state from dwarf_flows where workflow = 'child'"
        )
        assert [tuple(row) for row in rows] == [("cancelled", "its caller has ended", "{}")]
        assert len(calling.cancelled) == 1
        assert [tuple(row) for row in await fetch(engine, "select status from dwarf_steps where node = 'hang'")] == [
            ("cancelled",)
        ]


async def test_a_child_whose_caller_is_gone_is_removed(dsn: str, calling: TaskProxy) -> None:
    async with workflow_engine(dsn, proxy=calling, settings=EngineSettings(drain_ms=0)) as (engine, _):
        key = await started(engine, calling)
        await fetch(engine, "delete from dwarf_steps where node = 'call'")
        await fetch(engine, "delete from dwarf_flows where workflow = 'top'")
        await maintenance_of(engine).integrity.repair()
        assert await shard_of(engine).store.flows.size() == (0, 0)
        assert key


async def test_running_flows_without_a_live_step_are_counted_and_left_alone(
    sqlite_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Never silently moved; a flow that is merely slow, asleep or paused is none."""
    clock = ManualClock()
    proxy = TaskProxy()
    proxy.handle_task("sleep", lambda flow: flow.sleep(100_000))
    proxy.handle_task("next", lambda: None)
    async with workflow_engine(sqlite_dsn, proxy=proxy, clock=clock) as (engine, _):
        lost = await engine.create(line("x", "sleep", "next"), start=True)
        asleep = await engine.create(line("x", "sleep", "next"), start=True)
        async with asyncio.timeout(SOON):
            while len(await engine.history(lost)) + len(await engine.history(asleep)) < 4:
                await asyncio.sleep(0)
        number = lost.split("-")[1]
        await fetch(engine, "delete from dwarf_steps where flow_id = $1 and node = 'next'", int(number))
        await maintenance_of(engine).integrity.repair()
        assert maintenance_of(engine).integrity.stalled_flows == 0
        clock._now += 301 * 1_000_000  # only the database looks at the time here
        with caplog.at_level(logging.ERROR):
            await maintenance_of(engine).integrity.repair()
        assert maintenance_of(engine).integrity.stalled_flows == 1
        assert f"1 running flows have no live step: 1-{number};" in caplog.text
        assert lost not in caplog.text
        assert (await engine.snapshot(lost)).status is Status.RUNNING


@pytest.mark.slow
async def test_one_replica_sweeps_and_another_when_that_one_is_gone(pg_dsn: str, calling: TaskProxy) -> None:
    first, second = replica(pg_dsn, calling), replica(pg_dsn, calling)
    await first.startup()
    await second.startup()
    try:
        assert [await shard_of(one).store.replicas.is_leader() for one in (first, second)] == [True, False]
        await crash(first)
        await fetch(
            second, "delete from dwarf_replicas where replica_id < $1", shard_of(second).store.replicas.replica_id
        )  # type: ignore[attr-defined]
        assert await shard_of(second).store.replicas.is_leader()
    finally:
        await second.shutdown()
