"""Requests without a reply subject: nobody can be told to come again, so they wait for their turn (wire: section 1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.service import Service
from dwarf_nats.errors import Unavailable
from dwarf_nats.settings import RequestLimits
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import FlowSummary
from tests.support.stub_engine import KEY, StubEngine

pytestmark = pytest.mark.slow

SOON = 20.0


class SlowEngine(StubEngine):
    """Its creates wait until the gate is open. `most`: how many were under way at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.running = self.most = 0
        self.names: list[str] = []
        self.changed = asyncio.Event()
        self.panics = False
        self.away: Unavailable | None = None
        self.tried: list[str] = []
        self.databases_away = True

    async def list(self, _query: Query, _cursor: str = "", /) -> tuple[list[FlowSummary], str]:
        if self.away is not None and self.databases_away:
            raise Unavailable("the database is away")
        return [], ""

    async def create_task(
        self, task: str, state: bytes | None, options: FlowOptions | None, /, *, start: bool = False
    ) -> str:
        if self.away is not None:
            self.tried.append(task)
            self.changed.set()
            raise self.away
        self.names.append(task)
        self.running += 1
        self.most = max(self.most, self.running)
        self.changed.set()
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return await super().create_task(task, state, options, start=start)

    async def create(
        self, workflow: str | Graph, state: bytes | None, options: FlowOptions | None, /, *, start: bool = False
    ) -> str:
        if self.panics:
            raise Panic("unwrap")
        return await super().create(workflow, state, options, start=start)

    async def have_begun(self, number: int) -> None:
        """Wait until so many creates have begun in all."""
        async with asyncio.timeout(SOON):
            while len(self.names) < number:
                self.changed.clear()
                await self.changed.wait()


class Panic(BaseException):
    """No `Exception`."""


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:100]


Serving = Callable[..., Awaitable[Service]]


@pytest.fixture
async def serving(connection: Connection, engine: SlowEngine, prefix: str) -> AsyncIterator[Serving]:
    services: list[Service] = []

    async def serve(counters: Counters | None = None, **bounds: Any) -> Service:
        service = Service(connection, engine, Subjects(prefix), limits=RequestLimits(**bounds), counters=counters)
        services.append(service)
        await service.start()
        return service

    yield serve
    engine.gate.set()
    engine.stopped.set()
    for service in services:
        await service.drain()


async def publish(other: Connection, subject: str, number: int, first: int = 0) -> None:
    for one in range(first, first + number):
        await other.publish(subject, b'{"task":"t%d"}' % one)
    await other.flush()


async def settled(other: Connection, prefix: str) -> None:
    """The service has read whatever was published before."""
    await other.request(f"{prefix}.shard.info", timeout=SOON)


