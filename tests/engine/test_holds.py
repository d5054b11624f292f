"""Holds through the real engine: a task or a workflow is stopped by hand, and goes on (K2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.actor import acting
from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.maintenance.hold_keeper import LOOK_SECONDS
from dwarf_nats.errors import BadRequest, NotFound, Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.explanation import Reason
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON, Gate, crash, line, maintenance_of, quiet, rows, shard_of, until_rows, wired

ON_HOLD = "select count(*) from dwarf_steps where parked = 5"
NOTED = "select count(*) from dwarf_on_hold"


async def ended(engine: Engine, flow: str) -> Status:
    async with asyncio.timeout(SOON):
        return (await engine.await_(flow)).status


async def test_k2_a_held_task_is_not_asked_until_the_hold_is_deleted(engine: Engine, proxy: TaskProxy) -> None:
    """K2: creating is allowed; other tasks go on; explain says who stopped it and what helps."""
    asked: list[int] = []
    proxy.handle_task("add", lambda n=0: asked.append(n) or {"n": n + 1})
    with acting("ada@ops"):
        put = await engine.put_hold(task="add", reason="the  bank\nmoves")
    assert (put.task, put.workflow, put.actor, put.reason, put.steps) == ("add", "", "ada@ops", "the bank moves", 0)
    flows = [await engine.create("line", {"n": n}, start=True) for n in range(3)]
    await until_rows(engine, [(3,)], ON_HOLD)
    assert asked == []
    assert await ended(engine, await engine.create(line("free", "double"), {"n": 4}, start=True)) is Status.COMPLETED
    (listed,) = await engine.list_holds()
    assert (listed.steps, listed.since, listed.until) == (3, put.since, None)
    (wait,) = (await engine.explain(flows[0])).waits
    assert wait.reason is Reason.PAUSED
    assert wait.text == "Stopped by hand: the task add was put on hold by ada@ops: the bank moves"
    assert wait.remedy == "dwarf-nats hold delete --task add"
    summaries, _ = await engine.list(Query(workflow="line"))
    assert {one.waits_for.reason for one in summaries if one.waits_for is not None} == {Reason.PAUSED}
    (step,) = (await engine.history_page(flows[0], 10, ""))[0]
    assert step.started_at is None  # it was never dispatched
    await engine.delete_hold(task="add")
    for flow in flows:
        assert await ended(engine, flow) is Status.COMPLETED
    assert sorted(asked) == [0, 1, 2]
    assert await rows(engine, NOTED) == [(0,)]
    assert await engine.list_holds() == []


async def test_k2_what_runs_goes_on_and_what_follows_does_not(engine: Engine, proxy: TaskProxy) -> None:
    """K2: the step at its task ends; its successor, which would have started eagerly, waits."""
    gate = Gate({"n": 1})
    proxy.handle_task("slow", gate)
    proxy.handle_graph(line("two", "slow", "double"))
    flow = await engine.create("two", start=True)
    await gate.began()
    await engine.put_hold(workflow="two")
    gate.open()
    await until_rows(engine, [(1,)], ON_HOLD)
    assert gate.finished == 1
    (wait,) = (await engine.explain(flow)).waits
    assert (wait.task, wait.reason, wait.remedy) == (
        "double", Reason.PAUSED, "dwarf-nats hold delete --workflow two",
    )  # fmt: skip
    await engine.delete_hold(workflow="two")
    assert await ended(engine, flow) is Status.COMPLETED


async def test_k2_nodes_that_the_engine_carries_out_are_stopped_too(engine: Engine, proxy: TaskProxy) -> None:
    """K2, N8: neither a chain in the transaction of the step before, nor a node at the entry, gets past a held workflow."""
    gate = Gate({"n": 1})
    proxy.handle_task("slow", gate)
    graph = Graph.from_values({
        "name": "sets",
        "tasks": [{"name": "slow"}, {"name": "b", "set": {"b": 1}}, {"name": "c", "set": {"c": 1}}],
        "transitions": [{"from": "slow", "to": "b"}, {"from": "b", "to": "c"}, {"from": "c", "to": "END"}],
    })  # fmt: skip
    flow = await engine.create(graph, start=True)
    await gate.began()
    await engine.put_hold(workflow="sets")
    gate.open()
    await until_rows(engine, [("b",)], "select node from dwarf_steps where parked = 5")
    entry = Graph.from_values({
        "name": "sets", "tasks": [{"name": "b", "set": {"b": 1}}], "transitions": [{"from": "b", "to": "END"}],
    })  # fmt: skip
    other = await engine.create(entry, start=True)
    await until_rows(engine, [(2,)], ON_HOLD)
    await engine.delete_hold(workflow="sets")
    for one in (flow, other):
        assert await ended(engine, one) is Status.COMPLETED


async def test_k2_a_held_sub_workflow_keeps_its_caller_waiting(engine: Engine, proxy: TaskProxy) -> None:
    """K2: a hold stops the flows of that workflow, whoever called them, and no flow above or below."""
    proxy.handle_graph(line("child", "add"))

    def call(flow: Flow) -> dict[str, Any]:
        return {"n": flow.subgraph("child", {"n": 1})["n"]}

    proxy.handle_task("call", call)
    proxy.handle_graph(line("parent", "call"))
    await engine.put_hold(workflow="child")
    flow = await engine.create("parent", start=True)
    await until_rows(engine, [(1,)], ON_HOLD)
    (wait,) = (await engine.explain(flow)).waits
    assert [one.reason for one in wait.waits] == [Reason.PAUSED]
    await engine.delete_hold(workflow="child")
    assert await ended(engine, flow) is Status.COMPLETED


async def test_k2_ready_steps_are_put_aside_and_others_come_first(dsn: str, proxy: TaskProxy) -> None:
    """K2: steps that waited for a worker when the hold came are out of the queue, not passed over again and again."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    proxy.handle_graph(line("slow", "slow"))
    engine = open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(workers=1, drain_ms=0))
    async with engine:
        await engine.create("slow", start=True)
        await gate.began()
        held = [await engine.create("line", start=True) for _ in range(20)]
        last = await engine.create(line("free", "double"), {"n": 1}, FlowOptions(priority=500), start=True)
        await engine.put_hold(workflow="line")
        await until_rows(engine, [(20,)], ON_HOLD)
        gate.open()
        assert await ended(engine, last) is Status.COMPLETED
        await engine.delete_hold(workflow="line")
        for flow in held:
            assert await ended(engine, flow) is Status.COMPLETED


