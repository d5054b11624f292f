"""A worker at its own limit, seen by a caller: what waits there misses no deadline (K3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

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
