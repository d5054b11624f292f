"""The actor of a request (M3), over real servers: in the header, or told by nats-server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
import pytest

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.service import Service
from dwarf_nats.cli.options import Service as ServiceOptions
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.subjects import Subjects
from tests.support.stub_engine import KEY, StubEngine

CANCEL = json.dumps({"flowKey": KEY}).encode()


async def test_a_request_carries_its_actor_as_far_as_the_engine_m3(
    connection: Connection, other: Connection, nats_server: NatsServer
) -> None:
    """With and without a reply subject, of the client and of the command line; and none is left for the next."""
    engine = StubEngine()
    service = Service(connection, engine, Subjects("actors"))
    await service.start()
    await other.request("actors.flow.cancel", CANCEL, timeout=10, headers={"Dwarf-Actor": "Zo%C3%AB"})
    await other.request("actors.flow.cancel", CANCEL, timeout=10)
    async with Client(nats_server.url, prefix="actors", actor="bot 100%") as client:
        await client.cancel(KEY)
        await client.request("flow.cancel", CANCEL, actor="ada")
    commands = ServiceOptions(prefix="actors", actor="ops")
    async with commands.client(ConnectOptions(url=nats_server.url)) as client:
        await client.cancel(KEY)
    engine.called.clear()
    await other.publish("actors.flow.cancel", CANCEL, headers={"Dwarf-Actor": "publisher"})
    await engine.called.wait()
    await service.drain()
    assert engine.actors == ["Zoë", "", "bot 100%", "ada", "ops", "publisher"]


@pytest.mark.slow
async def test_nats_tells_the_account_that_asks_and_the_user_if_it_is_shared_m3(
    tmp_path: Path, opened: Callable[[str], Awaitable[Connection]]
) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        "accounts {\n"
        'DWARF { users: [ { user: replica, password: replica } ], exports: [ { service: "dwarf.>" } ] }\n'
        "SHOP { users: [ { user: bob, password: bob } ]\n"
        'imports: [ { service: { account: DWARF, subject: "dwarf.>" }, share: true } ] }\n'
        "QUIET { users: [ { user: eve, password: eve } ]\n"
        'imports: [ { service: { account: DWARF, subject: "dwarf.>" } } ] }\n'
        "}"
    )
    engine = StubEngine()
    async with NatsServer(config=config) as server:
        place = server.url.removeprefix("nats://")
        connection = await opened(f"nats://replica:replica@{place}")
        service = Service(connection, engine)
        await service.start()
        for user in ("bob", "eve"):
            asking = await nats.connect(f"nats://{user}:{user}@{place}")
            await asking.request("dwarf.flow.cancel", CANCEL, timeout=10)
            await asking.request("dwarf.flow.cancel", CANCEL, timeout=10, headers={"Dwarf-Actor": "me"})
            await asking.close()
        await service.drain()
    assert engine.actors == ["bob@SHOP", "me", "QUIET", "me"]
