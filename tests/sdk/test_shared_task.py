"""Functions that never wait: several executions in one asyncio task, each as if it had its own."""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from dwarf_nats.sdk import Flow, TaskError, shared_task, task_executor
from dwarf_nats.sdk.executions import Execution, Handler, current_step
from dwarf_nats.sdk.task_executor import TaskExecutor
from dwarf_nats.workflow.answer import Answer
from dwarf_nats.workflow.prepared import prepare
from dwarf_nats.workflow.state import Raw
from tests.sdk.test_sdk_worker_exceptions import PATIENCE, Answers, call

SET: ContextVar[str] = ContextVar("set", default="fresh")


class Place:
    """An executor, and the answers of its executions by step."""

    def __init__(self, limit: int = 64) -> None:
        self.answers = Answers()
        self.executor = TaskExecutor(limit, self.answers.take, self.answers.accept, self.answers.accept)

    def submit(self, number: int, function: Callable[..., Any], **more: Any) -> Execution:
        execution = Execution(call(number), "reply", Handler.of("t", function), **more)
        self.executor.submit(execution)
        return execution

    async def said(self) -> dict[str, Answer]:
        """All answers, once every execution has ended."""
        async with asyncio.timeout(PATIENCE):
            await self.executor.wait_idle()
        assert (self.executor.running, self.executor.waiting) == (0, 0)
        return self.answers.said


@pytest.fixture
async def place() -> Place:
    return Place()


async def plain(n: int) -> dict[str, int]:
    return {"n": n + 1}


async def waits() -> None:
    await asyncio.sleep(0)


async def enters(lock: asyncio.Lock) -> None:
    async with lock:
        """Does nothing."""


async def loops(many: Any) -> None:
    async for _ in many:
        pass


async def comprehends(many: Any) -> dict[str, Any]:
    return {"all": [one async for one in many]}


async def looks() -> None:
    asyncio.current_task()


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(**arguments: Any) -> Any:
        return await function(**arguments)

    return wrapper


class Callee:
    async def method(self) -> None:
        """Does nothing."""

    async def __call__(self) -> None:
        """Does nothing."""


@pytest.mark.parametrize(
    ("function", "never"),
    [
        (plain, True),
        (functools.partial(plain, n=1), True),
        (Callee().method, True),
        (waits, False),
        (enters, False),
        (loops, False),
        (comprehends, False),
        (looks, False),
        (decorated(plain), False),
        (lambda: None, False),
        (Callee(), False),
    ],
)
def test_what_never_waits_is_seen_in_the_code(function: Any, never: bool) -> None:
    assert prepare(function).never_waits is never
    assert Handler.of("t", function).never_waits is never


async def test_each_runs_in_a_context_of_its_own(place: Place) -> None:
    """What one sets is not seen by the next, although they share an asyncio task."""
    seen: list[tuple[str, str, int]] = []

    def look() -> None:
        seen.append((SET.get(), current_step.get(), id(asyncio.current_task())))

    async def function() -> None:
        look()
        SET.set("taken")

    for number in (1, 2, 3):
        place.submit(number, function)
    said = await place.said()
    assert [one[:2] for one in seen] == [("fresh", "1-1"), ("fresh", "1-2"), ("fresh", "1-3")]
    assert len({task for *_, task in seen}) == 1
    assert said == {f"1-{number}": Answer() for number in (1, 2, 3)}


