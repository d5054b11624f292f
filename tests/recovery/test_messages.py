"""Messages and requests of replicas that are killed (N3, N4, B2), with real processes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from dwarf_nats.dev_servers import NatsServer
from tests.recovery.processes import ask, ask_until_served, client, replica, until_ready

pytestmark = pytest.mark.slow
FLAGS = ("--replica-timeout-ms", "500")
STREAM = StreamConfig(name="ORDERS", subjects=["orders.>"])
PATIENCE = 60.0


def one(node: dict[str, Any]) -> dict[str, Any]:
    """A graph of one node."""
    return {
        "name": "acme.one",
        "entryPoint": "n",
        "tasks": [{"name": "n", **node}],
        "transitions": [{"from": "n", "to": "END"}],
    }


@pytest.fixture
def short_dsn(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.mark.parametrize("short_dsn", ["sqlite_dsn", "pg_dsn"], indirect=True)
async def test_a_stream_stores_a_message_once_although_its_replica_is_killed(short_dsn: str) -> None:
    """N4: the stream has the message, the replica does not know yet, and dies; the next one sends it again."""
    async with NatsServer(jetstream=True) as server, client(server.url) as connection:
        stream = connection.jetstream()
        await stream.add_stream(STREAM, no_ack=True)
        stored: asyncio.Queue[Msg] = asyncio.Queue()
        await connection.subscribe("orders.>", cb=stored.put)
        await connection.flush()
        graph = one({"publish": {"subject": "orders.shipped", "payload": "=id", "stream": True}})
        async with replica(server.url, short_dsn, *FLAGS) as first:
            await until_ready(connection, first)
            made = await ask(connection, "dwarf.flow.create", {"graph": graph, "state": {"id": "o-1"}, "start": True})
            async with asyncio.timeout(PATIENCE):
                before = await stored.get()
            await first.kill()
        await stream.update_stream(STREAM, no_ack=False)
        async with replica(server.url, short_dsn, *FLAGS):
            outcome = await ask_until_served(connection, "dwarf.flow.await", made)
            async with asyncio.timeout(PATIENCE):
                after = await stored.get()
        assert outcome["status"] == "completed"
        assert (before.headers or {})["Nats-Msg-Id"] == (after.headers or {})["Nats-Msg-Id"]
        assert (await stream.stream_info("ORDERS")).state.messages == 1


@pytest.mark.parametrize("short_dsn", ["sqlite_dsn", "pg_dsn"], indirect=True)
async def test_a_request_of_a_killed_replica_is_sent_again_with_the_same_id(
    nats_server: NatsServer, short_dsn: str
) -> None:
    """N3: so that the service can tell a repetition from another request."""
    flags = (*FLAGS, "--prefix", "killreq", "--task-prefix", "killreqtask")
    asked: asyncio.Queue[Msg] = asyncio.Queue()
    async with client(nats_server.url) as connection:
        await connection.subscribe("killreqx.quote", cb=asked.put)
        async with replica(nats_server.url, short_dsn, *flags) as first:
            await until_ready(connection, first)
            graph = one({"request": {"subject": "killreqx.quote"}, "into": "quote"})
            made = await ask(connection, "killreq.flow.create", {"graph": graph, "start": True})
            async with asyncio.timeout(PATIENCE):
                before = await asked.get()
            await first.kill()
        async with replica(nats_server.url, short_dsn, *flags):
            async with asyncio.timeout(PATIENCE):
                after = await asked.get()
            await after.respond(json.dumps({"price": 7}).encode())
            outcome = await ask_until_served(connection, "killreq.flow.await", made)
    assert (outcome["status"], outcome["state"]) == ("completed", {"quote": {"price": 7}})
    sent = [one.headers or {} for one in (before, after)]
    assert len({one["Nats-Msg-Id"] for one in sent}) == 1
    assert [one["Dwarf-Attempt"] for one in sent] == ["0", "0"]
