"""Deployments of the service, each under a prefix of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from dwarf_nats.dev_servers import NatsServer
from tests.support.caller import Caller, deployment

_numbers = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    """A deployment no other test uses."""
    return f"svc{next(_numbers)}"


@pytest.fixture
async def caller(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> AsyncIterator[Caller]:
    """A caller of a service on SQLite."""
    async with deployment(nats_server.url, sqlite_dsn, prefix) as one:
        yield one


@pytest.fixture
async def either(nats_server: NatsServer, dsn: str, prefix: str) -> AsyncIterator[Caller]:
    """A caller of a service, once on each database."""
    async with deployment(nats_server.url, dsn, prefix) as one:
        yield one
