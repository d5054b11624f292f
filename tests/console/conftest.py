"""A console over a real service."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client
from tests.support.browser import Browser, opened
from tests.support.caller import Caller, deployment

_numbers = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    """A deployment no other test uses."""
    return f"con{next(_numbers)}"


@pytest.fixture
async def caller(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> AsyncIterator[Caller]:
    """A caller of a service on SQLite."""
    async with deployment(nats_server.url, sqlite_dsn, prefix) as one:
        yield one


@pytest.fixture
def client(caller: Caller, nats_server: NatsServer) -> Client:
    """The client of a console of that service; the console closes it."""
    return Client(nats_server.url, prefix=caller.prefix, name="console")


@pytest.fixture
async def browser(client: Client) -> AsyncIterator[Browser]:
    """A browser at a console of that service."""
    async with opened(client) as one:
        yield one
