"""Tasks that are asked without a coroutine that waits: what they answer, and all that can come between (design note 0062)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.engine.ids import NoneLeft
from dwarf_nats.library import engine_on
from dwarf_nats.ports import BusAway, TaskCapabilities, WorkerLost
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import TaskCall
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.direct import Answered, DirectTasks
from tests.support.engines import SOON, Gate, line, quiet, rows


@asynccontextmanager
async def direct_engine(dsn: str, tasks: DirectTasks, proxy: TaskProxy, **settings: Any) -> AsyncIterator[Engine]:
    async with engine_on([dsn], tasks.ports(proxy), EngineSettings(drain_ms=0, **settings)) as engine:
        yield engine


def adding(steps: int) -> Graph:
    """A straight line of steps, each of which adds one."""
    graph = Graph(f"adding-{steps}")
    nodes = [f"step{number}" for number in range(steps)]
    for node in nodes:
        graph.add_task(node, url="add")
    graph.add_chain(*nodes, "END")
    return graph


class Troubled(DirectTasks):
    """Tasks the first of whose calls end as they are told: `begin` raises, or they get an error instead of an answer."""

    def __init__(self, proxy: TaskProxy, *troubles: Exception, at_once: bool = False) -> None:
        super().__init__(proxy)
        self.troubles = list(troubles)
        self.at_once = at_once
        self.asked = 0

    def begin(self, call: TaskCall, answered: Answered) -> Callable[[], None]:
        self.asked += 1
        if not self.troubles:
            return super().begin(call, answered)
        if self.at_once:
            raise self.troubles.pop(0)
        return asyncio.get_running_loop().call_soon(answered, self.troubles.pop(0)).cancel


async def test_every_step_of_a_plain_flow_is_asked_directly(dsn: str, proxy: TaskProxy) -> None:
    tasks = DirectTasks(proxy)
    async with direct_engine(dsn, tasks, proxy) as engine:
        outcome = await engine.run(adding(3), {"n": 0}, timeout=SOON)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": 3})
        assert len(tasks.begun) == 3
        await quiet(engine)
        assert engine.shards[1].in_flight.steps == []
        assert engine.replica.slots.in_use == 0


async def test_answers_that_need_more_than_a_decision_are_gone_on_with(dsn: str, proxy: TaskProxy) -> None:
    """P1, X4, V1: a sub-workflow, a retry, an error, a busy task."""
    proxy.handle_graph(line("child", "add"))
    proxy.handle_task("call", lambda flow: {"n": flow.subgraph("child", {"n": 10})["n"]})
    tries: list[int] = []

    def busy() -> dict[str, int]:
        tries.append(1)
        if len(tries) == 1:
            raise TaskError("slow down", 429)
        return {"tries": len(tries)}

    def broken() -> None:
        raise TaskError("no such card", 404)

    proxy.handle_task("busy", busy)
    proxy.handle_task("broken", broken)
    tasks = DirectTasks(proxy)
    async with direct_engine(dsn, tasks, proxy) as engine:
        assert (await engine.run(line("caller", "call"), timeout=SOON)).state == {"n": 11}
        assert (await engine.run(line("refused", "busy"), timeout=SOON)).state == {"tries": 2}
        outcome = await engine.run(line("failing", "broken"), timeout=SOON)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert (outcome.error.message, outcome.error.code) == ("no such card", 404)
        await quiet(engine)
        assert engine.replica.slots.in_use == 0


@pytest.mark.parametrize("at_once", [False, True], ids=["later", "at once"])
async def test_a_step_is_held_while_the_bus_is_away(dsn: str, proxy: TaskProxy, at_once: bool) -> None:
    """B6: and is asked once more when it is back, as the same attempt."""
    attempts: list[int] = []
    proxy.handle_task("noted", lambda flow: attempts.append(flow.attempt))
    tasks = Troubled(proxy, BusAway("NATS is away"), at_once=at_once)
    async with direct_engine(dsn, tasks, proxy) as engine:
        assert (await engine.run(line("one", "noted"), timeout=SOON)).status is Status.COMPLETED
        await quiet(engine)
        assert (attempts, engine.replica.slots.in_use) == ([0], 0)


async def test_a_step_whose_worker_is_lost_runs_again(dsn: str, proxy: TaskProxy) -> None:
    """X11: as the same attempt."""
    tasks = Troubled(proxy, WorkerLost("its worker is gone"))
    async with direct_engine(dsn, tasks, proxy) as engine:
        assert (await engine.run(line("one", "add"), {"n": 0}, timeout=SOON)).state == {"n": 1}
        assert tasks.asked == 2


async def test_an_error_that_nobody_expected_fails_the_step(dsn: str, proxy: TaskProxy) -> None:
    tasks = Troubled(proxy, ValueError("no such thing"))
    async with direct_engine(dsn, tasks, proxy) as engine:
        outcome = await engine.run(line("one", "add"), {"n": 0}, timeout=SOON)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.message == "no such thing"


async def test_a_cancelled_step_is_given_up_and_its_slot_is_free(dsn: str, proxy: TaskProxy) -> None:
    """O10."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    tasks = DirectTasks(proxy)
    async with direct_engine(dsn, tasks, proxy, workers=1) as engine:
        key = await engine.create(line("one", "slow"), start=True)
        await gate.began()
        await engine.cancel(key)
        assert (await engine.await_(key, SOON)).status is Status.CANCELLED
        assert tasks.given_up == tasks.begun
        assert (await engine.run(line("next", "add"), {"n": 0}, timeout=SOON)).state == {"n": 1}
        await quiet(engine)
        assert (engine.shards[1].in_flight.count, engine.replica.slots.in_use) == (0, 0)


