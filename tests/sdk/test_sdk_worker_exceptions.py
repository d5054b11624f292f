"""Whatever a task function raises or returns is answered, and its place in the worker is free again (X4, X11)."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import DwarfError
from dwarf_nats.sdk import Flow, TaskError, Worker, task_subscriptions
from dwarf_nats.sdk.executions import Execution, Handler
from dwarf_nats.sdk.task_executor import TaskExecutor
from dwarf_nats.workflow.answer import Answer, Disposition, TaskCall
from dwarf_nats.workflow.state import Raw, decode_state
from tests.support.engine_side import PATIENCE, EngineSide

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(nc: Nats, prefix: str) -> EngineSide:
    return EngineSide(nc, prefix)


@pytest.fixture
def serving(serving: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> Callable[..., Any]:
    """As in other modules; the worker takes one step at a time."""
    caplog.set_level(logging.CRITICAL, logger="dwarf_nats.worker")  # lone surrogates break the report of a test
    return partial(serving, concurrency=1)


class Panic(BaseException):
    """As `pyo3_runtime.PanicException`: no `Exception`."""


class Mute(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise Panic("no text")

    __repr__ = __str__


class MutePanic(Panic):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class MuteTaskError(TaskError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "panic": (lambda: Panic("called `Option::unwrap()`"), "Panic: called `Option::unwrap()`"),
    "keyboard interrupt": (KeyboardInterrupt, "KeyboardInterrupt"),
    "system exit": (lambda: SystemExit(3), "SystemExit: 3"),
    "generator exit": (GeneratorExit, "GeneratorExit"),
    "cancelled": (asyncio.CancelledError, "cancelled from inside|CancelledError"),
    "mute": (Mute, "Mute"),
    "mute panic": (MutePanic, "MutePanic"),
    "mute task error": (lambda: MuteTaskError("declined", 402), "declined"),
    "group": (lambda: BaseExceptionGroup("both", [Panic("a"), ValueError("b")]), "both"),
    "surrogate": (lambda: ValueError("a\ud800b"), "ValueError: a"),
    "odd code": (lambda: TaskError("odd", 2**70), "TaskError: odd"),
    "odd details": (lambda: TaskError("odd", 402, tags={1, 2}, at=object()), "odd"),
}


def raising(make: Callable[[], BaseException], plain: bool) -> Callable[..., Any]:
    async def waits() -> None:
        await asyncio.sleep(0)
        raise make()

    def runs() -> None:
        raise make()

    return runs if plain else waits


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "thread"])
@pytest.mark.parametrize("name", RAISED)
async def test_whatever_a_function_raises_is_answered_and_frees_its_place(
    engine: EngineSide, serving: Any, name: str, plain: bool
) -> None:
    """X4: an error of the step; the only place there is serves the next request."""
    make, text = RAISED[name]
    worker = await serving(bad=raising(make, plain), good=lambda: {"ok": 1})
    answer = await engine.call("bad")
    assert answer.error is not None
    assert any(part in answer.error.message for part in text.split("|")), answer.error
    assert answer.changes == {}
    assert (await engine.call("good")).changes == {"ok": Raw(b"1")}
    assert worker.is_running
    assert await worker.stop()


class Unfit:
    """No JSON."""


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


RETURNED: dict[str, Callable[[], Any]] = {
    "nan": lambda: {"v": math.nan},
    "infinity": lambda: {"v": [math.inf]},
    "object": lambda: {"v": Unfit()},
    "circular": circular,
    "surrogate": lambda: {"v": "\ud800"},
    "surrogate name": lambda: {"\udfff": 1},
    "large integer": lambda: {"v": 2**70},
    "deep": lambda: {"v": nested(5_000)},
    "no mapping": lambda: [1, 2],
}


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "thread"])
@pytest.mark.parametrize("name", RETURNED)
async def test_what_cannot_be_written_as_json_is_an_error_of_the_step(
    engine: EngineSide, serving: Any, name: str, plain: bool
) -> None:
    """S1, X4."""

    async def waits() -> Any:
        return RETURNED[name]()

    await serving(bad=RETURNED[name] if plain else waits, good=lambda: {"ok": 1})
    answer = await engine.call("bad")
    assert answer.error is not None
    assert (await engine.call("good")).changes == {"ok": Raw(b"1")}


async def test_a_goto_that_cannot_be_written_is_an_error_of_the_step(engine: EngineSide, serving: Any) -> None:
    """X6: what the flow object holds is written by the worker itself, after the function has returned."""

    async def bad(flow: Flow) -> None:
        flow.goto("\ud800")

    await serving(bad=bad, good=lambda: {"ok": 1})
    answer = await engine.call("bad")
    assert answer.error is not None
    assert "cannot be written as JSON" in answer.error.message
    assert (await engine.call("good")).changes == {"ok": Raw(b"1")}


def call(number: int) -> TaskCall:
    return TaskCall(
        flow_key="1-7-a1B2c3D4e5F6g7H8",
        step_key=f"1-{number}-a1B2c3D4e5F6g7H8",
        workflow="w",
        task="t",
        url="t",
        attempt=0,
        state={},
        baggage=Raw(b"null"),
        flow_created_at=0,
        flow_updated_at=0,
        deadline=0,
        budget=math.inf,
    )


class Answers:
    """The answers of the executor, by step."""

    def __init__(self) -> None:
        self.said: dict[str, Answer] = {}
        self.heard = asyncio.Event()

    async def take(self, execution: Execution, answer: Answer | bytes) -> None:
        self.said[execution.public_id] = Answer(changes=decode_state(answer)) if isinstance(answer, bytes) else answer
        self.heard.set()

    async def accept(self, _execution: Execution) -> None:
        """Nobody asks for it."""


async def test_a_job_called_off_before_it_began_is_answered_and_frees_its_place() -> None:
    """O10: a cancelled asyncio task that has not begun never runs, so nothing in it can tidy up."""
    answers = Answers()
    executor = TaskExecutor(1, answers.take, answers.accept, answers.accept)
    ran: list[str] = []

    async def function() -> None:
        ran.append("ran")

    handler = Handler.of("t", function)
    executor.submit(Execution(call(1), "reply", handler))
    executor.cancel(["1-1"])  # in the same turn of the loop
    executor.submit(Execution(call(2), "reply", handler))
    async with asyncio.timeout(PATIENCE):
        await executor.wait_idle()
    assert answers.said["1-1"].error is not None
    assert answers.said["1-1"].error.code == 499
    assert answers.said["1-2"] == Answer()
    assert (ran, executor.running) == (["ran"], 0)


async def test_an_answer_that_cannot_be_sent_frees_its_place() -> None:
    answers = Answers()

    async def refuse(_execution: Execution, _answer: Answer | bytes) -> None:
        raise DwarfError("the wire is cut")

    executor = TaskExecutor(1, refuse, answers.accept, answers.accept)
    for number in (1, 2):
        executor.submit(Execution(call(number), "reply", Handler.of("t", lambda: None)))
    async with asyncio.timeout(PATIENCE):
        await executor.wait_idle()
    assert executor.running == 0


async def test_a_cancellation_reaches_a_function_that_then_panics(engine: EngineSide, serving: Any) -> None:
    """O10: the cancelled execution is answered once, and its place is free."""
    began = asyncio.Event()

    async def bad() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise Panic("while tidying up")

    worker = await serving(bad=bad, good=lambda: {"ok": 1})
    step = await engine.send("bad")
    await began.wait()
    assert worker.is_running
    worker._server.executor.cancel([step])
    answer = await engine.answer()
    assert answer.error is not None
    assert (await engine.call("good")).changes == {"ok": Raw(b"1")}


async def test_a_thread_that_panics_after_it_was_called_off_frees_its_place(engine: EngineSide, serving: Any) -> None:
    began, go_on = threading.Event(), threading.Event()

    def bad() -> None:
        began.set()
        go_on.wait(PATIENCE)
        raise Panic("late")

    worker = await serving(bad=bad, good=lambda: {"ok": 1})
    step = await engine.send("bad")
    await asyncio.to_thread(began.wait, PATIENCE)
    assert worker.is_running
    worker._server.executor.cancel([step])
    answer = await engine.answer()
    assert answer.error is not None
    assert answer.error.code == 499
    go_on.set()
    assert (await engine.call("good")).changes == {"ok": Raw(b"1")}


@pytest.mark.parametrize("given", [False, True], ids=["own connection", "given connection"])
@pytest.mark.parametrize("how", ["cancelled", "panic"])
async def test_a_start_that_does_not_come_to_its_end_leaves_no_subscription_behind(
    engine: EngineSide, nats_server: NatsServer, prefix: str, monkeypatch: pytest.MonkeyPatch, given: bool, how: str
) -> None:
    """A subscription that nobody serves would swallow requests until their deadlines."""
    subscribing: list[Nats] = []
    there = asyncio.Event()

    async def last(nc: Nats) -> None:
        subscribing.append(nc)
        there.set()
        if how == "panic":
            raise Panic("while subscribing")
        await asyncio.Event().wait()

    monkeypatch.setattr(task_subscriptions, "round_trip", last)
    connection = await nats.connect(nats_server.url) if given else None
    worker = Worker(nats_server.url, nc=connection, task_prefix=prefix)
    worker.add_task("good", lambda: {"ok": 1})
    starting = asyncio.ensure_future(worker.start())
    await there.wait()
    if how == "cancelled":
        starting.cancel()
    with pytest.raises((asyncio.CancelledError, Panic)):
        await starting
    if connection is not None:
        await connection.flush()
        assert not connection.is_closed
    else:
        assert subscribing[0].is_closed
    await engine.send("good")
    async with asyncio.timeout(PATIENCE):
        reply = await engine.replies.get()
    assert (reply.headers or {}).get("Status") == "503"
    monkeypatch.undo()
    await worker.start()
    assert (await engine.call("good")).changes == {"ok": Raw(b"1")}
    await worker.stop()
    if connection is not None:
        await connection.close()


async def test_a_request_that_comes_as_the_worker_stops_is_given_back(engine: EngineSide, serving: Any) -> None:
    """It was delivered already: without an answer its step would wait for its deadline."""
    worker = await serving(good=lambda: {"ok": 1})
    executor, worker._server.executor = worker._server.executor, None
    answer = await engine.call("good")
    assert answer.disposition is Disposition.BACKPRESSURE
    worker._server.executor = executor


async def test_a_stop_that_is_cancelled_closes_the_connection(engine: EngineSide, serving: Any) -> None:
    began = asyncio.Event()

    async def hangs() -> None:
        began.set()
        await asyncio.Event().wait()

    worker = await serving(hangs=hangs)
    await engine.send("hangs")
    await began.wait()
    stopping = asyncio.ensure_future(worker.stop(PATIENCE))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert worker._link.nc.is_closed
    assert not worker.is_running
