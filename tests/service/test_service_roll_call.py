"""The roll call as a task service sees it (wire section 2; O10, X11)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Worker
from tests.support.caller import WAIT, Caller, conforms, deployment, take

ACCEPTED = {"Dwarf-Signal": "accepted"}


@pytest.fixture
async def quick(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> AsyncIterator[Caller]:
    """A caller of a service that calls the roll ten times a second."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, roll_call_ms=100) as one:
        yield one


class WorkerSlots:
    """A task service in the test's hands: a task, and the private subject it accepts with."""

    def __init__(self, caller: Caller, requests: asyncio.Queue[Msg], calls: asyncio.Queue[Msg], private: str) -> None:
        self.caller = caller
        self.requests = requests
        self.calls = calls
        self.private = private

    @classmethod
    async def serve(cls, caller: Caller, task: str) -> WorkerSlots:
        private = f"{caller.prefix}private.{task}"
        return cls(caller, await caller.holds(task), await caller.hear(private), private)

    async def take(self) -> Msg:
        """The next request, accepted."""
        request = await take(self.requests)
        await self.accept(request)
        return request

    async def accept(self, request: Msg) -> None:
        await self.caller.answer(request, b"", {**ACCEPTED, "Dwarf-Worker": self.private})

    async def called(self, *running: str) -> dict[str, Any]:
        """The next roll call, answered."""
        message = await take(self.calls)
        await self.caller.answer(message, conforms("worker_reply", {"running": list(running)}))
        asked: dict[str, Any] = conforms("worker_call", json.loads(message.data))
        return asked


def step_of(request: Msg) -> str:
    key: str = json.loads(request.data)["stepKey"]
    return key.rpartition("-")[0]


@pytest.mark.slow
async def test_nobody_is_called_who_accepted_nothing(quick: Caller) -> None:
    """Wire section 2: bound by its deadline only, however long it takes and whatever becomes of others."""
    silent, other = await quick.holds("silent"), await WorkerSlots.serve(quick, "other")
    flow = await quick.ok("flow.create_task", task="silent", start=True)
    request = await take(silent)
    await quick.ok("flow.create_task", task="other", start=True)
    step = step_of(await other.take())
    for _ in range(10):
        assert await other.called(step) == {"steps": [step], "cancel": []}
    again = asyncio.create_task(other.take())
    while not again.done():
        await other.called()  # forgets
    again.result()
    assert silent.empty()
    await quick.answer(request, {"changes": {"n": 1}})
    assert (await quick.ok("flow.await", **flow))["state"] == {"n": 1}


async def test_a_forgetful_service_gets_the_step_again_and_not_hot(quick: Caller) -> None:
    """X11: after two calls without it; each time anew, so no faster than the roll is called."""
    service = await WorkerSlots.serve(quick, "work")
    flow = await quick.ok("flow.create_task", task="work", start=True)
    first = await service.take()
    step = step_of(first)
    for _ in range(2):
        assert await service.called() == {"steps": [step], "cancel": []}
    second = await service.take()
    assert json.loads(second.data) | {"deadline": ""} == json.loads(first.data) | {"deadline": ""}
    assert second.reply != first.reply
    assert await service.called() == {"steps": [step], "cancel": []}
    assert service.requests.empty(), "unknown once is not enough"
    await quick.answer(first, {"changes": {"by": "the first"}})  # late
    await quick.answer(second, {"changes": {"by": "the second"}})
    outcome = await quick.ok("flow.await", **flow)
    assert outcome["state"] == {"by": "the second"}
    (row,) = (await quick.ok("flow.history", **flow))["steps"]
    assert (row["attempt"], row["status"]) == (0, "completed")


async def test_many_steps_at_one_worker_are_one_call(quick: Caller) -> None:
    service = await WorkerSlots.serve(quick, "work")
    flows = [await quick.ok("flow.create_task", task="work", start=True) for _ in range(200)]
    requests = [await service.take() for _ in flows]
    steps = {step_of(request) for request in requests}
    while set((await service.called(*steps))["steps"]) != steps:
        pass  # called while some had not accepted yet
    for _ in range(3):
        assert set((await service.called(*steps))["steps"]) == steps
    for number, request in enumerate(requests):
        await quick.answer(request, {"changes": {"n": number}})
    outcomes = await asyncio.gather(*(quick.ok("flow.await", **flow) for flow in flows))
    assert sorted(one["state"]["n"] for one in outcomes) == list(range(200))


async def test_a_cancelled_step_is_told_by_itself_and_those_of_other_flows_are_left_alone(quick: Caller) -> None:
    """O10."""
    service = await WorkerSlots.serve(quick, "work")
    flows = [await quick.ok("flow.create_task", task="work", start=True) for _ in range(2)]
    cancelled, spared = [step_of(await service.take()) for _ in flows]
    for flow in flows:
        (row,) = (await quick.ok("flow.history", **flow))["steps"]
        if row["stepKey"].startswith(f"{cancelled}-"):
            await quick.ok("flow.cancel", **flow)
    while not (asked := await service.called(spared))["cancel"]:
        pass
    assert asked == {"steps": [], "cancel": [cancelled]}
    for _ in range(3):
        assert await service.called(spared) == {"steps": [spared], "cancel": []}


