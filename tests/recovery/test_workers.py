"""Workers that are killed, hang or forget, as real processes: their steps run elsewhere within seconds (wire: section 2).

The flows have time budgets of ten minutes: a test that waited for one would never end in time.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from tests.recovery.processes import worker
from tests.support.caller import Caller, deployment, take

pytestmark = pytest.mark.slow
BUDGET: dict[str, Any] = {"options": {"timeBudgetMs": 600_000}, "start": True}


@pytest.fixture
async def caller(nats_server: NatsServer, sqlite_dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    """A caller of a service that is quick to ask."""
    prefix = "".join(char for char in request.node.name if char.isalnum())
    more = {"accept_ms": 50, "roll_call_ms": 400, "inbox_prefix": f"{prefix}inbox"}
    async with deployment(nats_server.url, sqlite_dsn, prefix, **more) as one:
        yield one


class Wire:
    """What passes over the replica's inbox. (Whoever listened on a worker's own subject would be its understudy: the server
    would find somebody there when it is gone.)"""

    def __init__(self, heard: asyncio.Queue[Msg]) -> None:
        self.heard = heard

    @classmethod
    async def tap(cls, caller: Caller) -> Wire:
        return cls(await caller.hear(f"{caller.prefix}inbox.>"))

    async def running(self, steps: set[str]) -> None:
        """Each of these steps is answered for in a roll call."""
        missing = set(steps)
        while missing:
            data = (await take(self.heard)).data
            if data.startswith(b'{"running"'):
                missing -= set(json.loads(data)["running"])

    async def answered(self, by: str) -> None:
        """A task's answer passes."""
        while f'"by":"{by}"'.encode() not in (await take(self.heard)).data:
            pass


async def begun(one: Any) -> str:
    """The step that the worker says it began."""
    what, step = (await one.said()).split()
    assert what == "begun"
    return str(step)


@pytest.mark.parametrize("task", ["long", "block"])
async def test_a_step_of_a_killed_worker_runs_elsewhere_with_the_same_key(
    caller: Caller, nats_server: NatsServer, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    """X11, B2: SIGKILL in the middle of a task, also where it holds a thread; all steps of the worker are given back."""
    url, tasks = nats_server.url, f"{caller.prefix}task"
    wire = await Wire.tap(caller)
    async with worker(url, tasks, "killed") as killed:
        flows = [await caller.ok("flow.create_task", task=task, **BUDGET) for _ in range(3)]
        steps = {await begun(killed) for _ in flows}
        await wire.running(steps)
        async with worker(url, tasks, "other") as other:
            killed.signal(signal.SIGKILL)
            assert {await begun(other) for _ in flows} == steps
            assert "is gone: 3 steps are given back" in caplog.text
            if task == "long":
                other.signal(signal.SIGUSR1)
                for flow in flows:
                    assert (await caller.ok("flow.await", **flow))["state"] == {"by": "other"}
                    (step,) = (await caller.ok("flow.history", **flow))["steps"]
                    assert (step["attempt"], step["status"]) == (0, "completed")
            else:
                for flow in flows:
                    await caller.ok("flow.cancel", **flow)
                assert {tuple((await other.said()).split()) for _ in flows} == {("cancelled", step) for step in steps}


async def test_a_step_of_a_stopped_worker_runs_elsewhere_and_its_late_answer_changes_nothing(
    caller: Caller, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGSTOP: the server still takes it for a subscriber, so only its silence tells."""
    asked = await caller.holds("long")  # outside the workers' queue group, so both get every request
    wire = await Wire.tap(caller)
    async with worker(nats_server.url, f"{caller.prefix}task", "stopped") as stopped:
        flow = await caller.ok("flow.create_task", task="long", **BUDGET)
        first = await take(asked)
        step = await begun(stopped)
        await wire.running({step})
        stopped.signal(signal.SIGSTOP)
        second = await take(asked)
        assert "3 roll calls in a row unanswered: 1 steps are given back" in caplog.text
        keys = {json.loads(one.data)["stepKey"] for one in (first, second)}
        assert [key.rpartition("-")[0] for key in keys] == [step]
        await caller.answer(second, {"changes": {"by": "other"}})
        outcome = await caller.ok("flow.await", **flow)
        assert (outcome["status"], outcome["state"]) == ("completed", {"by": "other"})
        before = await caller.ok("flow.fingerprint", **flow)
        stopped.signal(signal.SIGCONT)
        assert await begun(stopped) == step  # the second request had waited for it
        stopped.signal(signal.SIGUSR1)
        for _ in range(2):
            await wire.answered("stopped")
        assert await caller.ok("flow.fingerprint", **flow) == before
        assert await caller.ok("flow.snapshot", **flow) == outcome
    assert asked.empty()


async def test_a_cancellation_reaches_handlers_in_a_process_of_their_own(
    caller: Caller, nats_server: NatsServer
) -> None:
    """O10: a coroutine is cancelled, a thread sees `flow.cancelled`; the others go on."""
    wire = await Wire.tap(caller)
    async with worker(nats_server.url, f"{caller.prefix}task", "one") as one:
        for task in ("long", "block"):
            flow = await caller.ok("flow.create_task", task=task, **BUDGET)
            step = await begun(one)
            await wire.running({step})
            await caller.ok("flow.cancel", **flow)
            assert (await one.said()) == f"cancelled {step}"
        spared = await caller.ok("flow.create_task", task="long", **BUDGET)
        await wire.running({await begun(one)})
        one.signal(signal.SIGUSR1)
        assert (await caller.ok("flow.await", **spared))["state"] == {"by": "one"}


async def test_a_cancellation_before_acceptance_is_told_with_it(caller: Caller, nats_server: NatsServer) -> None:
    """O10: a task quicker to be cancelled than to say that it is at work."""
    async with worker(nats_server.url, f"{caller.prefix}task", "one") as one:
        flow = await caller.ok("flow.create_task", task="long", **BUDGET)
        step = await begun(one)
        await caller.ok("flow.cancel", **flow)
        assert (await one.said()) == f"cancelled {step}"


async def test_b7_after_a_kill_the_next_worker_begins_at_the_checkpoint(
    caller: Caller, nats_server: NatsServer
) -> None:
    """B7, X11: what the killed worker had reported goes along when its step is given back."""
    url, tasks = nats_server.url, f"{caller.prefix}task"
    wire = await Wire.tap(caller)
    async with worker(url, tasks, "killed") as killed:
        flow = await caller.ok("flow.create_task", task="pages", **BUDGET)
        said = await killed.said()
        assert said.startswith("from-None ")
        async with asyncio.timeout(60):
            while "progress" not in (await caller.ok("flow.history", **flow))["steps"][0]:
                pass
        (step,) = (await caller.ok("flow.history", **flow))["steps"]
        assert (step["progress"]["fraction"], step["progress"]["text"]) == (0.5, "half way")
        await wire.running({said.split()[1]})
        async with worker(url, tasks, "other") as other:
            killed.signal(signal.SIGKILL)
            assert await other.said() == said.replace("None", "5")
            assert (await caller.ok("flow.await", **flow))["state"] == {"by": "other"}
