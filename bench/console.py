"""The costs of the web console: `python -m bench.console list`, `branches`, `tabs` or `apart`; `--sqlite` for SQLite.

Each case starts the servers, a replica and a console as processes of their own on loopback, and ends them after `--limit`
seconds at the latest.

- `list`: flows are laid down by SQL; each filter of the page of flows is asked for, and read anew each time.
- `branches`: one flow with very many branches; the time and the bytes of each tab.
- `apart`: each tab at a running flow of its own; CPU time without tabs and with them.
- `tabs`: flows run at a steady pace; CPU time of replica and console without tabs, with them, and without them again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwarf_nats.clock import SystemClock
from dwarf_nats.dev_servers import NatsServer, PostgresServer
from dwarf_nats.sdk import Client
from dwarf_nats.store.store import SqlStore

from .processes import cpu_of
from .tags import BATCH_FLOWS, NUMBERS

FRESH_SECONDS = 1.1
"""Age from which the console reads a thing anew."""
READS = 3
START_SECONDS = 60.0
FLOWS = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, final_state, error, created_at,
  started_at, updated_at, root_id, tags)
{numbers}select n, 'a1B2c3D4e5F6g7H8', case when n % 100000 = 7 then 'rare' else 'order' end, 'd',
  case when n % 100000 = 5 then 'running' when n % 10000 = 0 then 'failed' when n % 10000 = 1 then 'interrupted'
  when n % 10000 = 2 then 'cancelled' when n % 100000 = 6 then 'created' else 'completed' end, n, 'a1B2c3D4e5F6g7H8', 100,
  'tenant-' || (n % 10000), 1.0, '{{}}', '', '', '', 0, '{{"total":12.5}}',
  case when n % 10000 = 0 then '{{"message":"card declined","code":402}}' end, {begin} + 1000000 * n, {begin} + 1000000 * n,
  {begin} + 1000000 * n, n, '{{"env":"prod","order":' || n || '}}' from numbers
"""
STEPS = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, priority, fairness_key,
  fairness_weight, created_at, started_at, updated_at)
{numbers}select n, n, 0, 'a1B2c3D4e5F6g7H8', case when n % 100000 = 7 then 'seldom' else 'charge' end, 'billing.charge',
  '{{}}', case when n % 100000 = 5 then 'pending' when n % 10000 = 0 then 'failed' when n % 10000 = 1 then 'interrupted'
  when n % 10000 = 2 then 'cancelled' when n % 100000 = 6 then 'created' else 'completed' end,
  {begin} + case when n % 100000 = 5 then 1000000000000000 else 0 end, 100, 'tenant-' || (n % 10000), 1.0,
  {begin} + 1000000 * n, {begin} + 1000000 * n, {begin} + 1000000 * n from numbers
