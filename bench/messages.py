"""Messages of a stream as flows: how fast, and whether each starts exactly one while everything is killed.

`python -m bench.messages` measures messages started by a source against flows created by request, in the same run, in turns, on
databases of their own. `--kill SECONDS` publishes to a stream, kills replicas and nats-server with SIGKILL meanwhile, and then
counts: one flow for each message of the stream, no more and no fewer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.api import StreamConfig

from dwarf_nats.dev_servers import NatsServer, PostgresServer

from .processes import cpu_of

WORKFLOW = {
    "name": "count",
    "entryPoint": "one",
    "tasks": [{"name": "one", "set": {"done": True}}],
    "transitions": [{"from": "one", "to": "END"}],
}
LATER = "2100-01-01T00:00:00Z"
"""Start time of the flows that are measured: they are created and do not run."""
WAIT_SECONDS = 600.0


class Replica:
    """`dwarf-nats serve` as a process."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dwarf_nats.cli.main", "serve", *self._arguments),
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def _ignore(_error: Exception) -> None:
    """Say nothing: servers go and come."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    nc = await nats.connect(url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=_ignore)
    try:
        yield nc
    finally:
        await nc.close()


async def ask(nc: Client, operation: str, **fields: Any) -> Any:
    """Ask until somebody answers; return the reply. Raises `RuntimeError` for a refusal."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                reply = await nc.request(f"dwarf.{operation}", json.dumps(fields).encode(), timeout=10)
            except (nats.errors.Error, OSError):
                await asyncio.sleep(0.1)
                continue
            found = json.loads(reply.data)
            if reply.headers is None:
                return found
            if found["error"]["code"] != 503:
                raise RuntimeError(f"{operation}: {found}")
            await asyncio.sleep(0.1)


