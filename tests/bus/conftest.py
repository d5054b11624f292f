"""Connections to the nats-server of the test session, and servers of a test's own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dwarf_nats.bus.connection import Connection, connect
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.wire.connect_options import ConnectOptions


@pytest.fixture
async def own_server() -> AsyncIterator[NatsServer]:
    """A nats-server of the test's own, which can be stopped and started again on the same port."""
    async with NatsServer() as server:
        yield server


Opener = Callable[..., Awaitable[Connection]]


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    """Opens connections and closes them after the test."""
    made: list[Connection] = []

    async def open_one(url: str, **options: object) -> Connection:
        connection = await connect(ConnectOptions(url=url, **options))  # type: ignore[arg-type]
        made.append(connection)
        return connection

    yield open_one
    for connection in made:
        with contextlib.suppress(Exception):
            await connection.close()


@pytest.fixture
async def connection(nats_server: NatsServer, opened: Opener) -> Connection:
    """The replica's connection."""
    return await opened(nats_server.url)


@pytest.fixture
async def other(nats_server: NatsServer, opened: Opener) -> Connection:
    """Somebody else's connection: a caller, or a task service."""
    return await opened(nats_server.url)


@pytest.fixture
async def inbox(connection: Connection) -> Inbox:
    inbox = Inbox(connection)
    await inbox.start()
    await connection.flush()
    return inbox
