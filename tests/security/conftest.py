"""A nats-server with the configuration that ships in the documentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dwarf_nats.dev_servers import NatsServer
from tests.support.deployment import Deployment, secured


@pytest.fixture(scope="session")
def secured_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """The templates of `docs/operating/permissions`, and one user more, `root`, who may everything."""
    with pytest.MonkeyPatch.context() as environment:
        server = NatsServer(config=secured(tmp_path_factory.mktemp("permissions"), environment))
        asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def deployment(
    secured_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Deployment]:
    """A replica, and a client of each role, under those permissions. The server must not have refused them anything."""
    async with Deployment(secured_server.url, f"sqlite:///{tmp_path / 'dwarf.db'}") as one:
        yield one
    assert "permissions violation" not in caplog.text.lower()
