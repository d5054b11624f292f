"""A worker at its own limit says that it queues requests, and when it begins (K3)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from nats.aio.client import Client as Nats

from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Flow, Worker
from dwarf_nats.sdk.executions import Execution, Handler
from dwarf_nats.sdk.task_executor import FORGOTTEN_AFTER_SECONDS, TaskExecutor
from dwarf_nats.workflow.answer import Answer
from tests.sdk.test_sdk_worker_exceptions import Answers, call
from tests.support.engine_side import PATIENCE, EngineSide


@pytest.fixture
def engine(nc: Nats, prefix: str) -> EngineSide:
    return EngineSide(nc, prefix)


class Turns:
    """A task that ends when the test says so."""

    def __init__(self) -> None:
        self.gates: asyncio.Queue[None] = asyncio.Queue()
        self.began: asyncio.Queue[float] = asyncio.Queue()

    async def work(self, flow: Flow) -> None:
        self.began.put_nowait(flow.deadline.timestamp())
        await self.gates.get()


@pytest.mark.slow
async def test_k3_a_waiting_request_is_announced_and_its_budget_counts_from_its_start(
    engine: EngineSide, serving: Callable[..., Any]
) -> None:
    """K3: `queued` with the private subject, in the answer to a roll call too, then `started`; the deadline has moved."""
    turns = Turns()
    await serving(1, work=turns.work)
    first = await engine.send("work")
    deadline = time.time() + 30
    second = await engine.send("work", deadline=round(deadline * 1_000_000))
    said = await engine.signal()
    assert said["Dwarf-Signal"] == "queued"
    assert "Dwarf-Queue-Timeout-Ms" not in said
    private = said["Dwarf-Worker"]
    assert await engine.roll_call(private, [first, second]) == [first, second]
    assert engine.queued == [second]
    assert await engine.roll_call(private, [first]) == [first]
    assert engine.queued is None
    turns.gates.put_nowait(None)
    assert await engine.answer() == Answer()
    begins = await engine.signal()
    assert (begins["Dwarf-Signal"], begins["Dwarf-Worker"]) == ("started", private)
    async with asyncio.timeout(PATIENCE):
        await turns.began.get()
        assert await turns.began.get() > deadline
    assert await engine.roll_call(private, [second]) == [second]
    assert engine.queued == []
    turns.gates.put_nowait(None)
    assert await engine.answer() == Answer()
    assert engine.signals.empty()  # *accepted* says nothing new


@pytest.mark.slow
async def test_k3_a_replica_that_does_not_know_of_it_is_told_nothing(
    engine: EngineSide, serving: Callable[..., Any]
) -> None:
    """Wire: section 2: an older replica would take the signal for the answer; the request's header says who knows it."""
    turns = Turns()
    worker = await serving(1, work=turns.work)
    await engine.send("work")
    async with asyncio.timeout(PATIENCE):
        await turns.began.get()
    await engine.send("work", budget=0.001)
    body = json.dumps({
        "flowKey": "1-7-a1B2c3D4e5F6g7H8", "stepKey": "1-99-a1B2c3D4e5F6g7H8", "workflow": "w", "task": "work",
        "url": "work", "attempt": 0, "state": {}, "baggage": None, "flowCreatedAt": "2026-01-01T00:00:00Z",
        "flowUpdatedAt": "2026-01-01T00:00:00Z", "deadline": "2090-01-01T00:00:00Z",
    }).encode()  # fmt: skip
    await engine.raw("work", body)
    assert (await engine.signal())["Dwarf-Signal"] == "queued"  # of the second, which came before
    executor = worker._server.executor
    assert [one.takes_queued for one in executor._waiting] == [True, False]
    assert not any(one.queued for one in executor._waiting if not one.takes_queued)
    assert engine.signals.empty()


@pytest.mark.slow
async def test_k3_the_service_says_how_long_a_request_may_wait(
    engine: EngineSide, nats_server: Any, prefix: str
) -> None:
    """K3: `Worker(queue_timeout=…)`."""
    turns = Turns()
    worker = Worker(nats_server.url, task_prefix=prefix, concurrency=1, queue_timeout=2.5, drain_seconds=0)
    worker.add_task("work", turns.work)
    async with worker:
        for _ in range(2):
            await engine.send("work")
        assert (await engine.signal())["Dwarf-Queue-Timeout-Ms"] == "2500"


@pytest.mark.parametrize("seconds", [0, -1, 0.0001, float("inf"), float("nan")])
def test_a_queue_timeout_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(BadRequest, match="queue_timeout"):
        Worker("nats://x", queue_timeout=seconds)


async def test_k3_a_request_that_nobody_asks_after_any_more_is_not_begun() -> None:
    """K3: its replica has died, and another one has given the step to somebody else."""
    answers = Answers()
    executor = TaskExecutor(1, answers.take, answers.accept, answers.accept)
    ran: list[str] = []
    gate = asyncio.Event()

    async def first() -> None:
        await gate.wait()

    async def second() -> None:
        ran.append("ran")

    executor.submit(Execution(call(1), "reply", Handler.of("t", first), takes_queued=True))
    waiting = Execution(call(2), "reply", Handler.of("t", second), takes_queued=True)
    executor.submit(waiting)
    waiting.queued = True
    assert executor.queued(["1-1", "1-2"]) == ["1-2"]
    assert waiting.asked_at is not None
    waiting.asked_at -= FORGOTTEN_AFTER_SECONDS + 1
    gate.set()
    async with asyncio.timeout(PATIENCE):
        await executor.wait_idle()
    assert (ran, list(answers.said)) == ([], ["1-1"])


async def test_k3_a_cancellation_ends_a_request_that_waits() -> None:
    """O10: also one that was announced as queued."""
    answers = Answers()
    executor = TaskExecutor(1, answers.take, answers.accept, answers.accept)
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()

    for number in (1, 2):
        executor.submit(Execution(call(number), "reply", Handler.of("t", work), takes_queued=True))
    executor.cancel(["1-2"])
    assert executor.unanswered(["1-1", "1-2"]) == ["1-1"]
    gate.set()
    async with asyncio.timeout(PATIENCE):
        await executor.wait_idle()
    assert answers.said["1-2"].error is not None
