"""Breakers through the real engine (V4-V6): what trips them, what is parked, who probes, what is released."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock, SystemClock
from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import Answer, Disposition, ErrorInfo
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.status import Status
from tests.support.engines import (
    SOON,
    Gate,
    Remembered,
    Service,
    crash,
    line,
    maintenance_of,
    quiet,
    replica,
    rows,
    shard_of,
    until_rows,
    wired,
)

PARKED = "select count(*) from dwarf_steps where parked = 2"
LOOSE = "select count(*) from dwarf_steps where status = 'pending' and parked = 0"
TERMINAL = "select count(*) from dwarf_steps where parked <> 0 and status not in ('pending', 'running')"


@pytest.fixture
def down(proxy: TaskProxy, clock: ManualClock) -> Service:
    """Task `down`, which cannot serve, on the manual clock; workflow `down` is that task and then `add`."""
    made = Service(clock, 503)
    proxy.handle_task("down", made)
    proxy.handle_graph(line("down", "down", "add"))
    return made


@pytest.fixture
def ailing(proxy: TaskProxy) -> Service:
    """The same on the real clock."""
    made = Service(SystemClock(), 503)
    proxy.handle_task("down", made)
    proxy.handle_graph(line("down", "down", "add"))
    return made


@pytest.fixture
async def still(dsn: str, proxy: TaskProxy, heard: Remembered, clock: ManualClock) -> AsyncIterator[Engine]:
    """An engine on each database for which time stands still, so that no probe goes out before the clock is moved."""
    made = open_engine(
        dsn, tasks=proxy, graphs=proxy, notices=heard, signals=heard, settings=EngineSettings(drain_ms=0), clock=clock
    )
    async with made:
        yield made


async def tripped_flow(engine: Engine, workflow: str = "down") -> str:
    """A flow whose first step has tripped the breaker and is parked."""
    key = await engine.create(workflow, {"n": 1}, start=True)
    await until_rows(engine, [(1,)], PARKED)
    return key


def fan(name: str, held: str) -> Graph:
    """Two branches that converge; the branches, or the node where they do, are of task `down`."""
    graph = Graph(name)
    graph.add_task("source", "add")
    for branch in ("left", "right"):
        graph.add_task(branch, "down" if held == "branches" else "add")
        graph.add_transition("source", branch)
    graph.add_task("join", "down" if held == "join" else "add")
    graph.add_transition("left", "join")
    graph.add_transition("right", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", "END")
    return graph


# -- the trip


@pytest.mark.parametrize("code", [503, 529])
async def test_the_first_signal_parks_the_step_instead_of_failing_it(
    still: Engine, down: Service, clock: ManualClock, heard: Remembered, code: int
) -> None:
    """V4: pending, not failed; nothing is counted as an attempt."""
    down.code, down.holds = code, True
    key = await still.create("down", {"n": 1}, start=True)
    await down.times(1)
    down.let_go(0, code)
    await until_rows(still, [(1,)], PARKED)
    (step,) = await still.history(key)
    assert (step.status, step.attempt, step.error) == (Status.PENDING, 0, None)
    assert (await still.snapshot(key)).status is Status.RUNNING
    assert await still.breaker_tripped("down")
    assert not await still.breaker_tripped("add")
    assert heard.trips == ["down"]
    clock.advance(0.101)
    await down.times(2)  # the probe
    down.let_go(1)
    outcome = await still.await_(key, SOON)
    assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": 2, "served": True})
    assert [step.attempt for step in await still.history(key)] == [0, 0]
    assert dict(still.replica.counters.trips) == {("down", {503: "unavailable", 529: "overloaded"}[code]): 1}


async def test_all_pending_steps_of_the_task_are_parked_and_no_others(
    still: Engine, down: Service, proxy: TaskProxy
) -> None:
    gate = Gate()
    proxy.handle_task("gate", gate)
    still.configure(workers=2)
    down.holds = True
    blocked = await still.create_task("gate", start=True)
    flows = [await still.create("down", {"n": n}, start=True) for n in range(5)]
    other = await still.create("single", {"n": 1}, start=True)
    await down.times(1)
    await until_rows(still, [(5,)], LOOSE)
    down.let_go(0, 503)
    await until_rows(still, [(5,)], PARKED)
    assert (await still.await_(other, SOON)).state == {"n": 2}
    assert len(down.asked) == 1
    assert await rows(still, LOOSE) == [(0,)]
    gate.open()
    await still.await_(blocked, SOON)
    for key in flows:
        assert (await still.snapshot(key)).status is Status.RUNNING


async def test_new_steps_are_born_parked(still: Engine, down: Service, proxy: TaskProxy) -> None:
    """V4, O2: created and started at once, started later, next after another step, branches of a fan-out, a fan-in."""
    await tripped_flow(still)
    created = await still.create("down")
    await still.create("down", start=True)
    await until_rows(still, [(2,)], PARKED)
    await still.start(created)
    await until_rows(still, [(3,)], PARKED)
    proxy.handle_graph(line("later", "add", "down"))
    await still.create("later", start=True)
    await until_rows(still, [(4,)], PARKED)
    for name, held in (("fan", "branches"), ("converging", "join")):
        proxy.handle_graph(fan(name, held))
    await still.create("fan", start=True)
    await until_rows(still, [(6,)], PARKED)
    await still.create("converging", start=True)
    await until_rows(still, [(7,)], PARKED)
    await quiet(still)
    assert len(down.asked) == 1
    assert await rows(still, LOOSE) == [(0,)]


async def test_whatever_makes_a_step_pending_again_parks_it(still: Engine, down: Service, proxy: TaskProxy) -> None:
    """A retry, a resume, a breakpoint continued, a restart, a fork, a child that ended."""
    down.code = 0

    async def pause(flow: Flow) -> dict[str, Any]:
        data = flow.interrupt({})
        return {"data": data}

    async def call(flow: Flow) -> dict[str, Any]:
        flow.subgraph("child", {})
        return {}

    held = Service(SystemClock())
    held.holds = True
    proxy.handle_task("held", held)
    proxy.handle_graph(line("child", "held"))
    paused, called = line("paused", "down"), line("called", "down")
    proxy.handle_graph(paused)
    proxy.handle_graph(called)
    done = await still.run("down", {"n": 1}, timeout=SOON)
    ended = await still.run("down", {"n": 1}, timeout=SOON)
    proxy.handle_task("down", pause)
    interrupted = await still.run("paused", timeout=SOON)
    broken = await still.create("paused")
    await still.break_before(broken, "down", True)
    await still.start(broken)
    assert (await still.await_(broken, SOON)).status is Status.INTERRUPTED
    proxy.handle_task("down", call)
    await still.create("called", start=True)
    await held.times(1)
    proxy.handle_task("down", down)
    down.code, down.asked = 503, []
    await tripped_flow(still)
    parked = 1
    await still.resume(interrupted.flow_key, {})
    await still.resume_break(broken, {})
    await still.restart(done.flow_key, {})
    parked += 3
    await until_rows(still, [(parked,)], PARKED)
    first, _ = await still.history(ended.flow_key)
    await still.fork(first.step_key, {})
    await until_rows(still, [(parked + 1,)], PARKED)
    held.let_go(0)
    await until_rows(still, [(parked + 2,)], PARKED)
    await quiet(still)
    assert len(down.asked) == 1
    assert await rows(still, LOOSE) == [(0,)]


async def test_a_breaker_signal_goes_before_retry_and_error_edge(timed: Engine, proxy: TaskProxy) -> None:
    """X4."""
    graph = Graph("handled")
    graph.add_transition("down", "add")
    graph.add_transition_on_error("down", "add")
    graph.add_transition("add", "END")
    proxy.handle_graph(graph)

    async def down(flow: Flow) -> None:
        flow.retry(max_attempts=5, initial_delay=0)
        error = RuntimeError("no")
        error.code = 503  # type: ignore[attr-defined]
        raise error

    proxy.handle_task("down", down)
    key = await tripped_flow(timed, "handled")
    (step,) = await timed.history(key)
    assert (step.status, step.attempt) == (Status.PENDING, 0)
    assert proxy.calls == {"down": 1}


async def test_an_answer_may_say_so_itself(proxy: TaskProxy) -> None:
    """Wire section 2: the disposition counts, not the code."""

    class Tasks(TaskProxy):
        async def execute(self, call: Any) -> Answer:
            self.calls[call.url] = self.calls.get(call.url, 0) + 1
            if call.url == "down":
                return Answer(error=ErrorInfo("declined", 402), disposition=Disposition.BREAKER, cause="unavailable")
            return Answer(error=ErrorInfo("closed", 503), disposition=Disposition.ERROR)

    tasks = Tasks()
    async with open_engine("sqlite://", tasks=tasks, graphs=proxy) as engine:
        down = await engine.create_task("down", start=True)
        await until_rows(engine, [(1,)], PARKED)
        assert (await engine.snapshot(down)).status is Status.RUNNING
        plain = await engine.create_task("plain", start=True)
        assert (await engine.await_(plain, SOON)).status is Status.FAILED
        assert not await engine.breaker_tripped("plain")


# -- probes


async def test_probes_go_out_on_schedule(timed: Engine, down: Service, clock: ManualClock) -> None:
    """V4: after 100 ms, then 200, 400, … at most a minute; each time the step that has been due longest, and a step that was
    sent back is due from then on."""
    first = await tripped_flow(timed)
    second = await timed.create("down", {"n": 2}, start=True)
    await until_rows(timed, [(2,)], PARKED)
    at = 0
    for number, wait in enumerate([100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000], 2):
        clock.advance((wait - 1) / 1000)
        await quiet(timed)
        assert len(down.asked) == number - 1
        clock.advance(0.001)
        clock.advance(0.001)  # a timer is a millisecond late
        await down.times(number)
        await until_rows(timed, [(2,)], PARKED)
        at += wait + 1
        assert down.asked[-1] == at
    keys = [(await timed.history(flow))[0].step_key for flow in (first, second)]
    assert down.steps == [keys[0], *[keys[n % 2] for n in range(12)]]
    assert dict(timed.replica.counters.probes) == {("down", "refused", "unavailable"): 12}


async def test_late_failures_do_not_move_the_schedule(timed: Engine, down: Service, clock: ManualClock) -> None:
    """V4: steps in hand when the breaker trips answer one after the other; their signals change nothing."""
    down.holds = True
    for n in range(6):
        await timed.create("down", {"n": n}, start=True)
    await down.times(6)
    down.let_go(0, 503)
    await until_rows(timed, [(1,)], PARKED)
    for number in range(1, 5):
        clock.advance(0.02)
        down.let_go(number, 503)
        await until_rows(timed, [(number + 1,)], PARKED)
    clock.advance(0.021)
    await down.times(7)  # 101 ms after the trip
    assert down.asked[6] == 101
    down.let_go(5, 529)
    down.let_go(6, 503)
    await until_rows(timed, [(6,)], PARKED)
    clock.advance(0.199)
    await quiet(timed)
    assert len(down.asked) == 7
    clock.advance(0.002)
    await down.times(8)


async def test_a_probe_in_hand_does_not_hold_up_the_next_one(timed: Engine, down: Service, clock: ManualClock) -> None:
    """A task that hangs does not keep the breaker from finding out that another instance serves."""
    down.holds = True
    flows = [await timed.create("down", {"n": n}, start=True) for n in range(2)]
    await down.times(2)
    down.let_go(0, 503)
    down.let_go(1, 503)
    await until_rows(timed, [(2,)], PARKED)
    clock.advance(0.101)
    await down.times(3)
    clock.advance(0.201)
    await down.times(4)
    down.let_go(3)
    await timed.await_(flows[1], SOON)
    assert not await timed.breaker_tripped("down")
    down.let_go(2)
    assert (await timed.await_(flows[0], SOON)).status is Status.COMPLETED


async def test_a_success_closes_the_breaker_and_releases_what_was_parked(
    still: Engine, down: Service, clock: ManualClock, heard: Remembered
) -> None:
    """V5: closings are not told."""
    keys = [await tripped_flow(still)]
    keys += [await still.create("down", {"n": n}, start=True) for n in range(2, 30)]
    await until_rows(still, [(29,)], PARKED)
    heard.enqueued.clear()
    down.code = 0
    clock.advance(0.101)
    for n, key in enumerate(keys, 1):
        outcome = await still.await_(key, SOON)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": n + 1, "served": True})
    assert len(down.asked) == 30
    assert not await still.breaker_tripped("down")
    assert sum(len(group) for group in heard.enqueued) >= 28  # the other replicas are told of the work
    assert heard.trips == ["down"]
    assert dict(still.replica.counters.probes) == {("down", "served", "unavailable"): 1}
    down.code = 503
    await still.create("down", start=True)
    await until_rows(still, [(1,)], PARKED)
    assert heard.trips == ["down", "down"]


@pytest.mark.parametrize("code", [500, 404, 429])
async def test_a_task_that_answers_with_an_error_of_its_own_serves(
    timed: Engine, down: Service, clock: ManualClock, code: int
) -> None:
    """V5; one that is busy is up (V1)."""
    key = await tripped_flow(timed)
    await timed.create("down", start=True)
    await until_rows(timed, [(2,)], PARKED)
    down.code = code
    clock.advance(0.101)
    await down.times(2)
    await until_rows(timed, [(0,)], PARKED)
    assert not await timed.breaker_tripped("down")
    if code != 429:
        assert (await timed.await_(key, SOON)).status is Status.FAILED


async def test_a_probe_that_gets_no_answer_says_nothing(timed: Engine, down: Service, clock: ManualClock) -> None:
    """A timed-out probe fails its step as it would any (code 408); the breaker stays tripped."""
    key = await timed.create("down", options=FlowOptions(time_budget_ms=50), start=True)
    await until_rows(timed, [(1,)], PARKED)
    await timed.create("down", start=True)
    await until_rows(timed, [(2,)], PARKED)
    down.holds = True
    clock.advance(0.101)
    outcome = await timed.await_(key, SOON)
    assert outcome.error is not None
    assert outcome.error.code == 408
    assert await timed.breaker_tripped("down")
    assert dict(timed.replica.counters.probes) == {("down", "unanswered", "unavailable"): 1}
    clock.advance(0.201)
    await down.times(3)
    down.let_go(2)
    await until_rows(timed, [(0,)], PARKED)


async def test_a_probe_waits_for_a_free_hand(
    timed: Engine, down: Service, clock: ManualClock, proxy: TaskProxy
) -> None:
    """C1: a replica claims no more than it has free workers."""
    gate = Gate()
    proxy.handle_task("gate", gate)
    key = await tripped_flow(timed)
    timed.configure(workers=1)
    await timed.create_task("gate", start=True)
    await gate.began()
    down.code = 0
    clock.advance(0.101)
    await quiet(timed)
    assert len(down.asked) == 1
    gate.open()
    assert (await timed.await_(key, SOON)).status is Status.COMPLETED


async def test_a_step_that_comes_when_a_probe_is_due_is_the_probe(
    timed: Engine, down: Service, clock: ManualClock
) -> None:
    """Nothing was there to probe with: no polling, and no waiting for whoever comes."""
    key = await tripped_flow(timed)
    await timed.cancel(key)
    clock.advance(5)
    await quiet(timed)
    assert len(down.asked) == 1
    assert await timed.breaker_tripped("down")
    down.code = 0
    assert (await timed.run("down", {"n": 1}, timeout=SOON)).status is Status.COMPLETED
    await until_rows(timed, [], "select url from dwarf_tripped")
    assert not await timed.breaker_tripped("down")


async def test_a_breaker_that_holds_nothing_is_forgotten_in_time(
    timed: Engine, down: Service, clock: ManualClock
) -> None:
    """Names of tasks that nobody will ask for again do not pile up."""
    key = await tripped_flow(timed)
    clock.advance(70)
    await down.times(2)
    await until_rows(timed, [(1,)], PARKED)
    await timed.cancel(key)
    await maintenance_of(timed).lease_reaper.sweep()
    assert await rows(timed, "select url from dwarf_tripped") == [("down",)]
    clock.advance(61)
    await quiet(timed)
    shard_of(timed).backpressure.held = True
    await maintenance_of(timed).lease_reaper.sweep()
    await until_rows(timed, [], "select url from dwarf_tripped")
    assert not shard_of(timed).backpressure.holds("down")
    assert timed.task_health() == []


# -- what may happen to parked steps


async def test_cancel_takes_parked_steps_along_and_terminal_steps_are_never_parked(
    still: Engine, down: Service, clock: ManualClock
) -> None:
    """V6, O10."""
    first = await tripped_flow(still)
    second = await still.create("down", start=True)
    await until_rows(still, [(2,)], PARKED)
    await still.cancel(first)
    assert await rows(still, PARKED) == [(1,)]
    assert await rows(still, TERMINAL) == [(0,)]
    assert [step.status for step in await still.history(first)] == [Status.CANCELLED]
    down.code = 0
    clock.advance(0.101)
    assert (await still.await_(second, SOON)).status is Status.COMPLETED
    assert await rows(still, TERMINAL) == [(0,)]


@pytest.mark.parametrize("how", ["cancel", "delete", "purge"])
async def test_a_probe_whose_flow_goes_away_does_not_wedge_the_breaker(
    timed: Engine, down: Service, clock: ManualClock, how: str
) -> None:
    down.holds = True
    first = await timed.create("down", {"n": 1}, start=True)
    await down.times(1)
    down.let_go(0, 503)
    await until_rows(timed, [(1,)], PARKED)
    second = await timed.create("down", {"n": 2}, start=True)
    await until_rows(timed, [(2,)], PARKED)
    clock.advance(0.101)
    await down.times(2)
    await timed.cancel(first)
    if how == "delete":
        await timed.delete(first)
    elif how == "purge":
        assert await timed.purge(Query(status=Status.CANCELLED)) == 1
    async with asyncio.timeout(SOON):
        while not down.cancelled:
            await asyncio.sleep(0)
    clock.advance(0.201)
    await down.times(3)
    down.let_go(2)
    assert (await timed.await_(second, SOON)).status is Status.COMPLETED
    assert not await timed.breaker_tripped("down")


async def test_a_parked_step_of_the_future_is_no_probe_and_keeps_its_time(
    timed: Engine, down: Service, clock: ManualClock
) -> None:
    """O2, X6: released early, it still runs on time."""
    key = await tripped_flow(timed)
    await timed.cancel(key)
    at = datetime.fromtimestamp(clock.now() / 1_000_000, UTC)
    early = await timed.create("down", {"n": 1}, FlowOptions(start_at=at + timedelta(seconds=30)), start=True)
    late = await timed.create("down", {"n": 2}, FlowOptions(start_at=at + timedelta(seconds=50)), start=True)
    await until_rows(timed, [(2,)], PARKED)
    clock.advance(20)
    await quiet(timed)
    assert len(down.asked) == 1
    down.code = 0
    clock.advance(10.01)
    assert (await timed.await_(early, SOON)).status is Status.COMPLETED
    assert down.asked[1] == 30_010
    await until_rows(timed, [(0,)], PARKED)
    clock.advance(19.98)
    await quiet(timed)
    assert len(down.asked) == 2
    clock.advance(0.02)
    assert (await timed.await_(late, SOON)).status is Status.COMPLETED


async def test_a_breakpoint_pauses_a_probe_and_lets_the_next_one_through(
    still: Engine, down: Service, clock: ManualClock
) -> None:
    """O12: its task was not asked, so the schedule stands where it was."""
    broken = await still.create("down", {"n": 1})
    await still.break_before(broken, "down", True)
    await tripped_flow(still)
    await still.start(broken)
    await rows(still, "update dwarf_steps set not_before = 1 where status = 'pending' and step_id = (select min(step_id)"
               " from dwarf_steps)")  # fmt: skip
    await until_rows(still, [(2,)], PARKED)
    clock.advance(0.101)
    assert (await still.await_(broken, SOON)).status is Status.INTERRUPTED
    await down.times(2)
    assert down.asked[1] == 101
    clock.advance(0.201)
    await down.times(3)


# -- restarts, other replicas, other shards


async def test_a_restarted_replica_re_arms_its_breakers(dsn: str, proxy: TaskProxy, ailing: Service) -> None:
    """V6: it does not ask before the first probe is due, and it is parked that new steps are born."""
    async with replica(dsn, proxy) as engine:
        key = await engine.create("down", {"n": 1}, start=True)
        await until_rows(engine, [(1,)], PARKED)
    ailing.holds = True
    asked = len(ailing.asked)
    async with replica(dsn, proxy) as engine:
        assert shard_of(engine).backpressure.holds("down")
        assert await engine.breaker_tripped("down")
        other = await engine.create("down", {"n": 2}, start=True)
        await ailing.times(asked + 1)
        (step,) = await engine.history(key)
        assert ailing.steps[-1] == step.step_key
        assert await rows(engine, PARKED) == [(1,)]
        ailing.holds = False
        ailing.code = 0
        ailing.let_go(asked)
        for flow in (key, other):
            assert (await engine.await_(flow, SOON)).status is Status.COMPLETED
        assert not await engine.breaker_tripped("down")


async def test_rows_found_parked_are_enough_to_re_arm(sqlite_dsn: str, proxy: TaskProxy, ailing: Service) -> None:
    """V6: a crash between a release and its end leaves no other trace."""
    async with replica(sqlite_dsn, proxy) as engine:
        key = await engine.create("down", {"n": 1}, start=True)
        await until_rows(engine, [(1,)], PARKED)
        await rows(engine, "delete from dwarf_tripped")
        await crash(engine)
    ailing.code = 0
    async with replica(sqlite_dsn, proxy) as engine:
        assert (await engine.await_(key, SOON)).status is Status.COMPLETED


async def test_steps_parked_while_the_breaker_was_being_closed_are_released_by_a_sweep(
    timed: Engine, down: Service, proxy: TaskProxy
) -> None:
    down.code = 0
    gate = Gate()
    proxy.handle_task("gate", gate)
    timed.configure(workers=1)
    await timed.create_task("gate", start=True)
    await gate.began()
    key = await timed.create("down", {"n": 1}, start=True)
    await rows(timed, "update dwarf_steps set parked = 2 where url = 'down'")
    gate.open()
    await quiet(timed)
    assert await rows(timed, PARKED) == [(1,)]
    await maintenance_of(timed).lease_reaper.sweep()
    assert (await timed.await_(key, SOON)).status is Status.COMPLETED


async def test_what_another_replica_tells_is_held_here(timed: Engine, down: Service, heard: Remembered) -> None:
    """V4, B1: applied, not told again."""
    timed.peers.trip_breaker("down")
    assert shard_of(timed).backpressure.holds("down")
    assert heard.trips == []
    key = await timed.create("down", {"n": 1}, start=True)
    await quiet(timed)
    assert down.asked == []
    assert (await timed.snapshot(key)).status is Status.RUNNING


async def test_an_unparked_step_of_a_held_task_is_passed_over_and_probes_when_one_is_due(
    still: Engine, down: Service, clock: ManualClock
) -> None:
    """What a replica inserted that had not heard of the trip: nothing wedges."""
    await shard_of(still).store.breakers.trip("other", "x")
    still.peers.trip_breaker("down")
    await shard_of(still).store.breakers.trip("down", "told")
    key = await still.create("down", {"n": 1}, start=True)
    await until_rows(still, [(1,)], PARKED)
    await rows(still, "update dwarf_steps set parked = 0")
    still.peers.enqueue(1, [ReadyStep(1, 1, 1)])
    await quiet(still)
    assert down.asked == []
    clock.advance(0.101)
    await down.times(1)
    await until_rows(still, [(1,)], PARKED)
    down.code = 0
    clock.advance(0.201)
    assert (await still.await_(key, SOON)).status is Status.COMPLETED


async def test_a_told_breaker_closes_when_the_database_says_that_another_probe_was_served(
    timed: Engine, down: Service, clock: ManualClock
) -> None:
    """Closings are not told (V5): the next look, or sweep, finds nothing held."""
    down.code = 0
    for look in ("probe", "sweep"):
        timed.peers.trip_breaker("down")
        if look == "probe":
            clock.advance(0.101)
            await quiet(timed)
        else:
            await maintenance_of(timed).lease_reaper.sweep()
        assert not shard_of(timed).backpressure.holds("down")
        assert (await timed.run("down", {"n": 1}, timeout=SOON)).status is Status.COMPLETED


@pytest.fixture
async def pair(pg_dsn: str, proxy: TaskProxy) -> AsyncIterator[tuple[Engine, Engine]]:
    """Two replicas without any signal between them."""
    async with replica(pg_dsn, proxy) as one, replica(pg_dsn, proxy) as two:
        yield one, two


@pytest.mark.slow
async def test_a_replica_that_missed_the_signal_still_knows(pair: tuple[Engine, Engine], ailing: Service) -> None:
    """O16, V6: from the database; and its own steps are born parked without its knowing."""
    one, two = pair
    key = await one.create("down", {"n": 1}, start=True)
    await until_rows(one, [("down",)], "select url from dwarf_tripped")
    assert await two.breaker_tripped("down")
    assert not shard_of(two).backpressure.holds("down")
    other = await two.create("down", {"n": 2}, start=True)
    shard_of(two).admission.slots.acquire()  # it dispatches no probe of its own meanwhile
    await until_rows(two, [(0,)], LOOSE)
    shard_of(two).admission.slots.release()
    await maintenance_of(two).lease_reaper.sweep()
    assert shard_of(two).backpressure.holds("down")
    ailing.code = 0
    for flow in (key, other):
        assert (await one.await_(flow, SOON)).status is Status.COMPLETED
    async with asyncio.timeout(SOON):
        while await two.breaker_tripped("down") or shard_of(two).backpressure.holds("down"):
            await asyncio.sleep(0)


@pytest.mark.slow
async def test_the_probe_of_a_dead_replica_does_not_wedge_the_breaker(
    pg_dsn: str, proxy: TaskProxy, ailing: Service
) -> None:
    """B2: its step is pending again, and the others probe on."""
    dead = replica(pg_dsn, proxy, replica_timeout_ms=400)
    await dead.startup()
    key = await dead.create("down", {"n": 1}, start=True)
    await until_rows(dead, [("down",)], "select url from dwarf_tripped")
    ailing.holds = True
    await ailing.times(len(ailing.asked) + 1)
    async with asyncio.timeout(SOON):
        while await rows(dead, PARKED) != [(0,)]:
            await asyncio.sleep(0)
    await crash(dead)
    ailing.holds, ailing.code = False, 0
    async with replica(pg_dsn, proxy, replica_timeout_ms=400) as living:
        assert (await living.await_(key, SOON)).status is Status.COMPLETED
        await until_rows(living, [], "select url from dwarf_tripped")


@pytest.mark.slow
async def test_two_replicas_that_both_know_recover_together(pg_dsn: str, proxy: TaskProxy, ailing: Service) -> None:
    """V4, V5: told to each other; every flow completes, each step is served once."""
    (first, said), (second, _) = wired(pg_dsn, proxy)
    async with first as one, second as two:
        keys = [await (one, two)[n % 2].create("down", {"n": n}, start=True) for n in range(40)]
        await until_rows(one, [("down",)], "select url from dwarf_tripped")
        ailing.code = 0
        for n, key in enumerate(keys):
            outcome = await one.await_(key, SOON)
            assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": n + 1, "served": True})
        async with asyncio.timeout(SOON):
            while await one.breaker_tripped("down"):
                await asyncio.sleep(0)
        assert await rows(one, TERMINAL) == [(0,)]
        assert said.trips in ([], ["down"])


async def test_each_shard_releases_on_its_own_probe(proxy: TaskProxy, down: Service, clock: ManualClock) -> None:
    """V4, V5: the trip holds on both."""
    async with open_engine(
        ["sqlite://", "sqlite://"], tasks=proxy, graphs=proxy, clock=clock, settings=EngineSettings(drain_ms=0)
    ) as engine:
        first = await engine.create("down", {"n": 0}, start=True)
        home = int(first.split("-")[0])
        away = 3 - home
        await until_rows(engine, [(1,)], PARKED, shard=home)
        await until_rows(engine, [("down",)], "select url from dwarf_tripped", shard=away)
        other = first
        while not other.startswith(f"{away}-"):
            await engine.cancel(other) if other != first else None
            other = await engine.create("down", {"n": 1}, start=True)
        await until_rows(engine, [(1,)], PARKED, shard=away)
        down.holds = True
        clock.advance(0.101)
        await down.times(3)
        mine = [number for number in (1, 2) if down.steps[number].startswith(f"{home}-")]
        assert len(mine) == 1  # one probe on each
        down.let_go(mine[0])
        assert (await engine.await_(first, SOON)).status is Status.COMPLETED
        await until_rows(engine, [], "select url from dwarf_tripped", shard=home)
        assert await rows(engine, "select url from dwarf_tripped", shard=away) == [("down",)]
        assert await engine.breaker_tripped("down")
        down.let_go(3 - mine[0])
        assert (await engine.await_(other, SOON)).status is Status.COMPLETED
        await until_rows(engine, [], "select url from dwarf_tripped", shard=away)
        assert not await engine.breaker_tripped("down")
        assert dict(engine.replica.counters.trips) == {("down", "unavailable"): 1}