async def test_errors_are_those_of_their_own_step(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """X4, X5: the error of one is no other's; each is logged with its step; a retry that was asked for goes along."""

    async def good() -> dict[str, int]:
        return {"ok": 1}

    async def bad(flow: Flow) -> None:
        flow.set("seen", True)
        flow.retry(max_attempts=3)
        raise TaskError("no", code=402)

    async def odd() -> int:
        return 7

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def broken() -> None:
        raise ZeroDivisionError

    async def pauses(flow: Flow) -> None:
        flow.interrupt({"why": 1})

    with caplog.at_level("INFO", "dwarf_nats.worker"):
        for number, function in enumerate((good, bad, odd, cancelled, broken, pauses, good)):
            place.submit(number, function)
        said = await place.said()
    assert said["1-0"].changes == said["1-6"].changes == {"ok": Raw(b"1")}
    assert said["1-1"].error is not None
    assert (said["1-1"].error.code, said["1-1"].changes) == (402, {"seen": Raw(b"true")})
    assert said["1-1"].retry is not None
    assert said["1-2"].error is not None
    assert "a task returns its changes" in said["1-2"].error.message
    assert said["1-3"].error is not None
    assert said["1-3"].error.message == "the task was cancelled from inside"
    assert said["1-4"].error is not None
    assert said["1-5"].interrupt == Raw(b'{"why":1}')
    logged = {(record.getMessage(), bool(record.exc_info)) for record in caplog.records}
    assert ("task t, step 1-4 raised ZeroDivisionError", True) in logged
    assert ("task t, step 1-1: no", False) in logged
    assert len(logged) == 2


async def test_a_function_that_has_the_task_cancelled_harms_no_other(place: Place) -> None:
    """It may be far below the function, where its code does not show it."""

    def deep() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def function() -> None:
        deep()

    async def good() -> dict[str, int]:
        return {"ok": 1}

    place.submit(1, function)
    place.submit(2, good)
    await asyncio.sleep(0)
    place.submit(3, good)
    said = await place.said()
    assert said == {"1-1": Answer(), "1-2": Answer({"ok": Raw(b"1")}), "1-3": Answer({"ok": Raw(b"1")})}


async def test_others_get_their_turn_between_slices(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that computes for long holds the loop no longer than one of them takes; a cancellation still comes through."""
    monkeypatch.setattr(shared_task, "SLICE_SECONDS", -1.0)
    order: list[str] = []

    async def function() -> None:
        order.append(current_step.get())
        asyncio.get_running_loop().call_soon(order.append, "another")
        if len(order) == 1:
            asyncio.get_running_loop().call_soon(place.executor.cancel, ["1-3"])

    for number in (1, 2, 3):
        place.submit(number, function)
    said = await place.said()
    assert order[:3] == ["1-1", "another", "1-2"]
    assert "1-3" not in order
    assert said["1-3"].error is not None
    assert said["1-3"].error.code == 499


async def test_a_step_whose_deadline_passes_before_its_turn_is_not_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X9: its timer is that of the event loop, which has its turn between two slices."""
    monkeypatch.setattr(shared_task, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(task_executor, "DEADLINE_GRACE_SECONDS", 0.0)
    ran: list[str] = []

    async def function() -> None:
        ran.append(current_step.get())

    for number in range(1, 9):
        place.submit(number, function)
    late = call(9)
    late.budget = 0.0
    place.executor.submit(Execution(late, "reply", Handler.of("t", function)))
    said = await place.said()
    assert said["1-9"].error is not None
    assert said["1-9"].error.code == 408
    assert ran == [f"1-{number}" for number in range(1, 9)]


async def test_a_step_that_waits_for_a_slot_runs_when_one_is_free() -> None:
    place = Place(limit=1)
    gate = asyncio.Event()
    ran: list[str] = []

    async def holds() -> None:
        await gate.wait()

    async def function() -> None:
        ran.append(current_step.get())

    place.submit(1, holds)
    for number in (2, 3, 4):
        place.submit(number, function)
    await asyncio.sleep(0)
    assert (ran, place.executor.waiting) == ([], 3)
    gate.set()
    await place.said()
    assert ran == ["1-2", "1-3", "1-4"]


async def test_ctrl_c_ends_the_task_and_the_others_are_still_answered(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step goes elsewhere; what came with it is not lost."""
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    loop = asyncio.get_running_loop()

    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def good() -> None:
        """Does nothing."""

    place.submit(1, interrupted)
    place.submit(2, good)
    first = place.executor._shared._task
    assert first is not None
    with pytest.raises(KeyboardInterrupt):
        # As the loop does: the exception of the task leaves it.
        place.executor._run_at_once(place.executor._shared._ready.popleft())
    assert loop.is_running()
    said = await place.said()
    assert said["1-1"].error is not None
    assert said["1-1"].error.code == 429
    assert said["1-2"] == Answer()


async def test_what_has_ended_needs_no_collector(place: Place) -> None:
    """An execution and its call held each other: Python's collector had to free every one."""

    async def function() -> None:
        """Does nothing."""

    async def with_flow(flow: Flow) -> dict[str, bool]:
        await asyncio.sleep(0)
        return {"cancelled": flow.cancelled}

    async def report(_execution: Execution, _body: bytes) -> bool:
        return True

    gc.collect()
    gc.disable()
    try:
        for number in range(5):
            place.submit(number, function, send_progress=report)
            place.submit(number + 10, with_flow, send_progress=report)
        await place.said()
        await asyncio.sleep(0)
        assert [one for one in gc.get_objects() if isinstance(one, Execution)] == []
    finally:
        gc.enable()
