"""A worker takes several steps in one message, runs each by itself, and answers as they end (wire: section 2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from dwarf_nats.sdk import Flow, TaskError, Worker
from dwarf_nats.sdk.batch_intake import MAX_BATCH_STEPS, most_steps
from tests.support.engine_side import PATIENCE, EngineSide

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(nc: Nats, prefix: str) -> EngineSide:
    return EngineSide(nc, prefix)


def member(number: int, url: str, state: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "flowKey": "1-7-a1B2c3D4e5F6g7H8",
        "stepKey": f"1-{number}-a1B2c3D4e5F6g7H8",
        "workflow": "w",
        "task": url,
        "url": url,
        "attempt": 0,
        "state": state or {},
        "baggage": None,
        "flowCreatedAt": "2026-01-01T00:00:00Z",
        "flowUpdatedAt": "2026-01-01T00:00:00Z",
        "deadline": "2099-01-01T00:00:00Z",
        "headers": {"Dwarf-Accept-Ms": "60000", "Dwarf-Queue": "1"},
        **changes,
    }


class Batches:
    """Sends batches to a worker, and keeps what it answers."""

    def __init__(self, nc: Nats, engine: EngineSide) -> None:
        self.nc = nc
        self.engine = engine
        self.messages: list[Msg] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.signals: list[tuple[str, str]] = []
        self._heard = asyncio.Event()

    async def private(self, url: str) -> str:
        """The private subject, as an answer through the queue group tells it."""
        await self.engine.send(url, {"n": 0})
        async with asyncio.timeout(PATIENCE):
            msg = await self.engine.replies.get()
        headers = msg.headers or {}
        assert headers["Dwarf-Batch"] == "64"
        return headers["Dwarf-Worker"]

    async def send(self, private: str, *members: Any) -> None:
        inbox = self.nc.new_inbox()
        await self.nc.subscribe(inbox, cb=self._on_message)
        body = json.dumps(members).encode()
        await self.nc.publish(private, body, reply=inbox, headers={"Dwarf-Batch": str(len(members))})

    async def _on_message(self, msg: Msg) -> None:
        self.messages.append(msg)
        for one in json.loads(msg.data):
            if "signal" in one:
                self.signals.append((one["stepId"], one["signal"]))
            else:
                assert one["stepId"] not in self.answers, "answered twice"
                self.answers[one["stepId"]] = one
        self._heard.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._heard.clear()
                await self._heard.wait()


@pytest.fixture
def batches(nc: Nats, engine: EngineSide) -> Batches:
    return Batches(nc, engine)


async def add(n: int) -> dict[str, int]:
    return {"n": n + 1}


async def test_the_steps_of_a_message_are_answered_together_and_a_bad_one_harms_no_other(
    batches: Batches, serving: Callable[..., Any]
) -> None:
    async def fail(n: int) -> None:
        raise TaskError(f"not {n}", code=422)

    await serving(add=add, fail=fail)
    private = await batches.private("add")
    await batches.send(
        private,
        *(member(n, "add", {"n": n}) for n in range(10, 15)),
        member(15, "fail", {"n": 15}),
        member(16, "elsewhere"),
        {**member(17, "add", {"n": 17}), "attempt": "often"},
        member(18, "add", {"n": 18}, deadline="soon"),
        member(19, "add", {"n": 19}),
    )
    await batches.until(lambda: len(batches.answers) == 10)
    got = {step: one["reply"].get("changes") for step, one in batches.answers.items()}
    assert {step: got[step] for step in got if got[step]} == {f"1-{n}": {"n": n + 1} for n in (10, 11, 12, 13, 14, 19)}
    errors = {step: one["reply"]["error"] for step, one in batches.answers.items() if "error" in one["reply"]}
    assert {step: error["code"] for step, error in errors.items()} == {
        "1-15": 422, "1-16": 429, "1-17": 400, "1-18": 400
    }  # fmt: skip
    assert batches.answers["1-16"]["headers"] == {"Dwarf-Disposition": "backpressure"}
    assert "attempt" in errors["1-17"]["message"]
    assert len(batches.messages) <= 3, "answers that are ready at once go together"
    assert all((msg.headers or {})["Dwarf-Worker"] == private for msg in batches.messages)


async def test_each_step_of_a_message_is_cancelled_asked_after_and_reported_by_itself(
    batches: Batches, engine: EngineSide, serving: Callable[..., Any]
) -> None:
    gate = asyncio.Event()

    async def wait(flow: Flow) -> dict[str, int]:
        flow.progress(0.25, "a quarter")
        await gate.wait()
        return {"done": 1}

    await serving(add=add, wait=wait)
    private = await batches.private("add")
    quick = {"Dwarf-Accept-Ms": "1", "Dwarf-Queue": "1"}
    await batches.send(private, *(member(n, "wait", headers=quick) for n in (20, 21, 22)), member(23, "add", {"n": 1}))
    await batches.until(lambda: "1-23" in batches.answers)
    await batches.until(lambda: {one for _, one in batches.signals} == {"accepted", "progress"})
    assert await engine.roll_call(private, ["1-20", "1-21", "1-22", "1-23"]) == ["1-20", "1-21", "1-22"]
    await engine.roll_call(private, [], ["1-21"])
    await batches.until(lambda: "1-21" in batches.answers)
    assert batches.answers["1-21"]["reply"]["error"]["code"] == 499
    gate.set()
    await batches.until(lambda: {"1-20", "1-22"} <= batches.answers.keys())
    assert batches.answers["1-20"]["reply"] == {"changes": {"done": 1}}


async def test_more_steps_than_run_at_once_wait_and_say_so(
    batches: Batches, serving: Callable[..., Any], engine: EngineSide, nc: Nats
) -> None:
    """K3."""
    gate = asyncio.Event()

    async def wait() -> dict[str, int]:
        await gate.wait()
        return {"done": 1}

    await serving(2, wait=wait)
    gate.set()
    await engine.send("wait")
    async with asyncio.timeout(PATIENCE):
        headers = (await engine.replies.get()).headers or {}
    assert headers["Dwarf-Batch"] == "2"
    gate.clear()
    await batches.send(headers["Dwarf-Worker"], *(member(n, "wait") for n in (30, 31, 32)))
    await batches.until(lambda: ("1-32", "queued") in batches.signals)
    gate.set()
    await batches.until(lambda: len(batches.answers) == 3)
    assert ("1-32", "started") in batches.signals
    assert not nc.is_closed


async def test_a_worker_that_stops_answers_what_it_has_and_says_that_it_takes_no_more(
    batches: Batches, serving: Callable[..., Any]
) -> None:
    gate, began = asyncio.Event(), asyncio.Event()

    async def wait() -> dict[str, int]:
        began.set()
        await gate.wait()
        return {"done": 1}

    worker: Worker = await serving(add=add, wait=wait)
    private = await batches.private("add")
    await batches.send(private, member(40, "wait"), member(41, "wait"))
    async with asyncio.timeout(PATIENCE):
        await began.wait()
    stopping = asyncio.create_task(worker.stop(PATIENCE))
    await batches.engine.roll_call(private, [])  # it is reached there to the end
    gate.set()
    assert await stopping
    await batches.until(lambda: len(batches.answers) == 2)
    assert (batches.messages[-1].headers or {})["Dwarf-Batch"] == "0"


async def test_answers_over_the_size_of_a_message_are_sent_in_several_and_one_alone_becomes_an_error(
    batches: Batches, serving: Callable[..., Any], nc: Nats
) -> None:
    async def produce(n: int) -> dict[str, str]:
        return {"text": "x" * n}

    await serving(produce=produce, add=add)
    private = await batches.private("add")
    sizes = [nc.max_payload // 3, nc.max_payload // 3, nc.max_payload // 3, nc.max_payload + 10]
    await batches.send(private, *(member(50 + i, "produce", {"n": size}) for i, size in enumerate(sizes)))
    await batches.until(lambda: len(batches.answers) == 4)
    assert [len(batches.answers[f"1-{50 + i}"]["reply"]["changes"]["text"]) for i in range(3)] == sizes[:3]
    assert batches.answers["1-53"]["reply"]["error"]["code"] == 413


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"stepKey":5}]', b"[", b"\xff"])
async def test_a_batch_that_cannot_be_read_hurts_nobody(
    body: bytes, batches: Batches, serving: Callable[..., Any], nc: Nats
) -> None:
    await serving(add=add)
    private = await batches.private("add")
    await nc.publish(private, body, reply=nc.new_inbox(), headers={"Dwarf-Batch": "2"})
    await batches.send(private, member(60, "add", {"n": 1}), member(61, "add", {"n": 2}))
    await batches.until(lambda: len(batches.answers) == 2)


def test_how_many_steps_a_worker_takes_follows_its_concurrency() -> None:
    assert [most_steps(n) for n in (1, 2, 64, 100_000)] == [0, 2, 64, MAX_BATCH_STEPS]