async def test_a_restarted_flow_is_not_cancelled_for_what_it_was(quick: Caller) -> None:
    """O13: the entry step runs again under its old id, so an unanswered cancellation is not repeated."""
    service = await WorkerSlots.serve(quick, "work")
    flow = await quick.ok("flow.create_task", task="work", start=True)
    step = step_of(await service.take())
    await quick.ok("flow.cancel", **flow)
    while not json.loads((await take(service.calls)).data)["cancel"]:
        pass  # and no answer to it
    await quick.ok("flow.restart", **flow)
    again = await service.take()
    assert step_of(again) == step
    called = 0
    while called < 3:
        asked = await service.called(step)
        if asked["steps"]:  # else it was said again before the restart
            assert asked == {"steps": [step], "cancel": []}
            called += 1
    await quick.answer(again, {"changes": {"n": 1}})
    assert (await quick.ok("flow.await", **flow))["state"] == {"n": 1}


PERMISSIONS = """
authorization {{ users: [
  {{ user: replica, password: replica }}
  {{ user: tasks, password: tasks, permissions: {{
      subscribe: ["{prefix}task.>", "_INBOX.>"]
      allow_responses: {{ max: 3, expires: "1h" }}
  }} }}
] }}
"""


async def test_three_responses_are_permission_enough_for_a_long_task(
    tmp_path: Path, sqlite_dsn: str, prefix: str
) -> None:
    """Wire section 2: accepted, reply, and one to spare; roll calls are requests of their own."""
    config = tmp_path / "nats.conf"
    config.write_text(PERMISSIONS.format(prefix=prefix))
    gate = asyncio.Event()

    async def work() -> dict[str, bool]:
        await gate.wait()
        return {"done": True}

    async with NatsServer(config=config) as server:
        address = server.url.removeprefix("nats://")
        tasks = Worker(f"nats://tasks:tasks@{address}", task_prefix=f"{prefix}task")
        tasks.add_task("work", work)
        more = {"roll_call_ms": 100, "accept_ms": 1}
        async with tasks, deployment(f"nats://replica:replica@{address}", sqlite_dsn, prefix, **more) as _:
            ear = await nats.connect(f"nats://replica:replica@{address}")
            caller = Caller(ear, prefix)
            heard = await caller.hear("_INBOX.>")
            flow = await caller.ok("flow.create_task", task="work", start=True)
            answered = 0
            async with asyncio.timeout(WAIT):
                while answered < 5:
                    answered += (await heard.get()).data.startswith(b'{"running":["1-')
            gate.set()
            assert (await caller.ok("flow.await", **flow))["state"] == {"done": True}
            await ear.close()


UNREACHED = {
    "a replica that may not publish there": (
        """
authorization {{ users: [
  {{ user: replica, password: replica, permissions: {{
      publish: ["{prefix}.>", "{prefix}task.>", "_INBOX.caller.>"], subscribe: [">"] }} }}
  {{ user: tasks, password: tasks }}
  {{ user: caller, password: caller }}
] }}
""",
        "permissions do not let this replica publish",
    ),
    "another account": (
        """
accounts {{
  A {{ users: [ {{ user: replica, password: replica }}, {{ user: caller, password: caller }} ]
      imports: [ {{ service: {{ account: B, subject: "{prefix}task.>" }} }} ] }}
  B {{ users: [ {{ user: tasks, password: tasks }} ]
      exports: [ {{ service: "{prefix}task.>", response_type: stream }} ] }}
}}
""",
        "nobody subscribes",
    ),
}


@pytest.mark.parametrize(("permissions", "why"), UNREACHED.values(), ids=list(UNREACHED))
async def test_a_worker_the_replica_cannot_reach_keeps_its_steps(
    tmp_path: Path, sqlite_dsn: str, prefix: str, caplog: pytest.LogCaptureFixture, permissions: str, why: str
) -> None:
    """Wire section 2: it accepts and never answers a roll call, so the deadline alone binds; the task runs once."""
    config = tmp_path / "nats.conf"
    config.write_text(permissions.format(prefix=prefix))
    async with NatsServer(config=config) as server:
        address = server.url.removeprefix("nats://")
        url = f"nats://replica:replica@{address}"
        tasks = await nats.connect(f"nats://tasks:tasks@{address}")
        client = await nats.connect(f"nats://caller:caller@{address}", inbox_prefix="_INBOX.caller")
        async with deployment(url, sqlite_dsn, prefix, roll_call_ms=20) as _:
            caller, worker = Caller(client, prefix), Caller(tasks, prefix)
            service = await WorkerSlots.serve(worker, "work")
            flow = await caller.ok("flow.create_task", task="work", start=True)
            request = await service.take()
            async with asyncio.timeout(WAIT):
                while why not in caplog.text:
                    await asyncio.sleep(0.01)
            assert "only their deadlines bound its steps" in caplog.text
            await worker.answer(request, {"changes": {"n": 1}})
            assert (await caller.ok("flow.await", **flow))["state"] == {"n": 1}
            assert service.requests.empty(), "it ran once"
        for one in (tasks, client):
            await one.close()
