"""The deadline timer: exactly on time, by one of several replicas, and silent in between (P6, E2, C5)."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.scheduling.deadline_timer import TIME_OUT_BATCH_STEPS, DeadlineTimer
from dwarf_nats.errors import Conflict, Unavailable
from dwarf_nats.rules.rows import TimedOutWaits, TreeChange
from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import WaitTimeout
from tests.support.engines import SOON, Remembered, crash, maintenance_of, quiet, replica, shard_of, until_rows, wired

PAUSED = "select count(*) from dwarf_steps where status = 'interrupted'"


def asking(seconds: float | None) -> Any:
    """A task that asks and says how that ended."""

    def ask(flow: Flow) -> dict[str, Any]:
        try:
            return {"got": flow.interrupt("go on?", timeout=seconds)}
        except WaitTimeout:
            return {"got": "nothing"}

    return ask


async def ended(engine: Engine, key: str) -> dict[str, Any]:
    """The final state of a flow, however long it is still interrupted."""
    async with asyncio.timeout(SOON):
        while not (outcome := await engine.await_(key)).status.terminal:
            await asyncio.sleep(0)
    return outcome.state


async def until_paused(engine: Engine, count: int) -> None:
    await until_rows(engine, [(count,)], PAUSED)
    await quiet(engine)


async def test_the_task_is_asked_again_exactly_at_the_deadline(
    timed: Engine, proxy: TaskProxy, clock: ManualClock, heard: Remembered
) -> None:
    """C5, P6: neither a microsecond before nor at the next heartbeat; a nearer deadline comes first."""
    proxy.handle_task("late", asking(90_000))
    proxy.handle_task("soon", asking(7))
    late = await timed.create_task("late", start=True)
    await until_paused(timed, 1)
    soon = await timed.create_task("soon", start=True)
    await until_paused(timed, 2)
    clock.advance(6.999999)
    await quiet(timed)
    assert proxy.calls == {"late": 1, "soon": 1}
    clock.advance(0.000001)
    assert await ended(timed, soon) == {"got": "nothing"}
    clock.advance(89_992.999999)
    await quiet(timed)
    assert proxy.calls == {"late": 1, "soon": 2}
    clock.advance(0.000001)
    assert await ended(timed, late) == {"got": "nothing"}
    flow = late.rsplit("-", 1)[0]
    await heard.until(lambda: heard.of(flow)[-1] is Status.COMPLETED)
    assert [one.value for one in heard.of(flow)] == ["created", "running", "interrupted", "running", "completed"]


@pytest.mark.parametrize(
    "node",
    [{"ask": {"payload": "=n", "timeoutMs": 7_000}}, {"wait": {"event": "paid", "timeoutMs": 7_000}}],
    ids=["ask", "wait"],
)
async def test_a_node_that_waits_behind_others_ends_exactly_at_its_deadline(
    timed: Engine, clock: ManualClock, node: dict[str, Any]
) -> None:
    """N5, N6, C5: it is settled in one transaction with the nodes before it, and its deadline is known at once."""
    graph = {
        "name": "late",
        "tasks": [
            {"name": "one", "set": {"n": 1}},
            {"name": "two", "set": {"n": "=n + 1"}},
            {"name": "stop", **node},
            {"name": "late", "set": {"code": "=onErr.code", "onErr": None}},
        ],
        "transitions": [
            {"from": "one", "to": "two"},
            {"from": "two", "to": "stop"},
            {"from": "stop", "to": "END"},
            {"from": "stop", "to": "late", "onError": True},
            {"from": "late", "to": "END"},
        ],
    }
    key = await timed.create(Graph.from_json(json.dumps(graph).encode()), start=True)
    await until_rows(timed, [(1,)], "select count(*) from dwarf_steps where wait_until is not null")
    await quiet(timed)
    clock.advance(6.999999)
    await quiet(timed)
    assert not (await timed.snapshot(key)).status.terminal
    clock.advance(0.000001)
    assert await ended(timed, key) == {"n": 2, "code": 408}


async def test_what_passed_while_no_replica_ran_is_continued_at_the_start(dsn: str, proxy: TaskProxy) -> None:
    proxy.handle_task("ask", asking(3600))
    async with replica(dsn, proxy) as engine:
        key = await engine.create_task("ask", start=True)
        await until_paused(engine, 1)
        await shard_of(engine).store.database.fetch(
            "update dwarf_steps set wait_until = 1 where wait_until is not null"
        )
        await crash(engine)
    async with replica(dsn, proxy) as engine:
        assert await ended(engine, key) == {"got": "nothing"}


@pytest.mark.slow
async def test_another_replica_hears_of_a_deadline_by_its_heartbeat(pg_dsn: str, proxy: TaskProxy) -> None:
    """B1: the replica that set it is dead when it passes."""
    proxy.handle_task("ask", asking(0.05))
    (one, _), (two, _) = wired(pg_dsn, proxy)
    async with one, two:
        shard_of(one).deadlines.note = lambda delay_us: None  # type: ignore[method-assign]
        shard_of(two).deadlines.note = lambda delay_us: None  # type: ignore[method-assign]
        await until_known_to_wait(two)
        key = await one.create_task("ask", start=True)
        await until_paused(one, 1)
        await crash(one)
        del shard_of(two).deadlines.note
        await maintenance_of(two).heartbeat.run_once()
        assert await ended(two, key) == {"got": "nothing"}


async def until_known_to_wait(engine: Engine) -> None:
    """Let the first look of its timer, at the start, be over."""
    await quiet(engine)


@pytest.mark.slow
async def test_of_two_replicas_and_a_resume_one_continues_each_step(pg_dsn: str, proxy: TaskProxy) -> None:
    """P6: whoever comes first counts, resume or deadline, never both: each task is asked twice, and has one end."""
    proxy.handle_task("ask", asking(0.3))
    (one, _), (two, _) = wired(pg_dsn, proxy)
    async with one, two:
        keys = [await (one, two)[number % 2].create_task("ask", start=True) for number in range(40)]

        async def resume(key: str) -> bool:
            while True:
                try:
                    await two.resume(key, "yes")
                except Conflict:
                    if (await two.snapshot(key)).status.terminal:
                        return False
                    continue
                return True

        first = [await resume(key) for key in keys[:5]]
        await maintenance_of(one).heartbeat.run_once()  # so that both replicas time out the same steps
        await maintenance_of(two).heartbeat.run_once()
        resumed = first + list(await asyncio.gather(*(later(resume, one, key) for key in keys[5:])))
        for key, by_hand in zip(keys, resumed, strict=True):
            assert await ended(one, key) == {"got": "yes" if by_hand else "nothing"}
        assert proxy.calls == {"ask": 2 * len(keys)}


async def later(resume: Any, engine: Engine, key: str) -> bool:
    """Resume a flow about when its deadline passes."""
    step = (await engine.history(key))[0]
    number = int(step.step_key.split("-")[1])
    await until_rows(
        engine,
        [(1,)],
        "select 1 from dwarf_steps where step_id = $1"
        " and (wait_until is null and status <> 'running' or wait_until <= {now} + 2000)",
        number,
    )
    return bool(await resume(key))


# -- the timer by itself


class Store:
    """Times out what it is told to, one answer after the other."""

    def __init__(self, *answers: TimedOutWaits | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.told: list[int] = []

    async def time_out_waits(self, limit: int) -> TimedOutWaits:
        assert limit == TIME_OUT_BATCH_STEPS
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else timed_out(0, None)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def runs_on(self, result: TreeChange) -> None:
        self.told.append(len(result.due))


def timed_out(count: int, next_in: int | None) -> TimedOutWaits:
    return TimedOutWaits(TreeChange(due=[ReadyStep(1, 100, 0)] * count), count, next_in)


class Running:
    """A timer that runs."""

    def __init__(self, *answers: TimedOutWaits | Exception) -> None:
        self.store, self.clock = Store(*answers), ManualClock()
        self.timer = DeadlineTimer(
            1, self.store, announcer=self.store, clock=self.clock, logger=logging.getLogger("tests")
        )

    async def __aenter__(self) -> Running:
        self._job = asyncio.create_task(self.timer.run())
        await self.settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._job.cancel()
        await asyncio.gather(self._job, return_exceptions=True)

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def after(self, seconds: float) -> int:
        """The number of questions in all, once so much time has passed."""
        self.clock.advance(seconds)
        await self.settle()
        return self.store.asked


async def test_without_deadlines_nothing_is_asked() -> None:
    async with Running() as one:
        assert one.store.asked == 1
        assert await one.after(1_000_000) == 1
        one.timer.note(5_000_000)
        assert await one.after(4.999) == 1
        assert await one.after(0.001) == 2


async def test_a_nearer_deadline_wakes_it_and_a_further_one_does_not() -> None:
    async with Running(timed_out(0, 10_000_000)) as one:
        one.timer.note(60_000_000)
        assert await one.after(1) == 1
        one.timer.note(2_000_000)
        assert await one.after(2) == 2


async def test_many_that_passed_together_are_continued_batch_by_batch() -> None:
    full = timed_out(TIME_OUT_BATCH_STEPS, 0)
    async with Running(full, full, timed_out(7, 3_000_000)) as one:
        assert one.store.told == [TIME_OUT_BATCH_STEPS, TIME_OUT_BATCH_STEPS, 7]
        assert await one.after(2.999) == 3
        assert await one.after(0.001) == 4


async def test_what_is_locked_elsewhere_is_tried_again_ever_more_rarely() -> None:
    locked = [timed_out(0, -1) for _ in range(20)]
    async with Running(*locked) as one:
        assert await one.after(0.02) == 2
        assert await one.after(0.02) == 2
        assert await one.after(0.02) == 3
        for _ in range(10):
            await one.after(1)
        before = one.store.asked
        for _ in range(10):
            await one.after(0.1)
        assert one.store.asked == before + 1


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a defect")], ids=["away", "defect"])
async def test_a_failure_is_made_up_for(error: Exception) -> None:
    """B6: the database is away when a deadline passes."""
    async with Running(timed_out(0, 1_000_000), error, timed_out(1, None)) as one:
        assert await one.after(1) == 2
        assert await one.after(2) == 3
        assert one.store.told == [1]
        assert await one.after(1000) == 3
