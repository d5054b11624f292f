"""Valves through the real engine (V1-V3, C3)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock, SystemClock
from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.ports import Clock
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import (
    SOON,
    Gate,
    Remembered,
    Service,
    line,
    quiet,
    replica,
    rows,
    shard_of,
    until_rows,
    wired,
)

PENDING = "select count(*) from dwarf_steps where status = 'pending' and parked = 0"


class Limited:
    """A task that takes `limit` operations in any second and answers 429 beyond. `took`: when it took one.

    It refuses the calls numbered `refuses` however slowly they come, so that a slow machine meets the limit, too.
    """

    def __init__(self, clock: Clock, limit: int, *, refuses: range = range(0)) -> None:
        self.limit = limit
        self._refuses = refuses
        self.asked: list[int] = []
        self.took: list[int] = []
        self._clock = clock
        self._recent: deque[int] = deque()

    async def __call__(self, flow: Flow) -> dict[str, Any]:
        now = self._clock.now()
        self.asked.append(now)
        while self._recent and self._recent[0] <= now - 1_000_000:
            self._recent.popleft()
        if len(self._recent) >= self.limit or len(self.asked) in self._refuses:
            raise TaskError("slow down", 429)
        self._recent.append(now)
        self.took.append(now)
        return {"by": flow.step_key}


@pytest.fixture
def busy(proxy: TaskProxy, clock: ManualClock) -> Service:
    """Task `busy`; workflow `busy` is that task and then `add`."""
    made = Service(clock, 429)
    proxy.handle_task("busy", made)
    proxy.handle_graph(line("busy", "busy", "add"))
    return made


@pytest.mark.slow
async def test_a_busy_task_gets_its_step_back_later_and_nothing_fails(dsn: str, proxy: TaskProxy) -> None:
    """V1: no attempt, no error, no changes; the valve alone decides when."""
    proxy.handle_graph(line("busy", "busy", "add"))
    answers = [429, 429, 0]

    async def busy(flow: Flow) -> dict[str, Any]:
        flow.set("half", True)
        code = answers.pop(0)
        if code:
            raise TaskError("slow down", code)
        return {"n": 5}

    proxy.handle_task("busy", busy)
    heard = Remembered()
    async with open_engine(
        dsn, tasks=proxy, graphs=proxy, signals=heard, settings=EngineSettings(drain_ms=0)
    ) as engine:
        key = await engine.create("busy", {"n": 1}, start=True)
        await until_rows(engine, [("pending", 0, None, "{}")], "select status, parked, error, changes from dwarf_steps")
        assert (await engine.snapshot(key)).status is Status.RUNNING
        outcome = await engine.await_(key, SOON)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": 6, "half": True})
        assert [step.attempt for step in await engine.history(key)] == [0, 0]
        assert [(task, w) for task, w, _ in heard.points] == [("busy", 1.0), ("busy", 1.0)]
        assert not await engine.breaker_tripped("busy")


async def test_backpressure_goes_before_retry_and_error_edge(timed: Engine, busy: Service, proxy: TaskProxy) -> None:
    """X4."""
    graph = Graph("handled")
    graph.add_transition("busy", "add")
    graph.add_transition_on_error("busy", "add")
    graph.add_transition("add", "END")
    proxy.handle_graph(graph)
    key = await timed.create("handled", {"n": 1}, start=True)
    await busy.times(1)
    await until_rows(timed, [(1,)], PENDING)
    (step,) = await timed.history(key)
    assert (step.status, step.attempt) == (Status.PENDING, 0)


async def test_the_rate_falls_to_what_the_task_takes_and_every_flow_completes(
    timed: Engine, proxy: TaskProxy, clock: ManualClock
) -> None:
    """V1, V2: 200 flows, 20 a second; never more in any second than the rate of that moment."""
    task = Limited(clock, 20)
    proxy.handle_task("limited", task)
    flows = await asyncio.gather(*(timed.create_task("limited", start=True) for _ in range(200)))
    await quiet(timed)
    assert len(task.took) == 20
    burst = len(task.asked)
    assert timed.replica.backpressure.valves.rates() == {"limited": pytest.approx(20.0)}
    for _ in range(400):
        if len(task.took) == 200:
            break
        clock.advance(0.05)
        await quiet(timed)
    for key in flows:
        assert (await timed.await_(key, SOON)).status is Status.COMPLETED
    # The first second found the limit; after it, little is asked that is not taken.
    assert len(task.asked) - burst - 180 <= 40
    later = [one for one in task.asked if one > task.asked[0] + 1_000_000]
    assert max(sum(one - 1_000_000 < other <= one for other in later) for one in later) <= 24


async def test_a_shut_valve_holds_up_nobody_else(timed: Engine, busy: Service, clock: ManualClock) -> None:
    """C3: not those behind it, nor the bands below; and no database is polled while it is shut."""
    for n in range(3):
        await timed.create("busy", {"n": n}, FlowOptions(priority=1), start=True)
        await busy.times(1)
        await until_rows(timed, [(n + 1,)], PENDING)
    timed.configure(workers=2)
    for n in range(20):
        assert (await timed.run("line", {"n": n}, FlowOptions(priority=5), SOON)).state == {"n": (n + 1) * 2}
    steps: Any = shard_of(timed).store.steps
    looks: list[str] = []
    for name in ("peek", "claim", "promote_due"):
        method = getattr(steps, name)

        async def counted(*args: Any, name: str = name, method: Any = method) -> Any:
            looks.append(name)
            return await method(*args)

        setattr(steps, name, counted)
    await quiet(timed)
    assert len(looks) <= 2
    assert len(busy.asked) == 1
    busy.code = 0
    clock.advance(1.01)
    await busy.times(2)


async def test_a_claim_takes_no_more_than_the_valve_lets_through(
    timed: Engine, proxy: TaskProxy, clock: ManualClock
) -> None:
    """V2: whatever is pending; what was claimed too much is given back untouched."""
    task = Limited(clock, 1_000)
    proxy.handle_task("limited", task)
    gate = Gate()
    proxy.handle_task("gate", gate)
    timed.configure(workers=1)
    blocked = await timed.create_task("gate", start=True)
    await gate.began()
    flows = [await timed.create_task("limited", start=True) for _ in range(50)]
    timed.peers.sync_valve("limited", 7.0, clock.now())
    timed.configure(workers=100)
    gate.open()
    await timed.await_(blocked, SOON)
    await quiet(timed)
    assert len(task.asked) == 7
    await until_rows(timed, [(43,)], PENDING)
    assert await rows(timed, "select max(attempt) from dwarf_steps") == [(0,)]
    clock.advance(0.9)
    await quiet(timed)
    assert len(task.asked) == 7
    clock.advance(0.11)
    await quiet(timed)
    assert len(task.asked) == 14
    for _ in range(40):
        clock.advance(0.3)
        await quiet(timed)
    for key in flows:
        assert (await timed.await_(key, SOON)).status is Status.COMPLETED
    assert len(task.took) == 50


async def test_a_successor_is_not_born_running_through_a_shut_valve(
    timed: Engine, proxy: TaskProxy, clock: ManualClock
) -> None:
    task = Limited(clock, 1_000)
    proxy.handle_task("limited", task)
    proxy.handle_graph(line("then", "add", "limited"))
    timed.peers.sync_valve("limited", 2.0, clock.now())
    flows = [await timed.create("then", {"n": n}, start=True) for n in range(5)]
    await until_rows(timed, [(3,)], PENDING)
    await quiet(timed)
    assert len(task.asked) == 2
    for _ in range(10):
        clock.advance(0.51)
        await quiet(timed)
    for key in flows:
        assert (await timed.await_(key, SOON)).status is Status.COMPLETED


async def test_what_is_told_is_not_told_again(timed: Engine, heard: Remembered, clock: ManualClock) -> None:
    """B1, V3."""
    timed.peers.sync_valve("limited", 2.0, clock.now())
    assert heard.points == []
    assert timed.replica.backpressure.valves.rates() == {"limited": pytest.approx(2.0)}
    assert [(one.url, one.rate, one.cause) for one in timed.task_health()] == [("limited", pytest.approx(2.0), "")]


@pytest.mark.slow
async def test_two_replicas_slow_down_together(pg_dsn: str) -> None:
    """V3: each tells the other where it was cut to; all is done in the end, by both."""
    proxy = TaskProxy()
    task = Limited(SystemClock(), 60, refuses=range(30, 40))
    proxy.handle_task("limited", task)
    (first, said), (second, answered) = wired(pg_dsn, proxy)
    async with first as one, second as two:
        keys = [await (one, two)[n % 2].create_task("limited", start=True) for n in range(150)]
        for key in keys:
            assert (await one.await_(key, SOON)).status is Status.COMPLETED
        assert len(task.took) == 150
        last = max(point[2] for point in (*said.points, *answered.points))
        for engine in (one, two):
            assert engine.replica.backpressure.valves._points["limited"].t == last


@pytest.mark.slow
async def test_replicas_without_signals_are_bounced_each_for_itself(pg_dsn: str, proxy: TaskProxy) -> None:
    """V3, B1: losing every signal costs latency, never correctness."""
    task = Limited(SystemClock(), 60, refuses=range(30, 40))
    proxy.handle_task("limited", task)
    often = {"replica_timeout_ms": 500}  # they look at the database every half second
    async with replica(pg_dsn, proxy, **often) as one, replica(pg_dsn, proxy, **often) as two:
        keys = [await (one, two)[n % 2].create_task("limited", start=True) for n in range(120)]
        for n, key in enumerate(keys):
            assert (await (one, two)[n % 2].await_(key, SOON)).status is Status.COMPLETED
        assert len(task.took) == 120