async def test_k2_until_ends_it_by_itself(dsn: str, proxy: TaskProxy, clock: ManualClock) -> None:
    """K2: nobody has to delete it; it is not listed any more."""
    engine = open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0), clock=clock)
    async with engine:
        until = clock.now() + 60_000_000
        await engine.put_hold(task="add", until=until)
        flow = await engine.create("single", start=True)
        await until_rows(engine, [(1,)], ON_HOLD)
        (wait,) = (await engine.explain(flow)).waits
        assert wait.until == until
        clock.advance(61)
        assert await ended(engine, flow) is Status.COMPLETED
        assert await engine.list_holds() == []
        assert not engine.replica.holds.active


async def test_k2_a_breaker_is_not_probed_while_its_task_is_held(engine: Engine, proxy: TaskProxy) -> None:
    """K2, V4: a probe is an execution as well. After the hold, a step of the task is the probe."""
    asked = asyncio.Event()
    codes = [503]

    def down() -> None:
        asked.set()
        if codes:
            raise TaskError("no", code=codes[0])

    proxy.handle_task("down", down)
    proxy.handle_graph(line("down", "down"))
    flow = await engine.create("down", start=True)
    await until_rows(engine, [(1,)], "select count(*) from dwarf_steps where parked = 2")
    await engine.put_hold(task="down")
    asked.clear()
    shard = shard_of(engine)
    for _ in range(3):
        breakers = shard.backpressure.breakers
        breakers.on_new_work()
        await shard.prober.work()
    assert not asked.is_set()
    (wait,) = (await engine.explain(flow)).waits
    assert wait.reason is Reason.PAUSED
    codes.clear()
    await engine.delete_hold(task="down")
    assert await ended(engine, flow) is Status.COMPLETED


async def test_k2_two_holds_on_one_step_both_count(engine: Engine) -> None:
    """K2: the end of one of them does not let the step go."""
    await engine.put_hold(task="add")
    await engine.put_hold(workflow="single")
    flow = await engine.create("single", start=True)
    await until_rows(engine, [(1,)], ON_HOLD)
    assert sum(one.steps for one in await engine.list_holds()) == 1
    await engine.delete_hold(task="add")
    await until_rows(engine, [("workflow:single",)], "select hold from dwarf_on_hold")
    await until_rows(engine, [(1,)], ON_HOLD)
    assert (await engine.snapshot(flow)).status is Status.RUNNING
    await engine.delete_hold(workflow="single")
    assert await ended(engine, flow) is Status.COMPLETED


async def test_k2_a_cancelled_flow_is_not_brought_back_by_the_end_of_a_hold(engine: Engine) -> None:
    """K2, O10."""
    await engine.put_hold(task="add")
    flow = await engine.create("single", start=True)
    await until_rows(engine, [(1,)], ON_HOLD)
    await engine.cancel(flow)
    assert (await engine.list_holds())[0].steps == 0
    await engine.delete_hold(task="add")
    await until_rows(engine, [(0,)], NOTED)
    assert await rows(engine, "select status from dwarf_steps") == [("cancelled",)]