"""
TAGS = """
insert into dwarf_tags (tag, created_at, flow_id)
{numbers}select 'env=prod', {begin} + 1000000 * n, n from numbers
union all select 'order=' || n, {begin} + 1000000 * n, n from numbers
"""
FILTERS = (
    *("", "status=running", "status=interrupted", "status=failed", "status=completed", "status=cancelled"),
    *("status=created", "workflow=order", "workflow=rare", "workflow=unknown", "status=failed&workflow=rare"),
    *(
        "task=charge",
        "task=seldom",
        "task=unknown",
        "fairnessKey=tenant-5",
        "fairnessKey=unknown",
        "period=1h",
        "period=30d",
    ),
    *("waits=interrupt", "waits=retry", "tag.order=4711", "tag.env=prod", "tag.env=prod&status=failed", "tag.no=body"),
    *("search=order", "search=declined", "search=1-4711-", "search=unknown"),
)
FAN = {
    "name": "fan",
    "entryPoint": "split",
    "tasks": [
        {"name": "split", "set": {"ready": True}},
        {"name": "work", "set": {"worked": True}},
        {"name": "join", "fanIn": True, "set": {"joined": True}},
    ],
    "transitions": [
        {"from": "split", "to": "work", "forEach": "items", "as": "item"},
        {"from": "work", "to": "join"},
        {"from": "join", "to": "END"},
    ],
}
LONG = {
    "name": "long",
    "entryPoint": "begin",
    "tasks": [
        {"name": "begin", "set": {"n": 0}},
        {"name": "count", "set": {"n": "=n + 1"}},
        {"name": "pause", "sleep": {"ms": 200}},
    ],
    "transitions": [
        {"from": "begin", "to": "count"},
        {"from": "count", "to": "pause"},
        {"from": "pause", "to": "count", "switch": True, "when": "n < 100000"},
        {"from": "pause", "to": "END", "switch": True, "when": "true"},
    ],
}
SHORT = {
    "name": "short",
    "entryPoint": "one",
    "tasks": [{"name": name, "set": {name: True}} for name in ("one", "two", "three", "four", "five")],
    "transitions": [
        {"from": a, "to": b}
        for a, b in zip(("one", "two", "three", "four", "five"), ("two", "three", "four", "five", "END"), strict=True)
    ],
}


@dataclass(slots=True)
class Deployment:
    """A replica and a console as processes, and a client."""

    client: Client
    port: int
    replica: int
    console: int

    async def get(self, path: str) -> tuple[float, int, int]:
        """Milliseconds, bytes and HTTP status of a page."""
        begun = time.perf_counter()
        reader, writer = await self._ask(path)
        body = await reader.read()
        writer.close()
        return (time.perf_counter() - begun) * 1000, len(body), int(body.split(b" ", 2)[1])

    async def median(self, path: str, reads: int = READS) -> tuple[float, int, int]:
        """The same of several reads, each anew: the median time, and the last of the others."""
        took, size, status = [], 0, 0
        for _ in range(reads):
            one, size, status = await self.get(path)
            took.append(one)
            await asyncio.sleep(FRESH_SECONDS)
        return statistics.median(took), size, status

    async def look(self, path: str) -> int:
        """Keep a live stream open until cancelled. Returns the bytes it brought if the console ends it."""
        reader, writer = await self._ask(path)
        heard = 0
        try:
            while part := await reader.read(65536):
                heard += len(part)
            return heard
        finally:
            writer.close()

    async def create(self, graph: dict[str, Any], state: dict[str, Any]) -> str:
        """Start a flow. Returns its key."""
        body = json.dumps({"graph": graph, "state": state, "start": True}).encode()
        key: str = json.loads(await self.client.request("flow.create", body))["flowKey"]
        return key

    async def _ask(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n\r\n".encode())
        return reader, writer


@asynccontextmanager
async def deployed(dsn: str) -> AsyncIterator[Deployment]:
    """A replica over a database, and a console, ready to be asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    async with NatsServer() as nats, AsyncExitStack() as stack:
        replica = await stack.enter_async_context(_process("serve", "--nats", nats.url, "--dsn", dsn))
        console = await stack.enter_async_context(
            _process("console", "--nats", nats.url, "--listen", f"127.0.0.1:{port}")
        )
        client = await stack.enter_async_context(Client(nats.url, name="bench"))
        deployment = Deployment(client, port, replica, console)
        until = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError, IndexError):
                if (await deployment.get("/flows"))[2] == 200:
                    break
            if time.monotonic() > until:
                raise SystemExit("the console did not answer in time")
            await asyncio.sleep(0.2)
        yield deployment


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("dwarf-nats")),
        *arguments,
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(15):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def fill(dsn: str, flows: int, *, sqlite: bool) -> None:
    """Lay down flows with a step and two tags each, one a second until now."""
    store = SqlStore(1, dsn, pool=2, clock=SystemClock())
    await store.open("bench", migrated=True)
    begin = (int(time.time()) - flows) * 1_000_000
    try:
        for first in range(1, flows + 1, BATCH_FLOWS):
            numbers = NUMBERS[sqlite].format(first, min(first + BATCH_FLOWS, flows + 1) - 1)
            for statement in (FLOWS, STEPS, TAGS):
                await store.database.fetch(statement.format(numbers=numbers, begin=begin))
        await store.database.fetch("analyze")
    finally:
        await store.close()


async def measure_list(dsn: str, args: argparse.Namespace) -> None:
    begun = time.perf_counter()
    await fill(dsn, args.flows, sqlite=args.sqlite)
    print(f"{args.flows:,} flows laid down in {time.perf_counter() - begun:.0f} s", flush=True)
    async with deployed(dsn) as one:
        for query in FILTERS:
            took, size, status = await one.median(f"/flows?{query}")
            print(f"{query or 'no filter':<32} {took:9.1f} ms {size / 1000:8.1f} kB  {status}", flush=True)


