"""Round trips end with their connection (wire section 6): a PONG that was lost with it never comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats
import nats.errors
import pytest
from nats.aio.client import Client as Nats

from dwarf_nats.nats_client import NatsClient
from dwarf_nats.sdk.connection import connect
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.wire.connect_options import ConnectOptions
from tests.support.mute_server import MuteServer

PATIENCE = 20.0


@pytest.fixture
async def server() -> AsyncIterator[MuteServer]:
    async with MuteServer().serving() as serving:
        yield serving


@pytest.fixture
async def client(server: MuteServer) -> AsyncIterator[NatsClient]:
    nc = await connect(ConnectOptions(server.url), "ours")
    yield nc
    await nc.close()


@pytest.fixture
async def plain(server: MuteServer) -> AsyncIterator[Nats]:
    """As a user may hand it to a worker."""
    nc = await nats.connect(server.url, reconnect_time_wait=0, max_reconnect_attempts=-1, error_cb=_ignore)
    yield nc
    await nc.close()


async def _ignore(error: Exception) -> None:
    del error


async def _asked(server: MuteServer) -> None:
    async with asyncio.timeout(PATIENCE):
        await server.asked.wait()


async def test_a_flush_ends_when_the_connection_is_lost(server: MuteServer, client: NatsClient) -> None:
    """nats-py's own goes on until its time is over, though the connection is back long since."""
    flush = asyncio.ensure_future(client.flush(timeout=100_000))
    await _asked(server)
    server.end_connections()
    with pytest.raises(nats.errors.ConnectionReconnectingError):
        await asyncio.wait_for(flush, PATIENCE)


async def test_a_flush_ends_when_the_connection_is_closed(server: MuteServer, client: NatsClient) -> None:
    flush = asyncio.ensure_future(client.flush(timeout=100_000))
    await _asked(server)
    await client.close()
    with pytest.raises(nats.errors.Error):
        await asyncio.wait_for(flush, PATIENCE)
    with pytest.raises(nats.errors.ConnectionClosedError):
        await client.flush()


async def test_a_late_pong_does_no_harm(server: MuteServer, client: NatsClient) -> None:
    """Of nats-py's own flush, it ends the loop that reads: the connection hears nothing any more."""
    with pytest.raises(nats.errors.FlushTimeoutError):
        await client.flush(timeout=0)
    await _asked(server)
    server.mute = False
    await server.pong()
    await asyncio.wait_for(client.flush(timeout=100_000), PATIENCE)


async def test_a_flush_comes_after_what_was_sent_before(server: MuteServer, client: NatsClient) -> None:
    await client.publish("before.it", b"")
    flush = asyncio.ensure_future(client.flush(timeout=100_000))
    await _asked(server)
    assert any(line.startswith(b"PUB before.it") for line in server.lines)
    flush.cancel()


async def test_a_server_that_is_away_answers_no_ping(server: MuteServer, client: NatsClient) -> None:
    answered = asyncio.ensure_future(client.responds(100_000))
    await _asked(server)
    server.end_connections()
    assert await asyncio.wait_for(answered, PATIENCE) is False


async def test_a_round_trip_of_a_users_connection_ends_when_that_is_lost(server: MuteServer, plain: Nats) -> None:
    trip = asyncio.ensure_future(round_trip(plain))
    await _asked(server)
    server.end_connections()
    with pytest.raises(nats.errors.ConnectionReconnectingError):
        await asyncio.wait_for(trip, PATIENCE)
    while not plain.is_connected:
        await asyncio.sleep(0)
    await asyncio.wait_for(round_trip(plain), PATIENCE)