async def test_k2_a_hold_is_changed_in_place(engine: Engine) -> None:
    """K2: a second put changes reason and end, and keeps the age."""
    first = await engine.put_hold(workflow="line", reason="one")
    second = await engine.put_hold(workflow="line", reason="two", until=first.since + 3_600_000_000)
    assert (second.since, second.reason) == (first.since, "two")
    assert [one.reason for one in await engine.list_holds()] == ["two"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "neither is given"),
        ({"task": "a", "workflow": "b"}, "both is given"),
        ({"task": "a b"}, "task"),
        ({"workflow": "a..b"}, "workflow"),
        ({"task": "a", "until": 1}, "must lie in the future"),
        ({"task": "a", "reason": "x" * 1001}, "at most 1000"),
    ],
)
async def test_a_hold_on_nothing_is_refused(engine: Engine, given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        await engine.put_hold(**given)
    with pytest.raises(NotFound, match=r"dwarf\.hold\.list"):
        await engine.delete_hold(task="never")


# -- failures


async def test_k2_steps_left_by_a_replica_that_died_are_released_by_the_next(dsn: str, proxy: TaskProxy) -> None:
    """K2: the hold is gone, and who would have released its steps has died on that line."""
    engine = open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0))
    await engine.startup()
    await engine.put_hold(task="add")
    flow = await engine.create("single", start=True)
    await until_rows(engine, [(1,)], ON_HOLD)
    await engine.replica.definitions._home().delete("hold", "task:add")
    await crash(engine)
    second = open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0))
    async with second:
        assert await ended(second, flow) is Status.COMPLETED


async def test_k2_steps_parked_for_a_hold_that_has_just_ended_are_found(engine: Engine, proxy: TaskProxy) -> None:
    """K2: a replica that has not heard of the end yet parks a step, and dies before it hears; the others look again."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    proxy.handle_graph(line("slow", "slow"))
    flow = await engine.create("slow", start=True)
    await gate.began()
    store = shard_of(engine).store
    (step,) = shard_of(engine).in_flight.steps
    await store.holds.park_claimed("task:slow", [step.step_id])
    assert await rows(engine, ON_HOLD) == [(1,)]
    gate.open()
    await maintenance_of(engine).hold_keeper.run_once()
    assert await ended(engine, flow) is Status.COMPLETED
    assert await rows(engine, NOTED) == [(0,)]


async def test_k2_the_keeper_looks_again_by_itself() -> None:
    """K2: as above, by the clock; what was parked for no hold is found within half a minute."""
    clock = ManualClock()
    async with workflow_engine(clock=clock) as (engine, proxy):
        gate = Gate()
        proxy.handle_task("slow", gate)
        flow = await engine.create(line("slow", "slow"), start=True)
        await gate.began()
        (step,) = shard_of(engine).in_flight.steps
        await shard_of(engine).store.holds.park_claimed("task:slow", [step.step_id])
        gate.open()
        await quiet(engine)
        clock.advance(LOOK_SECONDS + 1)
        assert (await engine.await_(flow, SOON)).status is Status.COMPLETED


async def test_k2_a_database_that_is_away_for_a_moment_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K2, B6: the release is tried again until it is done."""
    await engine.put_hold(task="add")
    flow = await engine.create("single", start=True)
    await until_rows(engine, [(1,)], ON_HOLD)
    store = shard_of(engine).store.holds
    release, failures = store.release, [Unavailable("away"), Unavailable("away")]

    async def away(hold: str, limit: int) -> Any:
        if failures:
            raise failures.pop()
        return await release(hold, limit)

    monkeypatch.setattr(store, "release", away)
    await engine.delete_hold(task="add")
    assert await ended(engine, flow) is Status.COMPLETED
    assert not failures


@pytest.fixture
async def pair(pg_dsn: str, proxy: TaskProxy) -> AsyncIterator[tuple[Engine, Engine]]:
    """Two replicas on one database, which hear each other."""
    (one, _), (two, _) = wired(pg_dsn, proxy)
    await one.startup()
    await two.startup()
    yield one, two
    await one.shutdown()
    await two.shutdown()


async def test_k2_a_hold_put_at_one_replica_holds_at_all(pair: tuple[Engine, Engine]) -> None:
    """K2: whichever replica claims a step."""
    one, two = pair
    await one.put_hold(workflow="line")
    async with asyncio.timeout(SOON):
        while not two.replica.holds.active:
            await asyncio.sleep(0)
    flows = [await engine.create("line", start=True) for engine in (one, two) for _ in range(5)]
    await until_rows(one, [(10,)], ON_HOLD)
    assert [(hold.workflow, hold.steps) for hold in await two.list_holds()] == [("line", 10)]
    await two.delete_hold(workflow="line")
    for flow in flows:
        assert await ended(one, flow) is Status.COMPLETED
    await until_rows(one, [(0,)], NOTED)