async def measure_branches(dsn: str, args: argparse.Namespace) -> None:
    async with deployed(dsn) as one:
        for name in ("a console just started", "the first time"):
            key = await one.create(FAN, {"items": list(range(args.branches))})
            reply = await one.client.request("flow.await", json.dumps({"flowKey": key}).encode(), wait_seconds=60)
            print(f"{args.branches:,} branches: {json.loads(reply)['status']}", flush=True)
            await asyncio.sleep(5)
            flow = "-".join(key.split("-")[:2])
            before = cpu_of(one.replica) or 0.0, cpu_of(one.console) or 0.0
            took, size, status = await one.get(f"/flow/{flow}")
            spent = (cpu_of(one.replica) or 0.0) - before[0], (cpu_of(one.console) or 0.0) - before[1]
            cpu = f"CPU: replica {spent[0]:.2f} s, console {spent[1]:.2f} s"
            print(f"{name:<24} {took:9.1f} ms {size / 1000:8.1f} kB  {status}  {cpu}", flush=True)
        tabs = ("", "/timeline", "/steps", "/steps?page=100", "/state", "/log", "?node=2")
        for tab in tabs:
            took, size, status = await one.median(f"/flow/{flow}{tab}")
            print(f"{tab or '/graph':<24} {took:9.1f} ms {size / 1000:8.1f} kB  {status}", flush=True)


async def measure_tabs(dsn: str, args: argparse.Namespace) -> None:
    async with deployed(dsn) as one:
        key = await one.create(LONG, {})
        flow = "-".join(key.split("-")[:2])
        load = asyncio.create_task(_load(one, args.rate))
        await asyncio.sleep(3)
        await _watch("no tab", one, args.seconds)
        places = [
            "/live/flows",
            "/live/flows?status=running",
            f"/live/flow?flow={flow}&tab=graph",
            f"/live/flow?flow={flow}&tab=timeline",
        ]
        tabs = [asyncio.create_task(one.look(places[number % len(places)])) for number in range(args.tabs)]
        await asyncio.sleep(3)
        await _watch(f"{args.tabs} tabs", one, args.seconds)
        print(f"streams that ended early: {sum(tab.done() for tab in tabs)}")
        for tab in tabs:
            tab.cancel()
        await asyncio.gather(*tabs, return_exceptions=True)
        await asyncio.sleep(3)
        await _watch("no tab again", one, args.seconds)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def measure_apart(dsn: str, args: argparse.Namespace) -> None:
    """Each tab at the graph of a flow of its own, of which a step ends every five seconds."""
    slow = {**LONG, "tasks": [*LONG["tasks"][:2], {"name": "pause", "sleep": {"ms": 5_000}}]}
    async with deployed(dsn) as one:
        keys = [await one.create(slow, {}) for _ in range(args.tabs)]
        await asyncio.sleep(10)
        await _watch("no tab", one, args.seconds)
        places = [f"/live/flow?flow={'-'.join(key.split('-')[:2])}&tab=graph" for key in keys]
        tabs = [asyncio.create_task(one.look(place)) for place in places]
        await asyncio.sleep(10)
        await _watch(f"{args.tabs} tabs", one, args.seconds)
        print(f"streams that ended early: {sum(tab.done() for tab in tabs)}")
        for tab in tabs:
            tab.cancel()
        await asyncio.gather(*tabs, return_exceptions=True)


async def _load(one: Deployment, rate: float) -> None:
    """Start flows of five steps at a steady pace."""
    due = time.monotonic()
    while True:
        await one.create(SHORT, {})
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _watch(name: str, one: Deployment, seconds: float) -> None:
    """Print the shares of a core that replica and console take."""
    begun, before = time.perf_counter(), (cpu_of(one.replica) or 0.0, cpu_of(one.console) or 0.0)
    await asyncio.sleep(seconds)
    took = time.perf_counter() - begun
    replica, console = (cpu_of(one.replica) or 0.0) - before[0], (cpu_of(one.console) or 0.0) - before[1]
    print(
        f"{name:<14} replica {replica / took:6.3f} of a core, console {console / took:6.3f}, in {took:.0f} s",
        flush=True,
    )


CASES = {"list": measure_list, "branches": measure_branches, "tabs": measure_tabs, "apart": measure_apart}


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.console", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    parser.add_argument("--flows", type=int, default=1_000_000, help="of the case list")
    parser.add_argument("--branches", type=int, default=10_000, help="of the case branches")
    parser.add_argument("--tabs", type=int, default=200, help="of the case tabs")
    parser.add_argument("--seconds", type=float, default=20, help="of each look at the CPU time, in the case tabs")
    parser.add_argument("--rate", type=float, default=10, help="flows a second, in the case tabs")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which it gives up")
    args = parser.parse_args()
    async with asyncio.timeout(args.limit), AsyncExitStack() as stack:
        if args.sqlite:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dwarf-console-"))
            dsn = f"sqlite:///{Path(folder) / 'dwarf.db'}"
        else:
            server = await stack.enter_async_context(PostgresServer(fast=args.case == "list"))
            dsn = await server.create_database("console")
        await CASES[args.case](dsn, args)


if __name__ == "__main__":
    asyncio.run(main())
