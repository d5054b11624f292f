"""A worker at its own limit, seen by a caller: what waits there misses no deadline (K3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Worker
from tests.support.caller import Caller, deployment, take

pytestmark = pytest.mark.slow


@pytest.fixture
async def caller(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> AsyncIterator[Caller]:
    async with deployment(nats_server.url, sqlite_dsn, prefix, accept_ms=50, roll_call_ms=100) as one:
        yield one


async def explained(caller: Caller, flow: dict[str, str], begins: str) -> None:
    """The flow's one step waits for what begins like this."""
    async with asyncio.timeout(20):
        while True:
            waits = (await caller.ok("flow.explain", **flow))["waits"]
            if waits and waits[0]["text"].startswith(begins):
                return


async def test_k3_steps_queued_at_a_worker_outlive_their_time_budgets_and_go_elsewhere_in_time(
    caller: Caller, nats_server: NatsServer
) -> None:
    """K3: a budget of 300 ms is over long before the worker begins, which harms nothing; a queue timeout is another matter."""
    impatient = {
        "name": "impatient",
        "tasks": [{"name": "work", "queueTimeoutMs": 2000}],
        "transitions": [{"from": "work", "to": "END"}],
    }
    turns: asyncio.Queue[str] = asyncio.Queue()
    began: asyncio.Queue[str] = asyncio.Queue()

    async def work(name: str) -> dict[str, str]:
        began.put_nowait(name)
        return {"turn": await turns.get()}

    worker = Worker(nats_server.url, task_prefix=f"{caller.prefix}task", concurrency=1)
    worker.add_task("work", work)
    async with worker:
        await caller.ok("flow.create_task", task="work", state={"name": "first"}, start=True)
        assert await began.get() == "first"
        short = {"options": {"timeBudgetMs": 300}}
        patient = {**impatient, "name": "patient", "tasks": [{"name": "work", "queueTimeoutMs": 600_000}]}
        second = await caller.ok("flow.create", graph=patient, state={"name": "second"}, start=True, **short)
        await explained(caller, second, "Queued at worker")
        # Nobody answers this one: it ends with a 408 after the same budget, later than the second's would have been over.
        silent = await caller.holds("silent")
        late = await caller.ok("flow.create_task", task="silent", start=True, **short)
        await take(silent)
        assert (await caller.ok("flow.await", **late))["error"]["code"] == 408
        assert (await caller.ok("flow.snapshot", **second))["status"] == "running"
        third = await caller.ok("flow.create", graph=impatient, state={"name": "third"}, start=True)
        await explained(caller, third, "Queued at worker")
        # Another worker of the task: sooner or later the step is sent there.
        other = Worker(nats_server.url, task_prefix=f"{caller.prefix}task", concurrency=8)

        async def elsewhere(name: str) -> dict[str, str]:
            return {"elsewhere": name}

        other.add_task("work", elsewhere)
        async with other:
            outcome = await caller.ok("flow.await", **third)
        assert (outcome["status"], outcome["state"]["elsewhere"]) == ("completed", "third")
        turns.put_nowait("a")
        async with asyncio.timeout(20):
            assert await began.get() == "second"
        turns.put_nowait("b")
        outcome = await caller.ok("flow.await", **second)
        assert (outcome["status"], outcome["state"]["turn"]) == ("completed", "b")
        assert began.empty()  # what had waited too long is not begun there


async def test_k3_steps_of_one_message_are_queued_and_begin_one_by_one(caller: Caller, nats_server: NatsServer) -> None:
    """K3, B4: branches that are due at once travel together. Those over the worker's limit wait there, and are explained."""
    batches: list[list[object]] = []
    turns: asyncio.Queue[None] = asyncio.Queue()
    began: asyncio.Queue[int] = asyncio.Queue()

    async def work(item: int) -> dict[str, int]:
        began.put_nowait(item)
        await turns.get()
        return {"total": item}

    async def nothing() -> None:
        return None

    async def heard(message: Msg) -> None:
        if message.data[:1] == b"[" and b'"url"' in message.data[:2000]:
            batches.append(json.loads(message.data))

    graph = {
        "name": "wide",
        "tasks": [{"name": "split"}, {"name": "work"}, {"name": "join", "fanIn": True}],
        "reducers": {"total": "add"},
        "transitions": [
            {"from": "split", "to": "work", "forEach": "items", "as": "item"},
            {"from": "work", "to": "join"},
            {"from": "join", "to": "END"},
        ],
    }
    listener = await nats.connect(nats_server.url)
    await listener.subscribe(">", cb=heard)
    await listener.flush()
    worker = Worker(nats_server.url, task_prefix=f"{caller.prefix}task", concurrency=2)
    worker.add_task("work", work)
    for name in ("split", "join"):
        worker.add_task(name, nothing)
    async with worker:
        turns.put_nowait(None)
        await caller.ok("flow.run", graph=graph, state={"items": [0]})  # now the replica knows what the worker takes
        assert await began.get() == 0
        flow = await caller.ok("flow.create", graph=graph, state={"items": [1, 2, 3, 4, 5, 6]}, start=True)
        async with asyncio.timeout(20):
            running = {await began.get(), await began.get()}
            while True:
                waits = (await caller.ok("flow.explain", **flow))["waits"]
                if sum(one["text"].startswith("Queued at worker") for one in waits) == 4:
                    break
        assert began.empty()
        assert max(map(len, batches)) > 1
        for _ in range(6):
            turns.put_nowait(None)
        outcome = await caller.ok("flow.await", **flow)
        assert (outcome["status"], outcome["state"]["total"]) == ("completed", 21)
        assert running | {began.get_nowait() for _ in range(4)} == {1, 2, 3, 4, 5, 6}
    await listener.close()
