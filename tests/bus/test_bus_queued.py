"""Requests in the queues of workers, over a real NATS server (K3, wire: section 2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus.calls import QUEUED, STARTED
from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.bus.tasks import NatsTasks
from dwarf_nats.ports import BusAway, QueuedTooLong
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.answer import Answer
from tests.bus.test_bus_tasks import STEP, call

PATIENCE = 20.0
BUDGET = 60.0
LONG_MS = 3_600_000


class Listener:
    """In place of the engine: says how long a step may wait, and notes what it hears."""

    def __init__(self) -> None:
        self.timeout_ms: int | None = LONG_MS
        self.heard: list[tuple[str, int | None]] = []

    def queued(self, step_key: str, service_timeout_ms: int | None) -> int | None:
        assert step_key == STEP
        self.heard.append(("queued", service_timeout_ms))
        return self.timeout_ms

    def started(self, step_key: str) -> None:
        assert step_key == STEP
        self.heard.append(("started", None))


class Service:
    """A worker in the test's hands."""

    def __init__(self, tasks: NatsTasks, inbox: Inbox, other: Connection, unique: str) -> None:
        self.tasks = tasks
        self.inbox = inbox
        self.other = other
        self.private = f"workers.{unique}"
        self.requests: asyncio.Queue[Msg] = asyncio.Queue()
        self.roll: asyncio.Queue[Msg] = asyncio.Queue()
        self.listener = Listener()
        tasks.queued_calls.listen(self.listener)
        self.asking: asyncio.Task[Answer] | None = None

    async def taken(self) -> Msg:
        """The request of a call that has begun."""
        self.asking = asyncio.create_task(self.tasks.execute(call(budget=BUDGET)))
        async with asyncio.timeout(PATIENCE):
            return await self.requests.get()

    async def says(self, request: Msg, signal: str, **headers: str) -> None:
        """Send a signal; the replica has it when this returns."""
        heads = {"Dwarf-Signal": signal, "Dwarf-Worker": self.private, **headers}
        await self.other.publish(request.reply, b"", headers=heads)
        await self.other.flush()
        await self.tasks._connection.flush()

    async def answers(self, request: Msg) -> Answer:
        assert self.asking is not None
        await self.other.publish(request.reply, b'{"changes":{"done":true}}')
        async with asyncio.timeout(PATIENCE):
            return await self.asking

    async def called(self) -> Msg:
        async with asyncio.timeout(PATIENCE):
            return await self.roll.get()

    @property
    def seconds_left(self) -> float:
        """Until the call ends by itself."""
        found = self.inbox.find(STEP)
        assert found is not None
        due = found.due if found.timer is None else found.timer.when()
        return due - asyncio.get_running_loop().time()

    @property
    def phase(self) -> int:
        found = self.inbox.find(STEP)
        assert found is not None
        return found.phase


@pytest.fixture
async def service(
    connection: Connection, inbox: Inbox, other: Connection, request: pytest.FixtureRequest
) -> AsyncIterator[Service]:
    unique = "".join(c if c.isalnum() else "-" for c in request.node.name)
    tasks = NatsTasks(connection, inbox, Subjects(task_prefix=unique), roll_call_seconds=0.05)
    one = Service(tasks, inbox, other, unique)
    await other.subscribe(f"{unique}.charge", cb=one.requests.put)
    await other.subscribe(one.private, cb=one.roll.put)
    await other.flush()
    yield one
    if one.asking is not None:
        one.asking.cancel()
        await asyncio.gather(one.asking, return_exceptions=True)


async def test_k3_time_in_the_queue_does_not_count_against_the_budget(service: Service) -> None:
    """K3: the deadline counts from *started*; a signal that comes twice, or out of turn, changes nothing."""
    request = await service.taken()
    assert (request.headers or {})["Dwarf-Queue"] == "1"
    await service.says(request, "started")
    assert service.seconds_left <= BUDGET
    await service.says(request, "queued", **{"Dwarf-Queue-Timeout-Ms": "5000"})
    assert service.seconds_left > BUDGET + 1000
    before = service.seconds_left
    await service.says(request, "queued")
    assert service.seconds_left <= before
    await service.says(request, "started")
    assert BUDGET - 30 < service.seconds_left <= BUDGET
    await service.says(request, "queued")
    await service.says(request, "started")
    assert service.seconds_left <= BUDGET
    assert service.listener.heard == [("queued", 5000), ("started", None)]
    assert list((await service.answers(request)).changes) == ["done"]


async def test_k3_after_the_queue_timeout_the_step_is_given_back_and_the_worker_hears_of_it(service: Service) -> None:
    """K3: the step has not failed, and what it has waited for is not run there as well."""
    service.listener.timeout_ms = 1
    request = await service.taken()
    await service.says(request, "queued")
    assert service.asking is not None
    with pytest.raises(QueuedTooLong):
        async with asyncio.timeout(PATIENCE):
            await service.asking
    while not (asked := json.loads((await service.called()).data))["cancel"]:
        pass
    assert asked["cancel"] == ["1-43"]
    assert service.inbox.find(STEP) is None


async def test_k3_a_roll_call_makes_up_for_signals_that_were_lost(service: Service) -> None:
    """K3: *queued* and *started* may be lost; the worker says at the next roll call which of its steps have begun."""
    request = await service.taken()
    await service.says(request, "accepted")
    queued: dict[int, list[str]] = {QUEUED: ["1-43"], STARTED: []}
    for phase, waiting in queued.items():
        async with asyncio.timeout(PATIENCE):
            while service.phase != phase:
                asked = await service.called()
                await service.other.publish(asked.reply, json.dumps({"running": ["1-43"], "queued": waiting}).encode())
    assert service.listener.heard == [("queued", None), ("started", None)]
    assert service.seconds_left <= BUDGET


async def test_k3_a_worker_that_says_nothing_of_its_queue_is_taken_at_its_word(service: Service) -> None:
    """Wire: section 2: `queued` may be left out of the answer to a roll call; then only signals count."""
    request = await service.taken()
    await service.says(request, "queued")
    for _ in range(3):
        asked = await service.called()
        await service.other.publish(asked.reply, b'{"running":["1-43"]}')
    assert service.phase == QUEUED


async def test_k3_a_worker_that_forgets_a_queued_step_loses_it(service: Service) -> None:
    """K3: queued steps count as in hand, so a worker that dies or forgets shows within seconds."""
    request = await service.taken()
    await service.says(request, "queued")
    assert service.asking is not None
    while not service.asking.done():
        asked = await service.called()
        await service.other.publish(asked.reply, b'{"running":[],"queued":[]}')
        await asyncio.wait({service.asking}, timeout=0.06)
    error = service.asking.exception()
    assert not isinstance(error, QueuedTooLong)
    assert "does not know of it" in str(error)


async def test_k3_a_queued_step_ends_with_the_connection(service: Service) -> None:
    """B6: as any step that is at its task."""
    request = await service.taken()
    await service.says(request, "queued")
    service.inbox._disconnected()
    assert service.asking is not None
    with pytest.raises(BusAway):
        await service.asking