async def test_a_replica_that_stops_gives_its_steps_back_at_once(dsn: str, proxy: TaskProxy) -> None:
    """B3: the next one runs them, as the same attempt."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    tasks = DirectTasks(proxy)
    async with direct_engine(dsn, tasks, proxy) as engine:
        key = await engine.create(line("one", "slow"), start=True)
        await gate.began()
    assert tasks.given_up == tasks.begun
    gate.open()
    async with direct_engine(dsn, tasks, proxy) as engine:
        assert (await engine.await_(key, SOON)).status is Status.COMPLETED
        assert await rows(engine, "select attempt from dwarf_steps") == [(0,)]


async def test_a_decision_that_is_short_of_ids_waits_for_them(dsn: str, proxy: TaskProxy) -> None:
    """Its age is counted once."""
    tasks = DirectTasks(proxy)
    async with direct_engine(dsn, tasks, proxy) as engine:
        executor: Any = engine.shards[1].executor
        decided, ages = executor._decided, []

        def short(step: Any, *args: Any) -> Any:
            ages.append(step.age_us)
            if len(ages) == 1:
                raise NoneLeft
            return decided(step, *args)

        executor._decided = short
        assert (await engine.run(adding(2), {"n": 0}, timeout=SOON)).state == {"n": 2}
        assert len(ages) == 3
        assert 0 <= ages[0] <= ages[1] < 2 * ages[0] + 1_000_000


async def test_a_defect_while_the_next_step_is_prepared_fails_the_step(dsn: str, proxy: TaskProxy) -> None:
    """And nothing stays behind: other steps of the same message are settled."""
    tasks = DirectTasks(proxy)
    async with direct_engine(dsn, tasks, proxy) as engine:
        executor: Any = engine.shards[1].executor
        prepare, troubles = executor._prepare_next, [KeyError("oops")]

        def troubled(*args: Any) -> None:
            if troubles:
                raise troubles.pop()
            prepare(*args)

        executor._prepare_next = troubled
        outcome = await engine.run(adding(2), {"n": 0}, timeout=SOON)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.message == "a defect of the engine: KeyError: 'oops'"
        assert (await engine.run(adding(2), {"n": 0}, timeout=SOON)).state == {"n": 2}
        await quiet(engine)
        assert engine.replica.slots.in_use == 0


async def test_what_has_to_wait_before_its_task_is_asked_is_not_asked_directly(dsn: str, proxy: TaskProxy) -> None:
    """B2, L1, O12: a node whose budget exceeds its lease, and a flow with breakpoints."""
    tasks = DirectTasks(proxy)
    async with direct_engine(dsn, tasks, proxy, time_budget_ms=60_000) as engine:
        for seconds, asked in ((59, 1), (61, 0)):
            budgeted = line("budgeted", "add")
            budgeted.set_timeout("add", seconds)
            assert (await engine.run(budgeted, {"n": 0}, timeout=SOON)).state == {"n": 1}
            assert len(tasks.begun) == asked
            tasks.begun.clear()
        key = await engine.create(adding(2), {"n": 0})
        await engine.break_before(key, "step1")
        await engine.start(key)
        assert (await engine.await_(key, SOON)).status is Status.INTERRUPTED
        assert tasks.begun == []


async def test_a_pipelined_flow_goes_ahead_directly(dsn: str, proxy: TaskProxy) -> None:
    tasks = DirectTasks(proxy)
    async with direct_engine(dsn, tasks, proxy) as engine:
        outcome = await engine.run(adding(3), {"n": 0}, FlowOptions(durability="pipelined"), SOON)
        assert outcome.state == {"n": 3}
        assert (
            len(tasks.begun) >= 2
        )  # the first step waits for its graph if it is claimed instead of started with the flow


async def test_each_answer_is_timed_once(dsn: str, proxy: TaskProxy) -> None:
    """T1: also one that asks for a sub-workflow; not the bus that was away."""
    proxy.handle_graph(line("child", "add"))
    proxy.handle_task("call", lambda flow: {"n": flow.subgraph("child", {"n": 10})["n"]})
    tasks = Troubled(proxy, BusAway("NATS is away"))
    times: list[tuple[str, int]] = []
    async with direct_engine(dsn, tasks, proxy) as engine:
        direct: Any = engine.shards[1].executor._direct
        direct._instruments = SimpleNamespace(listening=True, task_time=lambda url, us, at: times.append((url, us)))
        assert (await engine.run(line("caller", "call"), timeout=SOON)).state == {"n": 11}
        await quiet(engine)
    assert sorted(url for url, _ in times) == [
        "add",
        "call",
        "call",
    ]  # the caller once more, with what the child brought
    assert all(us >= 0 for _, us in times)


async def test_without_the_capability_the_port_is_asked_as_ever(dsn: str, proxy: TaskProxy) -> None:
    tasks = DirectTasks(proxy)
    ports = replace(tasks.ports(proxy), capabilities=TaskCapabilities())
    async with engine_on([dsn], ports, EngineSettings(drain_ms=0)) as engine:
        assert (await engine.run(line("one", "add"), {"n": 0}, timeout=SOON)).state == {"n": 1}
    assert tasks.begun == []