async def until_done(nc: Client) -> None:
    """Wait until the source has dealt with all messages of its stream."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = await ask(nc, "source.get", name="count")
            if found["state"] == "running" and found.get("pending") == 0 and not found.get("inHand"):
                return
            await asyncio.sleep(0.02)


async def publish(nc: Client, subject: str, count: int) -> None:
    """Publish so many messages, many at once, each again until the stream has acknowledged it."""
    js = nc.jetstream()
    batch = secrets.token_hex(4)
    left = iter(range(count))

    async def lane() -> None:
        for n in left:
            body = json.dumps({"n": n, "customer": f"c{n % 97}"}).encode()
            while True:
                try:
                    await js.publish(subject, body, timeout=5, headers={"Nats-Msg-Id": f"{batch}-{n}"})
                    break
                except (nats.errors.Error, nats.js.errors.Error, OSError):
                    await asyncio.sleep(0.05)

    await asyncio.gather(*(lane() for _ in range(128)))


def source(**more: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"fairnessKey": "=data.customer", **more}
    start = {"workflow": "count", "state": {"n": "=data.n", "sequence": "=sequence"}, "options": options}
    return {"name": "count", "subject": "count.>", "stream": "COUNT", "start": start}


@asynccontextmanager
async def deployment(replicas: int) -> AsyncIterator[tuple[NatsServer, str, list[Replica], Client]]:
    """Servers on this machine, and so many replicas on one database."""
    with tempfile.TemporaryDirectory(prefix="dwarf-messages-") as folder:
        async with NatsServer(store_dir=Path(folder)) as server, PostgresServer(fast=False) as postgres:
            dsn = await postgres.create_database("messages")
            running = [Replica("--nats", server.url, "--dsn", dsn) for _ in range(replicas)]
            async with connected(server.url) as nc:
                try:
                    for one in running:
                        await one.start()
                    await ask(nc, "graph.put", **WORKFLOW)
                    await nc.jetstream().add_stream(StreamConfig(name="COUNT", subjects=["count.>"]))
                    yield server, dsn, running, nc
                finally:
                    for one in running:
                        await one.kill()


# -- how fast


async def by_request(nc: Client, count: int, concurrency: int) -> float:
    """Create so many flows by request; return how many a second."""
    left = iter(range(count))

    async def lane() -> None:
        for n in left:
            state = {"n": n, "sequence": n}
            options = {"fairnessKey": f"c{n % 97}", "startAt": LATER}
            body = {"workflow": "count", "state": state, "options": options, "start": True}
            reply = await nc.request("dwarf.flow.create", json.dumps(body).encode(), timeout=60)
            if reply.headers is not None:
                raise RuntimeError(reply.data.decode())

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(concurrency)))
    return count / (time.perf_counter() - began)


async def by_source(nc: Client, dsn: str, count: int) -> float:
    """Have a source start so many messages that wait in the stream; return how many a second."""
    await ask(nc, "source.put", **source(startAt=LATER), paused=True)
    await publish(nc, "count.it", count)
    database = await asyncpg.connect(dsn)
    try:
        before = await database.fetchval("select count(*) from dwarf_received")
        began = time.perf_counter()
        await ask(nc, "source.resume", name="count")
        while True:
            if await database.fetchval("select count(*) from dwarf_received") >= before + count:
                break
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - began
    finally:
        await database.close()
    await until_done(nc)
    return count / seconds


async def measure(count: int, replicas: int, rounds: int, concurrency: int) -> None:
    async with deployment(replicas) as (_, dsn, running, nc):
        await by_request(nc, 500, concurrency)
        await by_source(nc, dsn, 500)
        for number in range(1, rounds + 1):
            cpu = spent(running)
            requested = await by_request(nc, count, concurrency)
            cpu_of_requests, cpu = spent(running) - cpu, spent(running)
            started = await by_source(nc, dsn, count)
            cpu_of_messages = spent(running) - cpu
            print(
                f"round {number}: {replicas} replica(s): by request {requested:,.0f}/s with"
                f" {cpu_of_requests / count * 1e6:.0f} µs of CPU in the replicas each; by source {started:,.0f}/s with"
                f" {cpu_of_messages / count * 1e6:.0f} µs; {started / requested:.2f} times as many",
                flush=True,
            )


def spent(replicas: list[Replica]) -> float:
    """CPU seconds that replicas have used so far."""
    return sum(cpu_of(one.process.pid) or 0.0 for one in replicas if one.process is not None)


# -- exactly once


async def kill(server: NatsServer, replicas: list[Replica], seconds: float, chance: random.Random) -> dict[str, int]:
    """Kill replicas and now and then nats-server, and start them again, for a while."""
    killed = {"replicas": 0, "nats-server": 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(0.5, 4.0))
        if chance.random() < 0.3:
            await server.kill()
            await asyncio.sleep(chance.uniform(0.0, 1.0))
            await server.start()
            killed["nats-server"] += 1
        else:
            one = chance.choice(replicas)
            await one.kill()
            await asyncio.sleep(chance.uniform(0.0, 1.0))
            await one.start()
            killed["replicas"] += 1
    return killed


async def once(count: int, seconds: float, seed: int) -> int:
    chance = random.Random(seed)
    async with deployment(2) as (server, dsn, replicas, nc):
        await ask(nc, "source.put", **source())
        began = time.perf_counter()
        publishing = asyncio.create_task(publish(nc, "count.it", count))
        killed = await kill(server, replicas, seconds, chance)
        await publishing
        await until_done(nc)
        messages = (await nc.jetstream().stream_info("COUNT")).state.messages
        database = await asyncpg.connect(dsn)
        try:
            flows, different = await database.fetchrow(
                "select count(*), count(distinct (state::json ->> 'sequence')::bigint) from dwarf_steps where depth = 1"
            )
        finally:
            await database.close()
        print(
            f"seed {seed}: {messages:,} messages, {flows:,} flows of {different:,} messages in"
            f" {time.perf_counter() - began:.0f} s; killed: {killed}",
            flush=True,
        )
        if not flows == different == messages >= count:
            print("NOT one flow for each message", flush=True)
            return 1
        print("one flow for each message", flush=True)
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--kill", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    if args.kill:
        return asyncio.run(once(args.messages, args.kill, args.seed))
    asyncio.run(measure(args.messages, args.replicas, args.rounds, args.concurrency))
    return 0


if __name__ == "__main__":
    sys.exit(main())
