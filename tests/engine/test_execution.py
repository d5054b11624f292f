"""How one step runs (X3-X6, X8, X11, S1), seen from outside."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.engine.scheduling.slots import WorkerSlots
from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.library import open_engine
from dwarf_nats.ports import BusAway, WorkerLost
from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.answer import Answer, ErrorInfo, Retry, TaskCall
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON, Gate, Remembered, flow_id, line, shard_of


def error_of(outcome: Any) -> tuple[int, str]:
    assert outcome.status is Status.FAILED
    return outcome.error.code, outcome.error.message


# -- errors (X4, X8)


async def test_an_error_fails_the_flow_with_all_it_said(engine: Engine, proxy: TaskProxy) -> None:
    def charge(card: str) -> None:
        raise TaskError("card declined", code=402, card=card)

    proxy.handle_task("charge", charge)
    outcome = await engine.run(line("pay", "charge", "add"), {"card": "4242"}, timeout=SOON)
    assert outcome.error == ErrorInfo("card declined", 402, {"card": "4242"})
    assert (outcome.status, outcome.state) == (Status.FAILED, {"card": "4242"})
    (step,) = await engine.history(outcome.flow_key)
    assert (step.status, step.error) == (Status.FAILED, outcome.error)
    assert proxy.calls == {"charge": 1}
    ((summary,), _) = await engine.list(Query(search="DECLINED"))
    assert summary.error == outcome.error


async def raises_unprintable() -> None:
    raise ValueError("lone \ud800 and \0")


BAD_TASKS: dict[str, tuple[Callable[..., Any], int, str]] = {
    "an ordinary exception": (lambda: 1 / 0, 500, "division by zero"),
    "no mapping": (lambda: 42, 500, "a task returns its changes as a mapping"),
    "NaN": (lambda: {"x": float("nan")}, 400, "NaN|nan"),
    "no JSON": (lambda: {"x": object()}, 400, "cannot be written as JSON"),
    "too deep": (lambda: {"x": nested(70)}, 400, "nest|deep|level"),
    "a big integer": (lambda: {"x": 2**63}, 400, "64 bit"),
    "a lone surrogate": (lambda: {"x": "\ud800"}, 400, "JSON"),
    "a missing argument": (lambda nowhere: {}, 400, "nowhere"),
    "unprintable": (raises_unprintable, 500, "lone"),
}


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("kind", list(BAD_TASKS))
async def test_what_cannot_be_an_answer_fails_that_step_only(engine: Engine, proxy: TaskProxy, kind: str) -> None:
    """S1, X4."""
    function, code, words = BAD_TASKS[kind]
    proxy.handle_task("bad", function)
    bad, good = await asyncio.gather(
        engine.run(line("bad", "bad", "add"), {"n": 1}, timeout=SOON), engine.run("line", {"n": 1}, timeout=SOON)
    )
    found, message = error_of(bad)
    assert found == code
    assert re.search(words, message), message
    assert (good.status, good.state) == (Status.COMPLETED, {"n": 4})
    assert engine.replica.slots.in_use == 0


async def test_an_unknown_task_fails_the_step(engine: Engine) -> None:
    code, message = error_of(await engine.run(line("x", "nowhere"), {}, timeout=SOON))
    assert (code, "nowhere" in message) == (503, True)


class Answers:
    """A port of tasks that answers what a test wants."""

    def __init__(self, *answers: Answer | BaseException) -> None:
        self.answers = list(answers)
        self.calls: list[TaskCall] = []
        self.returned = asyncio.Event()
        self.returned.set()

    async def execute(self, call: TaskCall) -> Answer:
        self.calls.append(call)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def ready(self) -> None:
        await self.returned.wait()

    def cancel(self, step_key: str) -> None: ...


def over(tasks: Answers, dsn: str = "sqlite://", **settings: Any) -> Engine:
    return open_engine(dsn, tasks=tasks, settings=EngineSettings(drain_ms=0, **settings))


async def test_an_exception_of_the_port_is_an_error_of_the_step(dsn: str) -> None:
    async with over(Answers(RuntimeError("broken port"), TimeoutError("its own"), OSError()), dsn) as engine:
        found = [error_of(await engine.run(line("x", "a"), timeout=SOON)) for _ in range(3)]
    assert found == [(500, "broken port"), (500, "its own"), (500, "OSError")]


@pytest.mark.parametrize(
    "signal", [{"goto": "b"}, {"interrupt": Raw(b"1"), "goto": "b"}, {"goto": "b", "retry": Retry()}]
)
async def test_signals_without_an_edge_or_competing_fail_the_step(signal: dict[str, Any]) -> None:
    async with over(Answers(Answer(**signal))) as engine:
        code, message = error_of(await engine.run(line("x", "a", "b"), timeout=SOON))
    assert code == 500
    assert "the task asked" in message


async def test_a_step_whose_bus_is_away_is_held_and_completes_when_it_is_back(dsn: str) -> None:
    """V4, B6: neither failed nor counted as an attempt."""
    tasks = Answers(BusAway("gone"), BusAway("gone again"), Answer(changes={"x": Raw(b"1")}))
    tasks.returned.clear()
    async with over(tasks, dsn) as engine:
        run = asyncio.create_task(engine.run(line("x", "a"), timeout=SOON))
        while not tasks.calls:
            await asyncio.sleep(0)
        tasks.returned.set()
        outcome = await run
        (step,) = await engine.history(outcome.flow_key)
    assert (outcome.state, step.attempt) == ({"x": 1}, 0)
    assert [call.attempt for call in tasks.calls] == [0, 0, 0]
    assert len({call.step_key for call in tasks.calls}) == 1


async def test_a_step_whose_worker_is_lost_is_given_back_at_once_and_runs_again(dsn: str) -> None:
    """X11: under the same key, neither failed nor counted as an attempt, whatever it contributed before kept."""
    lost = WorkerLost("its worker is gone")
    more = Answer(changes={"x": Raw(b"1")}, retry=Retry(max_attempts=3))
    tasks = Answers(lost, lost, more, lost, Answer(changes={"y": Raw(b"2")}))
    async with over(tasks, dsn) as engine:
        outcome = await engine.run(line("x", "a"), timeout=SOON)
        (step,) = await engine.history(outcome.flow_key)
    assert (outcome.status, outcome.state, step.attempt) == (Status.COMPLETED, {"x": 1, "y": 2}, 1)
    assert [call.attempt for call in tasks.calls] == [0, 0, 0, 1, 1]
    assert len({call.step_key for call in tasks.calls}) == 1


async def test_a_step_lost_again_is_held_back_as_long_as_the_port_asks(clock: ManualClock) -> None:
    """A step that brings down whoever runs it must not run hot."""
    tasks = Answers(WorkerLost("gone"), WorkerLost("gone", pause=4), Answer())
    engine = open_engine("sqlite://", tasks=tasks, settings=EngineSettings(drain_ms=0), clock=clock)
    async with engine:
        key = await engine.create(line("x", "a"), start=True)
        while len(tasks.calls) < 2:
            await engine.snapshot(key)
        while (await engine.history(key))[0].status is not Status.PENDING:
            pass
        clock.advance(3.9)
        for _ in range(20):
            await engine.snapshot(key)
        assert len(tasks.calls) == 2
        clock.advance(0.2)
        assert (await engine.await_(key, SOON)).status is Status.COMPLETED
    assert len(tasks.calls) == 3


# -- retry (X5)


async def test_a_retry_keeps_its_changes_and_waits_as_scheduled(
    timed: Engine, proxy: TaskProxy, clock: ManualClock, heard: Remembered
) -> None:
    seen: list[tuple[int, int]] = []

    def flaky(flow: Flow) -> None:
        seen.append((flow.attempt, flow.get("tries", 0)))
        flow.set("tries", flow.get("tries", 0) + 1)
        if flow.attempt < 3:
            flow.retry(initial_delay=10, multiplier=2, max_delay=30)

    proxy.handle_task("flaky", flaky)
    key = await timed.create_task("flaky", start=True)
    for attempt, delay in ((1, 10), (2, 20), (3, 30)):
        await heard.until(lambda: len(heard.enqueued) == attempt)  # noqa: B023 - awaited at once
        clock.advance(delay - 0.01)
        await timed.list()
        assert len(seen) == attempt
        clock.advance(0.02)
    outcome = await timed.await_(key, SOON)
    assert (outcome.state, seen) == ({"tries": 4}, [(0, 0), (1, 1), (2, 2), (3, 3)])
    (step,) = await timed.history(key)
    assert step.attempt == 3


async def test_an_error_with_a_retry_stands_when_max_attempts_is_reached(engine: Engine, proxy: TaskProxy) -> None:
    """X5, S6: what the attempts changed whose retry was granted stays and is seen by the next; the last one adds nothing."""
    seen: list[Any] = []

    def flaky(flow: Flow) -> None:
        seen.append(flow.get("tried"))
        flow.set("tried", flow.attempt)
        flow.retry(max_attempts=3, initial_delay=0)
        raise TaskError(f"no {flow.attempt}", code=409)

    proxy.handle_task("flaky", flaky)
    outcome = await engine.run(line("x", "flaky"), {"kept": 1}, timeout=SOON)
    assert (error_of(outcome), outcome.state) == ((409, "no 2"), {"kept": 1, "tried": 1})
    assert seen == [None, 0, 1]
    assert proxy.calls["flaky"] == 3


async def test_a_retry_without_an_error_says_how_often_it_was_tried(engine: Engine, proxy: TaskProxy) -> None:
    def flaky(flow: Flow) -> None:
        flow.retry(max_attempts=2, initial_delay=0)

    proxy.handle_task("flaky", flaky)
    assert "tried 2 times" in error_of(await engine.run(line("x", "flaky"), timeout=SOON))[1]


async def test_give_up_after_runs_from_the_first_dispatch_and_counts_the_execution_itself(
    timed: Engine, proxy: TaskProxy, clock: ManualClock, heard: Remembered
) -> None:
    """X5."""

    def flaky(flow: Flow) -> None:
        if flow.attempt:
            clock.advance(6)
        flow.retry(initial_delay=5, multiplier=1, give_up_after=20)
        raise TaskError("still no", 500)

    proxy.handle_task("flaky", flaky)
    key = await timed.create_task("flaky", start=True)
    await heard.until(lambda: len(heard.enqueued) == 1)  # age 0, due at 5
    clock.advance(5.01)  # executed from 5 to 11: due at 16
    await heard.until(lambda: len(heard.enqueued) == 2)
    clock.advance(5.01)  # executed from 16 to 22: would be due at 27
    assert error_of(await timed.await_(key, SOON)) == (500, "still no")
    assert proxy.calls["flaky"] == 3


async def test_a_retry_without_delays_begins_after_100_ms_and_doubles(
    timed: Engine, proxy: TaskProxy, clock: ManualClock, heard: Remembered
) -> None:
    """X5."""
    proxy.handle_task("flaky", lambda flow: flow.retry())
    await timed.create_task("flaky", start=True)
    for attempt, delay in ((1, 0.1), (2, 0.2), (3, 0.4)):
        await heard.until(lambda: len(heard.enqueued) == attempt)  # noqa: B023 - awaited at once
        clock.advance(delay - 0.01)
        await timed.list()
        assert proxy.calls["flaky"] == attempt
        clock.advance(0.02)


async def test_the_tighter_of_both_bounds_holds(
    timed: Engine, proxy: TaskProxy, clock: ManualClock, heard: Remembered
) -> None:
    def flaky(flow: Flow) -> None:
        flow.retry(max_attempts=100, initial_delay=5, give_up_after=9)

    proxy.handle_task("flaky", flaky)
    key = await timed.create_task("flaky", start=True)
    await heard.until(lambda: len(heard.enqueued) == 1)
    clock.advance(5.01)
    assert "tried 2 times" in error_of(await timed.await_(key, SOON))[1]


# -- times (X6, C5, X3)


async def test_a_sleep_delays_the_next_step_exactly(
    timed: Engine, proxy: TaskProxy, clock: ManualClock, heard: Remembered
) -> None:
    """X6."""

    def nap(flow: Flow) -> None:
        flow.sleep(60)

    proxy.handle_task("nap", nap)
    key = await timed.create(line("x", "nap", "add"), {"n": 1}, start=True)
    await heard.until(lambda: len(heard.enqueued) == 1)
    clock.advance(59.99)
    for _ in range(5):
        assert (await timed.history(key))[1].status is Status.PENDING
    clock.advance(0.02)
    assert (await timed.await_(key, SOON)).state == {"n": 2}


async def test_start_at_delays_the_entry_step_only(timed: Engine, proxy: TaskProxy, clock: ManualClock) -> None:
    """O2, C5."""
    at = datetime.fromtimestamp(clock.now() / 1e6, UTC) + timedelta(hours=1)
    key = await timed.create("line", {"n": 1}, FlowOptions(start_at=at), start=True)
    early = await timed.create("line", {"n": 1}, FlowOptions(start_at=at))
    await timed.start(early)
    for flow in (key, early):
        assert (await timed.snapshot(flow)).status is Status.RUNNING
        assert [step.status for step in await timed.history(flow)] == [Status.PENDING]
    clock.advance(3599.9)
    await timed.list()
    assert proxy.calls == {}
    clock.advance(0.2)
    for flow in (key, early):
        assert (await timed.await_(flow, SOON)).state == {"n": 4}


async def test_a_start_time_that_has_passed_delays_nothing(engine: Engine) -> None:
    past = FlowOptions(start_at=datetime(2001, 1, 1, tzinfo=UTC))
    assert (await engine.run("line", {"n": 1}, past, SOON)).state == {"n": 4}


async def test_a_task_that_never_answers_fails_at_its_deadline(engine: Engine, proxy: TaskProxy) -> None:
    """X3."""
    gate = Gate()
    proxy.handle_task("gate", gate)
    outcome = await engine.run(line("x", "gate"), {}, FlowOptions(time_budget_ms=20), SOON)
    assert error_of(outcome) == (408, "task gate did not answer within its time budget of 20 ms")
    assert gate.cancelled == 1


async def test_the_engines_budget_holds_for_flows_without_one() -> None:
    gate = Gate()
    async with workflow_engine(settings=EngineSettings(time_budget_ms=20)) as (engine, own):
        own.handle_task("gate", gate)
        assert error_of(await engine.run(line("x", "gate"), timeout=SOON))[0] == 408


# -- state at the door (S1)

DEEP = b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"
BAD_STATES: dict[str, tuple[Any, str]] = {
    "an array": (b"[1]", "must be a JSON object, got array"),
    "null": (b"null", "must be a JSON object, got null"),
    "a string": (b'"x"', "must be a JSON object, got string"),
    "nothing": (b"", "not valid JSON"),
    "broken": (b'{"a":', "not valid JSON"),
    "trailing": (b"{} {}", "not valid JSON"),
    "no UTF-8": (b'{"a":"\xff"}', "not valid JSON"),
    "a lone surrogate": (b'{"a":"\\ud800"}', "not valid JSON"),
    "a number out of range": (b'{"a":1e999}', "JSON|range"),
    "an integer out of range": (b'{"a":9223372036854775808}', "64 bit"),
    "an integer far out of range": (b'{"a":-' + b"9" * 400 + b"}", "64 bit|JSON|range"),
    "too deep": (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "level|deep|nest"),
    "far too deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON|level|deep|nest"),
    "NaN": ({"a": float("nan")}, "nan"),
    "a set of objects": ({"a": {object()}}, "cannot be written as JSON"),
    "a lone surrogate in Python": ({"a": "\ud800"}, "JSON"),
    "a big integer in Python": ({"a": 2**63}, "64 bit"),
}


@pytest.mark.parametrize("kind", list(BAD_STATES))
async def test_a_bad_state_is_refused_at_the_door(timed: Engine, kind: str) -> None:
    """S1."""
    state, words = BAD_STATES[kind]
    for ask in (timed.create("line", state), timed.run("line", state), timed.create_task("add", state)):
        with pytest.raises(BadRequest, match=words):
            await ask
    assert (await timed.list())[0] == []


async def test_every_sound_state_comes_back_digit_for_digit(engine: Engine) -> None:
    """S1, and NUL characters, which one of the databases refuses in plain text."""
    text = (
        '{"max":9223372036854775807,"min":-9223372036854775808,"f":1.10,"e":1E2,"z":-0.0,"nul":"a\\u0000b",'
        '"u":"é😀\\ud83d\\ude00","q":"\\"\\\\","n":0,"null":null,"o":{"b":1,"a":[{}]},"":0,"n a.m-e":1}'
    ).encode()
    outcome = await engine.run("single", text, timeout=SOON)
    assert outcome.state_json == text.replace(b'"n":0', b'"n":1')
    deep = await engine.run("single", DEEP, timeout=SOON)
    assert deep.state_json == DEEP[:-1] + b',"n":1}'


async def test_a_null_in_an_initial_state_stays_until_a_change_removes_it(engine: Engine, proxy: TaskProxy) -> None:
    """S3."""
    proxy.handle_task("drop", lambda: {"b": None})
    outcome = await engine.run(line("x", "drop"), {"a": None, "b": 1}, timeout=SOON)
    assert outcome.state_json == b'{"a":null}'


async def test_of_a_name_given_twice_the_last_counts(engine: Engine) -> None:
    assert (await engine.run("single", b'{"n":1,"n":5}', timeout=SOON)).state == {"n": 6}


async def test_a_state_over_the_limit_is_refused_or_fails_its_step() -> None:
    async with workflow_engine(settings=EngineSettings(max_state_bytes=100)) as (engine, proxy):
        proxy.handle_graph(line("grow", "grow"))
        proxy.handle_task("grow", lambda: {"big": "x" * 200})
        with pytest.raises(TooLarge, match="over the limit of 100"):
            await engine.create("grow", {"x": "y" * 100})
        code, message = error_of(await engine.run("grow", {}, timeout=SOON))
        assert (code, "over the limit of 100" in message) == (413, True)


# -- hands


async def test_no_more_steps_are_in_hand_than_there_are_workers() -> None:
    """C1: a replica claims no more than it has free workers."""
    now = most = 0
    full = asyncio.Event()

    async def busy() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:  # a task that nobody else waits beside has every worker (C6)
            full.set()
        await full.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        now -= 1

    async with workflow_engine(settings=EngineSettings(workers=3)) as (engine, own):
        own.handle_task("busy", busy)
        keys = await asyncio.gather(*(engine.create(line("x", "busy", "busy2")) for _ in range(20)))
        own.handle_task("busy2", busy)
        await asyncio.gather(*(engine.start(key) for key in keys))
        outcomes = await asyncio.gather(*(engine.await_(key, SOON) for key in keys))
        assert {outcome.status for outcome in outcomes} == {Status.COMPLETED}
        assert most == 3


def test_hands_know_when_they_are_free_and_empty() -> None:
    slots = WorkerSlots(EngineSettings(workers=2))
    assert (slots.available, slots.has_available.is_set(), slots.idle.is_set()) == (2, True, True)
    slots.acquire()
    slots.acquire()
    assert (slots.available, slots.has_available.is_set(), slots.idle.is_set()) == (0, False, False)
    slots.release()
    slots.release()
    assert (slots.available, slots.has_available.is_set(), slots.idle.is_set()) == (2, True, True)


async def test_better_bands_go_first() -> None:
    """C1: what is pending competes."""
    order: list[int] = []
    gate = Gate()
    async with workflow_engine(settings=EngineSettings(workers=1)) as (engine, own):
        own.handle_task("gate", gate)
        own.handle_task("note", lambda p: order.append(p))
        held = await engine.create_task("gate", start=True)
        await gate.began()
        keys = [
            await engine.create_task("note", {"p": priority}, FlowOptions(priority=priority), start=True)
            for priority in (300, 100, 200, 1, 100)
        ]
        gate.open()
        await asyncio.gather(*(engine.await_(key, SOON) for key in [held, *keys]))
    assert order == [1, 100, 100, 200, 300]


async def test_an_idle_engine_writes_a_step_in_one_transaction(timed: Engine) -> None:
    """Architecture, the spine: born running, so nothing is selected and claimed."""
    shard = shard_of(timed)
    await timed.run("line", {"n": 1}, timeout=SOON)
    groups = shard.committer.groups
    claims = 0
    original = shard.store.steps.claim

    async def counted(*args: Any) -> Any:
        nonlocal claims
        claims += 1
        return await original(*args)

    shard.store.steps.claim = counted  # type: ignore[method-assign]
    await timed.run("line", {"n": 1}, timeout=SOON)
    assert (shard.committer.groups - groups, claims) == (3, 0)


# -- notices and signals (B1, B4; wire section 5)


async def test_changes_are_told_in_order_and_the_outcome_where_it_was_asked_for(
    engine: Engine, heard: Remembered
) -> None:
    outcome = await engine.run("line", {"n": 1}, FlowOptions(notify="me.too"), SOON)
    key = await engine.create("line", {"n": 2}, FlowOptions(notify="option"))
    await engine.start(key, "mine")
    second = await engine.await_(key, SOON)
    await heard.until(lambda: len(heard.announced) == 2)
    assert heard.announced == [("me.too", outcome), ("mine", second)]
    for flow in (outcome.flow_key, key):
        assert heard.of(flow_id(flow)) == [Status.CREATED, Status.RUNNING, Status.COMPLETED]
        changes = [change for change in heard.changes if change.flow_id == flow_id(flow)]
        assert [change.sequence for change in changes] == sorted({change.sequence for change in changes})
        assert {(change.workflow, change.thread_id) for change in changes} == {("line", flow_id(flow))}
        assert [change.at for change in changes] == sorted(change.at for change in changes)


async def test_failure_and_cancel_are_told_too(engine: Engine, heard: Remembered) -> None:
    failed = await engine.run(line("x", "nowhere"), {}, FlowOptions(notify="f"), SOON)
    key = await engine.create("line", None, FlowOptions(notify="c"))
    await engine.cancel(key, "why")
    await heard.until(lambda: len(heard.announced) == 2)
    assert heard.announced == [("f", failed), ("c", await engine.snapshot(key))]
    assert heard.of(flow_id(key)) == [Status.CREATED, Status.CANCELLED]
    assert heard.of(flow_id(failed.flow_key))[-1] is Status.FAILED


async def test_flows_without_notify_are_announced_nowhere(engine: Engine, heard: Remembered) -> None:
    await engine.run("line", {"n": 1}, timeout=SOON)
    assert heard.announced == []


async def test_peers_are_told_of_pending_steps_and_stopped_flows_once_per_group(
    engine: Engine, heard: Remembered
) -> None:
    """B1."""
    key = await engine.create("line", {"n": 1})
    await engine.start(key)
    await engine.await_(key, SOON)
    await heard.until(lambda: bool(heard.ended))
    (((step_id, priority, due),), *_) = heard.enqueued
    (first, _) = await engine.history(key)
    assert (step_id, priority, due >= first.created_at) == (first.step_id, 100, True)
    assert heard.ended == [[(key, Status.COMPLETED)]]


async def test_what_peers_tell_is_only_taken_as_a_hint(engine: Engine) -> None:
    """B1: wrong, late and malformed signals change nothing."""
    key = await engine.create("line", {"n": 1})
    wait = asyncio.create_task(engine.await_(key, SOON))
    await engine.snapshot(key)
    peers = engine.peers
    peers.notify_status_change(
        [(key, Status.COMPLETED), ("nonsense", Status.FAILED), ("9-1-" + "x" * 16, Status.FAILED)]
    )
    peers.enqueue(1, [ReadyStep(10**9, 1, 0)])
    peers.enqueue(7, [ReadyStep(1, 1, 0)])
    peers.sync_valve("a", 1.0, 1)
    peers.trip_breaker("a")
    await engine.snapshot(key)
    assert not wait.done()
    await engine.start(key)
    assert (await wait).state == {"n": 4}


async def test_a_wrong_word_of_a_cancellation_costs_an_execution_and_nothing_else(
    engine: Engine, proxy: TaskProxy
) -> None:
    """B1: the database knows better, so the step is given back and runs again."""
    gate = Gate({"n": 5})
    proxy.handle_task("add", gate)
    key = await engine.create("line", {"n": 1}, start=True)
    await gate.began()
    (step,) = await engine.history(key)
    shard, number, token = key.split("-")
    wrong = f"{shard}-{number}-{token[::-1]}"
    engine.peers.notify_status_change([StoppedFlow(wrong, Status.CANCELLED), StoppedFlow(key, Status.COMPLETED)])
    assert (proxy.cancelled, gate.cancelled) == ([], 0)
    gate.again()
    engine.peers.notify_status_change([StoppedFlow(key, Status.CANCELLED)])
    assert proxy.cancelled == [step.step_key]
    await gate.began()
    gate.open()
    assert (await engine.await_(key, SOON)).state == {"n": 10}
    assert (gate.entered, gate.cancelled) == (2, 1)


async def test_notices_that_raise_harm_no_flow(caplog: pytest.LogCaptureFixture) -> None:
    """B4."""

    class Angry(Remembered):
        def stopped(self, *_: Any) -> None:
            raise RuntimeError("no")

        changed = enqueue = notify_status_change = stopped  # type: ignore[assignment]

    angry = Angry()
    async with workflow_engine(notices=angry, signals=angry) as (engine, own):
        own.handle_graph(line("line", "add"))
        own.handle_task("add", lambda n: {"n": n + 1})
        for n in range(5):
            assert (await engine.run("line", {"n": n}, FlowOptions(notify="x"), SOON)).state == {"n": n + 1}
        assert engine.replica.slots.in_use == 0
    assert "a notice or signal was refused" in caplog.text


# -- several shards


async def test_flows_spread_over_shards_and_stay_there(sqlite_dsn: str, proxy: TaskProxy) -> None:
    async with open_engine([sqlite_dsn, "sqlite://"], tasks=proxy, graphs=proxy) as engine:
        outcomes = await asyncio.gather(*(engine.run("line", {"n": n}, timeout=SOON) for n in range(30)))
        assert {outcome.flow_key.split("-")[0] for outcome in outcomes} == {"1", "2"}
        assert [outcome.state["n"] for outcome in outcomes] == [(n + 1) * 2 for n in range(30)]
        infos = await engine.shard_info()
        assert [info.shard for info in infos] == [1, 2]
        assert sum(info.flows for info in infos) == 30
        one = outcomes[0].flow_key
        joined = [await engine.create("line", None, FlowOptions(thread=one)) for _ in range(5)]
        assert {key.split("-")[0] for key in joined} == {one.split("-")[0]}


async def test_an_idempotency_key_is_unique_across_shards(proxy: TaskProxy) -> None:
    """O1."""
    async with open_engine(["sqlite://"] * 4, tasks=proxy, graphs=proxy) as engine:
        for n in range(10):
            options = FlowOptions(idempotency_key=f"k{n}")
            assert len({await engine.create("line", {}, options) for _ in range(6)}) == 1
