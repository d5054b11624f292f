"""R1: exactly one flow for each message of a stream, while replicas and nats-server are killed.

`python -m bench.messages --kill 120` does the same at length.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import asyncpg
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from dwarf_nats.dev_servers import NatsServer, PostgresServer
from tests.recovery.processes import Replica, ask_until_served, client, until_ready

pytestmark = pytest.mark.slow
MESSAGES = 600
GRAPH = {
    "name": "count",
    "entryPoint": "one",
    "tasks": [{"name": "one", "set": {"done": True}}],
    "transitions": [{"from": "one", "to": "END"}],
}


async def publish(connection: Client, first: int, last: int) -> None:
    """Publish these messages, each again until the stream has acknowledged it; the stream takes each once."""
    js = connection.jetstream()
    for n in range(first, last):
        while True:
            with contextlib.suppress(nats.errors.Error, OSError):
                await js.publish("count.it", json.dumps({"n": n}).encode(), timeout=5, headers={"Nats-Msg-Id": str(n)})
                break
            await asyncio.sleep(0.05)


async def test_each_message_starts_one_flow_though_everything_is_killed(
    tmp_path: Path, postgres: PostgresServer, pg_dsn: str
) -> None:
    """R1: two replicas and nats-server are ended by SIGKILL in the middle of the messages."""
    assert postgres.port
    async with NatsServer(store_dir=tmp_path) as server, client(server.url) as connection:
        replicas = [await Replica.spawn(server.url, pg_dsn) for _ in range(2)]
        try:
            await until_ready(connection, replicas[0])
            await connection.jetstream().add_stream(StreamConfig(name="COUNT", subjects=["count.>"]))
            await ask_until_served(connection, "dwarf.graph.put", GRAPH)
            source = {
                "name": "count",
                "subject": "count.>",
                "stream": "COUNT",
                "start": {"workflow": "count", "state": {"n": "=data.n"}},
            }
            assert "error" not in await ask_until_served(connection, "dwarf.source.put", source)
            part = MESSAGES // 3
            await publish(connection, 0, part)
            await replicas[0].kill()
            await publish(connection, part, 2 * part)
            await server.kill()
            await server.start()
            replicas[0] = await Replica.spawn(server.url, pg_dsn)
            await publish(connection, 2 * part, MESSAGES)
            await replicas[1].kill()
            async with asyncio.timeout(120):
                while True:
                    found = await ask_until_served(connection, "dwarf.source.get", {"name": "count"})
                    if found.get("pending") == 0 and not found.get("inHand") and found["state"] == "running":
                        break
                    await asyncio.sleep(0.2)
        finally:
            for one in replicas:
                if one.process.returncode is None:
                    await one.kill()
        seen = await received(pg_dsn)
        assert seen == (MESSAGES, MESSAGES)


async def received(dsn: str) -> tuple[int, int]:
    """Flows that there are, and of how many different messages."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            "select count(*), count(distinct state::json ->> 'n') from dwarf_steps where depth = 1"
        )
        flows, different = row
        return flows, different
    finally:
        await connection.close()
