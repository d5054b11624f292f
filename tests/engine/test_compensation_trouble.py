"""Compensations while their tasks cannot serve, are busy or fail, and while replicas drain and sweep (N9, V1, V4, B3, B5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.nodes import Compensation, RetryPolicy
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import (
    SOON,
    Gate,
    Remembered,
    Service,
    line,
    maintenance_of,
    quiet,
    replica,
    rows,
    until_rows,
)

PARKED = "select count(*) from dwarf_steps where parked = 2"
PENDING = "select count(*) from dwarf_steps where status = 'pending' and parked = 0 and compensates is not null"
UNDONE = "select node from dwarf_steps where compensates is not null and status = 'completed' order by step_id"


def saga(name: str = "saga", retry: RetryPolicy | None = None) -> Graph:
    """`a` and `b`, which are compensated by the tasks `undo-a` and `undo-b`, and a task that fails."""
    graph = line(name, "a", "b", "fails")
    for node in "ab":
        graph.nodes[node].compensate = Compensation(url=f"undo-{node}")
        graph.nodes[node].retry = retry
    return graph


@pytest.fixture
def tasks(proxy: TaskProxy) -> TaskProxy:
    """The tasks of `saga`; what undoes `a` and `b` says so in the state."""

    def fails() -> None:
        raise TaskError("broken", 422, final=True)

    proxy.handle_graph(saga())
    proxy.handle_task("a", lambda: {"a": 1})
    proxy.handle_task("b", lambda: {"b": 1})
    proxy.handle_task("undo-a", lambda: {"a": 0})
    proxy.handle_task("undo-b", lambda: {"b": 0})
    proxy.handle_task("fails", fails)
    return proxy


@pytest.fixture
async def still(dsn: str, tasks: TaskProxy, heard: Remembered, clock: ManualClock) -> AsyncIterator[Engine]:
    """An engine on each database for which time stands still."""
    settings = EngineSettings(drain_ms=0)
    async with open_engine(
        dsn, tasks=tasks, graphs=tasks, notices=heard, signals=heard, settings=settings, clock=clock
    ) as engine:
        yield engine


async def step_of(engine: Engine, key: str, node: str) -> Step:
    return next(step for step in await engine.history(key) if step.task == node)


def serves(clock: ManualClock, tasks: TaskProxy, code: int) -> Service:
    """`undo-b`, which refuses with a code."""
    service = Service(clock, code)
    tasks.handle_task("undo-b", service)
    return service


async def undone(engine: Engine, key: str, error: str = "broken") -> dict[str, Any]:
    """The final state of a flow that has failed after its compensations."""
    outcome = await engine.await_(key, SOON)
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert outcome.error.message == error
    return outcome.state


@pytest.mark.parametrize("code", [503, 529])
async def test_a_compensation_whose_task_cannot_serve_waits_for_it_and_then_goes_on(
    still: Engine, tasks: TaskProxy, clock: ManualClock, code: int
) -> None:
    """V4, N9: parked, probed, no attempt spent; the flow says that it is compensated all the while."""
    service = serves(clock, tasks, code)
    key = await still.create("saga", start=True)
    await until_rows(still, [(1,)], PARKED)
    assert await still.breaker_tripped("undo-b")
    shown = await still.snapshot(key)
    assert (shown.status, shown.compensating) == (Status.RUNNING, True)
    assert tasks.calls.get("undo-a", 0) == 0
    for number, milliseconds in enumerate((101, 201, 401), 2):
        clock.advance(milliseconds / 1000)
        await service.times(number)
        await until_rows(still, [(1,)], PARKED)
    service.code = 0
    clock.advance(0.801)
    assert await undone(still, key) == {"a": 0, "b": 1, "served": True}
    assert not await still.breaker_tripped("undo-b")
    step = await step_of(still, key, "b:compensate")
    assert (step.status, step.attempt, step.error) == (Status.COMPLETED, 0, None)
    assert len(set(service.steps)) == 1


async def test_a_compensation_of_a_tripped_task_begins_parked(
    still: Engine, tasks: TaskProxy, clock: ManualClock
) -> None:
    """V4: the breaker was tripped before the flow failed; the probe of another flow releases it."""
    service = serves(clock, tasks, 503)
    other = await still.create_task("undo-b", start=True)
    await until_rows(still, [(1,)], PARKED)
    key = await still.create("saga", start=True)
    await until_rows(still, [(2,)], PARKED)
    assert (await step_of(still, key, "b:compensate")).status is Status.PENDING
    assert len(service.asked) == 1
    service.code = 0
    clock.advance(0.101)
    await still.await_(other, SOON)
    assert await undone(still, key) == {"a": 0, "b": 1, "served": True}


async def test_a_compensation_whose_task_is_busy_comes_again_by_the_valve(dsn: str, tasks: TaskProxy) -> None:
    """V1: three times busy is no attempt, and changes nothing."""
    answers = [429, 429, 429, 0]

    def busy(flow: Flow) -> dict[str, Any]:
        flow.set("half", True)
        if code := answers.pop(0):
            raise TaskError("slow down", code)
        return {"b": 0}

    tasks.handle_task("undo-b", busy)
    async with replica(dsn, tasks) as engine:
        key = await engine.create("saga", start=True)
        assert await undone(engine, key) == {"a": 0, "b": 0, "half": True}
        assert (await step_of(engine, key, "b:compensate")).attempt == 0
        assert tasks.calls["undo-b"] == 4


async def test_a_compensation_comes_again_by_the_policy_of_its_node(
    timed: Engine, tasks: TaskProxy, clock: ManualClock
) -> None:
    """L1, L2: after 1 s and 2 s, exactly; what it is used up for is recorded, and the next one begins at once."""
    service = serves(clock, tasks, 500)
    graph = saga("retried", RetryPolicy(max_attempts=3, initial_delay_ms=1_000, multiplier=2))
    key = await timed.create(graph, start=True)
    await service.times(1)
    for number, seconds in enumerate((1, 2), 2):
        await until_rows(timed, [(1,)], PENDING)
        await quiet(timed)
        clock.advance(seconds - 0.001)
        await quiet(timed)
        assert len(service.asked) == number - 1
        clock.advance(0.001)
        await service.times(number)
    assert await undone(timed, key) == {"a": 0, "b": 1}
    step = await step_of(timed, key, "b:compensate")
    assert step.error is not None
    assert (step.status, step.attempt, step.error.message) == (Status.FAILED, 2, "refused with 500 (tried 3 times)")


async def test_a_compensation_that_hangs_has_the_budget_of_its_node_and_comes_again(dsn: str, tasks: TaskProxy) -> None:
    """L1, L2: a missed deadline is an error like any other."""
    gate = Gate()
    tasks.handle_task("undo-b", gate)
    graph = saga("hangs", RetryPolicy(max_attempts=2, initial_delay_ms=0))
    graph.nodes["b"].timeout_ms = 20
    async with replica(dsn, tasks) as engine:
        key = await engine.create(graph, start=True)
        assert await undone(engine, key) == {"a": 0, "b": 1}
        error = (await step_of(engine, key, "b:compensate")).error
        assert error is not None
        assert error.code == 408
        assert (gate.entered, gate.cancelled) == (2, 2)


# -- drain


async def test_a_drain_waits_for_the_compensation_in_hand_and_leaves_the_next_to_others(
    dsn: str, tasks: TaskProxy
) -> None:
    """B3: what was in hand is recorded once; the next replica goes on with the next one."""
    gate = Gate({"b": 0})
    tasks.handle_task("undo-b", gate)
    engine = replica(dsn, tasks, drain_ms=20_000)
    await engine.startup()
    key = await engine.create("saga", start=True)
    await gate.began()
    engine.stop_claiming()
    gate.open()
    await engine.shutdown()
    assert tasks.calls.get("undo-a", 0) == 0
    async with replica(dsn, tasks) as second:
        assert await undone(second, key) == {"a": 0, "b": 0}
        assert [node for (node,) in await rows(second, UNDONE)] == ["b:compensate", "a:compensate"]
    assert (gate.entered, tasks.calls["undo-a"]) == (1, 1)


async def test_a_compensation_over_the_limit_of_a_drain_is_given_back_at_once(dsn: str, tasks: TaskProxy) -> None:
    """B3, X11: it runs again with the same key, and nothing waits for its lease."""
    gate = Gate()
    keys: list[str] = []

    async def undo(flow: Flow) -> dict[str, Any]:
        keys.append(flow.step_key)
        if len(keys) == 1:
            await gate()
        return {"b": 0}

    tasks.handle_task("undo-b", undo)
    engine = replica(dsn, tasks, drain_ms=0)
    await engine.startup()
    key = await engine.create("saga", start=True)
    await gate.began()
    await engine.shutdown()
    async with replica(dsn, tasks) as second:
        assert await undone(second, key) == {"a": 0, "b": 0}
        assert (await step_of(second, key, "b:compensate")).attempt == 0
    assert len(keys) == 2
    assert len(set(keys)) == 1


# -- sweeps


async def test_sweeps_do_not_disturb_compensations(
    dsn: str, tasks: TaskProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """B5: neither that of a completed child, whose caller waits for nothing, nor that of a child that failed by itself.

    Nobody is taken for stalled either, however long it takes.
    """
    gates = {name: Gate({name: 0}) for name in ("x", "y")}
    for name in gates:
        child = line(f"child-{name}", name, *(["fails"] if name == "y" else []))
        child.nodes[name].compensate = Compensation(url=f"undo-{name}")
        tasks.handle_graph(child)
        tasks.handle_task(name, lambda: None)
        tasks.handle_task(f"undo-{name}", gates[name])
        tasks.handle_task(f"call-{name}", lambda flow, name=name: flow.subgraph(f"child-{name}") and None)
    tasks.handle_graph(line("completed", "call-x", "fails"))
    tasks.handle_graph(line("failed", "call-y"))
    async with replica(dsn, tasks) as engine:
        keys = [await engine.create(name, start=True) for name in ("completed", "failed")]
        for gate in gates.values():
            await gate.began()
        before = await rows(engine, "select step_id, status, parked, lease_seq from dwarf_steps order by step_id")
        for table in ("dwarf_flows", "dwarf_steps"):
            await rows(engine, f"update {table} set updated_at = updated_at - 600000000")
        maintenance = maintenance_of(engine)
        for _ in range(2):
            await maintenance.integrity.run_once()
            await maintenance.lease_reaper.sweep()
            await quiet(engine)
        assert (
            await rows(engine, "select step_id, status, parked, lease_seq from dwarf_steps order by step_id") == before
        )
        assert maintenance.integrity.stalled_flows == 0
        assert "sub-workflow" not in caplog.text
        for gate in gates.values():
            gate.open()
        for key in keys:
            assert (await engine.await_(key, SOON)).status is Status.FAILED
        assert [gate.entered for gate in gates.values()] == [1, 1]
        statuses = await rows(
            engine, "select workflow, status from dwarf_flows where workflow like 'child%' order by 1"
        )
        assert statuses == [("child-x", "completed"), ("child-y", "failed")]