async def test_a_flood_is_carried_out_in_order_and_without_a_line_each(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Far more than are carried out at once: none is lost, none overtakes another."""
    counters = Counters()
    await serving(max_requests=8, counters=counters)
    await publish(other, f"{prefix}.flow.create_task", 5_000)
    engine.gate.set()
    await engine.have_begun(5_000)
    assert engine.names == [f"t{number}" for number in range(5_000)]
    assert engine.most <= 4  # half: requests that have a reply subject need the others
    assert all(start for *_, start in engine.asked)
    assert not caplog.messages
    assert not counters.lost_requests


async def test_what_is_beyond_the_bytes_is_counted_and_logged_once(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    counters = Counters()
    service = await serving(max_requests=2, max_queued_bytes=10 * 600, counters=counters)
    await publish(other, f"{prefix}.flow.create_task", 1_000)
    await settled(other, prefix)
    lost = counters.lost_requests[("flow.create_task",)]
    assert 980 <= lost < 1_000
    assert counters.refused[("flow.create_task", "429")] == lost
    assert len(caplog.messages) == 1
    assert "max_queued_bytes" in caplog.messages[0]
    (stats,) = [one for one in service.stats()["endpoints"] if one["name"] == "flow-create_task"]
    assert (stats["num_requests"], stats["num_errors"]) == (1_000, lost)
    engine.gate.set()
    await engine.have_begun(1_000 - lost)
    assert engine.names == [f"t{number}" for number in range(1_000 - lost)]
    service.responder.flush_log()
    assert f"and {lost - 2:,} more like it" in caplog.messages[1]
    assert len(caplog.messages) == 2


async def test_those_with_a_reply_subject_are_served_meanwhile(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str
) -> None:
    """A backlog takes half of what is carried out at once; beyond the bound the others hear 429."""
    await serving(max_requests=4)
    await publish(other, f"{prefix}.flow.create_task", 100)
    await engine.have_begun(2)
    await settled(other, prefix)
    assert engine.running == 2
    asked = [
        asyncio.ensure_future(other.request(f"{prefix}.flow.create_task", b'{"task":"asked%d"}' % number, timeout=SOON))
        for number in range(5)
    ]
    done, _ = await asyncio.wait(asked, timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
    refused = next(iter(done)).result()
    assert json.loads(refused.data)["error"]["code"] == 429
    engine.gate.set()
    answers = [json.loads(message.data) for message in await asyncio.gather(*asked)]
    assert [one for one in answers if "flowKey" in one] == [{"flowKey": KEY}] * len(
        [name for name in engine.names if name.startswith("asked")]
    )
    await engine.have_begun(100)


async def test_the_only_place_is_shared_in_turn(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str
) -> None:
    await serving(max_requests=1)
    engine.gate.set()
    await publish(other, f"{prefix}.flow.create_task", 50)
    await engine.have_begun(50)
    assert engine.most == 1


async def test_a_run_without_a_reply_subject_does_not_wait(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It creates and starts; nobody would hear the outcome, so no place is taken by waiting, and that is no error."""
    await serving(max_requests=2, max_waiting=1)
    for _ in range(20):
        await other.publish(f"{prefix}.flow.run", b'{"workflow":"order","timeoutMs":600000}')
    await other.flush()
    async with asyncio.timeout(SOON):
        while len(engine.asked) < 20:
            engine.called.clear()
            await engine.called.wait()
    assert {timeout for *_, timeout in engine.asked} == {0}
    await settled(other, prefix)
    assert not caplog.messages


async def test_refusals_nobody_hears_are_summed_up(
    serving: Serving, other: Connection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    counters = Counters()
    service = await serving(counters=counters)
    for number in range(500):
        await other.publish(f"{prefix}.flow.create", b'{"n%d":' % number)
    await settled(other, prefix)
    async with asyncio.timeout(SOON):
        while counters.refused[("flow.create", "400")] < 500:
            await asyncio.sleep(0)
    assert len(caplog.messages) == 1
    service.responder.flush_log()
    assert "and 498 more like it" in caplog.messages[1]


async def test_a_drain_carries_out_what_waits(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B3: they were taken, and nobody can be told to ask again."""
    service = await serving(max_requests=2)
    await publish(other, f"{prefix}.flow.create_task", 200)
    await settled(other, prefix)
    draining = asyncio.ensure_future(service.drain(SOON))
    await engine.have_begun(1)
    engine.gate.set()
    await draining
    assert len(engine.asked) >= 200
    assert not caplog.messages


async def test_a_drain_that_ends_before_says_how_many_were_lost(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    counters = Counters()
    service = await serving(max_requests=2, counters=counters)
    await publish(other, f"{prefix}.flow.create_task", 200)
    await settled(other, prefix)
    await service.drain(0)
    assert counters.lost_requests[("flow.create_task",)] == 199
    (line,) = [one for one in caplog.messages if "stopping after" in one]
    assert "199 requests without a reply subject were lost, and 1 may not have been carried out" in line
    assert len(caplog.messages) <= 4
    assert not engine.running


async def test_an_operation_that_panics_is_answered(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str
) -> None:
    """A `BaseException` of a library is a 500, and the place of the request is free again."""
    await serving(max_requests=1)
    engine.panics = True
    for _ in range(3):
        message = await other.request(f"{prefix}.flow.create", b'{"workflow":"order"}', timeout=SOON)
        assert json.loads(message.data)["error"]["code"] == 500
    engine.panics = False
    message = await other.request(f"{prefix}.flow.create", b'{"workflow":"order"}', timeout=SOON)
    assert json.loads(message.data) == {"flowKey": KEY}


async def tried(engine: SlowEngine, number: int) -> None:
    async with asyncio.timeout(SOON):
        while len(engine.tried) < number:
            engine.changed.clear()
            await engine.changed.wait()


async def test_they_outlast_a_database_that_is_away(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else could try again: they wait for it, and keep their order."""
    counters = Counters()
    await serving(max_requests=8, counters=counters)
    engine.away = Unavailable("the database is away")
    await publish(other, f"{prefix}.flow.create_task", 100)
    await tried(engine, 9)
    engine.away = None
    engine.gate.set()
    await engine.have_begun(100)
    assert engine.names == [f"t{number}" for number in range(100)]
    assert not counters.lost_requests
    assert not caplog.messages


@pytest.mark.parametrize("why", ["undecided", "its own affair"])
async def test_what_must_not_be_repeated_or_need_not_be_is_lost_and_counted(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str, why: str
) -> None:
    """One that may have been carried out would be done twice; one whose graph is away must not hold up the others."""
    counters = Counters()
    await serving(max_requests=2, counters=counters)
    engine.away = Unavailable("away")
    engine.away.undecided = why == "undecided"
    engine.databases_away = why == "undecided"
    await publish(other, f"{prefix}.flow.create_task", 1)
    await tried(engine, 1 if engine.away.undecided else 2)
    await settled(other, prefix)
    async with asyncio.timeout(SOON):
        while not counters.lost_requests:
            await asyncio.sleep(0)
    engine.away = None
    engine.gate.set()
    await publish(other, f"{prefix}.flow.create_task", 1, first=7)
    await engine.have_begun(1)
    assert engine.names == ["t7"]
    assert counters.lost_requests[("flow.create_task",)] == 1


async def test_one_with_an_idempotency_key_is_always_tried_again(
    serving: Serving, engine: SlowEngine, other: Connection, prefix: str
) -> None:
    await serving(max_requests=2)
    engine.away = Unavailable("away")
    engine.away.undecided = True
    await other.publish(f"{prefix}.flow.create_task", b'{"task":"t0"}', headers={"Nats-Msg-Id": "once"})
    await tried(engine, 2)
    engine.away = None
    engine.gate.set()
    await engine.have_begun(1)
    assert engine.names == ["t0"]
