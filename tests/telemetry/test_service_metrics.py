"""What only the service counts: requests, refusals, signals between replicas (T1)."""

from __future__ import annotations

import asyncio

import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.server import replica
from tests.support.caller import Caller, connected, line, settings
from tests.support.telemetry import WAIT, Heard


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"metrics{abs(hash(request.node.nodeid))}"


async def test_requests_and_refusals_by_operation(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> None:
    heard = Heard()
    running = replica(settings(nats_server.url, sqlite_dsn, prefix), meter_provider=heard.provider)
    async with running, connected(nats_server.url) as nc:
        caller = Caller(nc, prefix)
        await caller.serves("work")
        assert heard.points("dwarf_requests_total") == heard.points("dwarf_requests_refused_total") == {}
        await caller.ok("graph.put", **line("job", "work"))
        await caller.ok("flow.run", workflow="job")
        await caller.ok("flow.run", workflow="job")
        await caller.refused("flow.run", workflow="nowhere")
        await caller.refused("flow.snapshot", flowKey="1-1-aaaaaaaaaaaaaaaa")
        await caller.refused("flow.snapshot", flowKey="nonsense")
        assert heard.points("dwarf_requests_total") == {("graph.put",): 1, ("flow.run",): 3, ("flow.snapshot",): 2}
        # By code and operation.
        assert heard.points("dwarf_requests_refused_total") == {
            ("404", "flow.run"): 1, ("404", "flow.snapshot"): 1, ("400", "flow.snapshot"): 1,
        }  # fmt: skip


async def test_a_replica_that_is_full_counts_whom_it_turns_away(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    heard = Heard()
    narrow = settings(nats_server.url, sqlite_dsn, prefix, max_waiting=1)
    async with replica(narrow, meter_provider=heard.provider), connected(nats_server.url) as nc:
        caller = Caller(nc, prefix)
        requests = await caller.holds("work")
        await caller.ok("graph.put", **line("job", "work"))
        waiting = asyncio.ensure_future(caller.ok("flow.run", workflow="job"))
        message = await asyncio.wait_for(requests.get(), WAIT)
        await caller.refused("flow.run", workflow="job")
        assert heard.points("dwarf_requests_refused_total") == {("429", "flow.run"): 1}
        await caller.answer(message)
        await waiting


async def test_signals_that_cannot_be_read_are_counted(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> None:
    heard = Heard()
    running = replica(settings(nats_server.url, sqlite_dsn, prefix, signals=True), meter_provider=heard.provider)
    async with running, connected(nats_server.url) as nc:
        await nc.publish(f"{prefix}.peer.enqueue", b'{"shard":1,"steps":[]}')
        await nc.publish(f"{prefix}.peer.enqueue", b"nonsense")
        await nc.publish(f"{prefix}.peer.unheard_of", b"{}")
        async with asyncio.timeout(WAIT):
            while heard.points("dwarf_signals_malformed_total") != {(): 2}:
                await nc.flush()
        assert heard.points("dwarf_signals_dropped_total") == {(): 0}


async def test_signals_that_could_not_be_sent_are_counted(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here since none is small enough; a bus that is away has the same end."""
    heard = Heard()
    running = replica(settings(nats_server.url, sqlite_dsn, prefix, signals=True), meter_provider=heard.provider)
    async with running as engine, connected(nats_server.url) as nc:
        caller = Caller(nc, prefix)
        await caller.serves("work")
        signals = engine.replica.backpressure._signals
        monkeypatch.setattr(signals._connection, "fits", lambda block, body: b"Dwarf-Origin" not in block)  # type: ignore[union-attr]
        await caller.ok("flow.create_task", task="work")
        assert heard.points("dwarf_signals_dropped_total") == {(): 0}
        key = (await caller.ok("flow.create_task", task="work", start=True))["flowKey"]
        await caller.ok("flow.await", flowKey=key)
        async with asyncio.timeout(WAIT):
            while heard.points("dwarf_signals_dropped_total") != {(): 1}:
                await nc.flush()
