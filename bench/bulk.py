"""Bulk operations on very many flows beside a load: `python -m bench.bulk 100000`, or `… --sqlite` (M1).

Flows are laid down by SQL: running, with a step that sleeps until tomorrow, and a tag. Then they are cancelled, restarted and
deleted by query, page by page, while a load of other flows goes on. Seconds with pages and without come in turns: what counts
is how fast the pages are, and what the load gets done with them against what it gets done without. Of a restart, the
restarted flows run beside the load: all steps are shown, too.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import orjson
from nats.aio.client import Client as NatsClient

from dwarf_nats.clock import SystemClock
from dwarf_nats.dev_servers import NatsServer, PostgresServer
from dwarf_nats.store.store import SqlStore

from .arms import Servers, ServiceArm, Sides
from .room import FIRST_ID, MODEL, Costs, copies, numbered, postmaster_of, room

STEPS = 3
DAY_US = 86_400_000_000
QUERY = {"tags": {"batch": 7}}
ACTIONS = ("cancel", "restart", "delete")


async def lay_down(store: SqlStore, flows: int, first_id: int = FIRST_ID) -> None:
    """Write running flows with the tag, whose entry steps are due tomorrow."""
    ((model, created_at),) = await store.database.fetch(MODEL)
    flow = f"({first_id} + n)"
    alike = {"flow_id": flow, "thread_id": flow, "root_id": flow, "status": "'running'", "final_state": "null"}
    await copies(store, "dwarf_flows", model, {**alike, "tags": """'{"batch":7}'"""}, flows=flows)
    asleep = {
        "flow_id": flow,
        "step_id": flow,
        "status": "'pending'",
        "changes": "'{}'",
        "lease_seq": "0",
        "claimed_by": "null",
        "lease_expires": "null",
        "started_at": "null",
        "successor_id": "null",
        "not_before": f"t.updated_at + {DAY_US}",
    }
    await copies(store, "dwarf_steps", model, asleep, flows=flows, which="and t.predecessor_id is null")
    for numbers in numbered(store, flows):
        await store.database.fetch(
            f"insert into dwarf_tags (tag, created_at, flow_id) {numbers}"
            f"select 'batch=7', {created_at}, {flow} from numbers"
        )
    await store.database.fetch("analyze")


class Beside(ServiceArm):
    """The service with a load, and a bulk operation beside it."""

    def __init__(self, database: str, servers: Servers, concurrency: int, profile: str = "") -> None:
        super().__init__(database, servers, Sides(steps=STEPS, profile=profile))
        self._concurrency = concurrency
        self._chunk = concurrency * 4

    async def prepare(self, flows: int) -> None:
        """Lay down the flows while no replica has the database."""
        await self.warm_up(self._concurrency)
        await self.lay_down_offline(flows, FIRST_ID)
        await self.warm_up(self._concurrency)

    async def lay_down_offline(self, flows: int, first_id: int) -> None:
        """Lay down flows while no replica has the database."""
        await self._replicas[0].__aexit__(None, None, None)
        store = SqlStore(1, self.dsns[0], pool=2, clock=SystemClock())
        await store.open("bench", migrated=True)
        try:
            await self.write_flows(store, flows, first_id)
        finally:
            await store.close()
        self._replicas[0] = self._new_replica(1)
        await self._stack.enter_async_context(self._replicas[0])

    async def write_flows(self, store: SqlStore, flows: int, first_id: int) -> None:
        """Write the flows that the work beside the load is about."""
        await lay_down(store, flows, first_id)

    async def spent(self) -> dict[str, float]:
        """CPU seconds so far of database and engine."""
        return {"engine": float((await self._replicas[0].ask())["cpu"]), **self._servers.cpu()}

    async def room(self) -> str:
        """The size of the tables, as the database says."""
        return await room(self.dsns[0])

    async def chunk(self) -> int:
        began = time.perf_counter()
        done = await self._load.ask(flows=self._chunk, concurrency=self._concurrency)
        took = time.perf_counter() - began
        self._chunk = max(self._concurrency, round(2 * self._chunk / took))  # about two seconds
        return int(done["flows"]) * self.shape.steps

    async def members(self) -> float:
        """Steps and creations that the replica has written."""
        return float((await self._replicas[0].ask())["members"])

    async def while_bulk(self, action: str, loaded: bool, at_most: float) -> Found:
        """Carry out the operation to its end, or for so many seconds; chunks of the load with it and without in turns."""
        operation = Pages(self._servers.nats, self._prefix, action)
        running = asyncio.create_task(operation.run())
        written, began, spent = await self.members(), time.perf_counter(), await self.spent()
        rates: dict[bool, list[float]] = {True: [], False: []}
        costs = Costs()
        while not running.done() and time.perf_counter() - began < at_most:
            if not loaded:
                await operation.let(True)
                await asyncio.wait({running}, timeout=1)
                continue
            for going in (True, False):
                before, done = await self.spent(), operation.done
                await operation.let(going)
                chunk_began = time.perf_counter()
                steps = await self.chunk()
                took = time.perf_counter() - chunk_began
                if going:
                    await operation.let(False)
                (costs.together if going else costs.alone).add(before, await self.spent(), steps, operation.done - done)
                if not running.done():
                    rates[going].append(steps / took)
        await operation.let(False)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if not loaded:
            costs.together.add(spent, await self.spent(), 0, operation.done)
        return Found(
            operation, rates, costs, (await self.members() - written) / (time.perf_counter() - began), operation.over
        )


@dataclass(slots=True)
class Found:
    """The work of an operation, and the load beside it. `every`: steps and creations a second of all flows."""

    operation: Pages
    rates: dict[bool, list[float]]
    costs: Costs
    every: float
    whole: bool

    def text(self, action: str) -> str:
        done, seconds = self.operation.done, self.operation.seconds
        line = f"{action:<8} {done:>9,.0f} flows in {seconds:7.1f} s, {done / max(seconds, 1e-3):7,.0f}/s"
        line += "" if self.whole else ", stopped there"
        if self.operation.refused:
            line += f", {self.operation.refused:,.0f} refused"
        with_it, without = self.rates[True][: len(self.rates[False])], self.rates[False]
        if with_it and without:
            before, meanwhile = statistics.mean(without), statistics.mean(with_it)
            line += f"; the load {before:7,.0f} → {meanwhile:7,.0f} steps/s, {meanwhile / before:.2f}"
        line += f"; all steps {self.every:,.0f}/s" if action == "restart" else ""
        return f"{line}; {self.costs.text()}"


class Pages:
    """The pages of one operation, asked for one after the other, and the time that they took."""

    def __init__(self, url: str, prefix: str, action: str) -> None:
        self._url, self._subject = url, f"{prefix}.flow.bulk"
        self._request: dict[str, Any] = {"action": action, "query": QUERY}
        self._going, self._page = asyncio.Event(), asyncio.Lock()
        self.done = self.refused = 0
        self.seconds = 0.0
        self.over = False
        """It was carried out to the end."""

    async def let(self, going: bool) -> None:
        """Go on, or stop after the page under way."""
        if going:
            self._going.set()
            return
        self._going.clear()
        async with self._page:
            pass

    async def run(self) -> None:
        """All pages."""
        nc = await nats.connect(self._url)
        try:
            while not self.over:
                await self._going.wait()
                async with self._page:
                    await self._next(nc)
        finally:
            await nc.close()

    async def _next(self, nc: NatsClient) -> None:
        began = time.perf_counter()
        reply = await nc.request(self._subject, orjson.dumps(self._request), timeout=60)
        self.seconds += time.perf_counter() - began
        page = orjson.loads(reply.data)
        if "error" in page:
            raise RuntimeError(page["error"])
        self.done, self.refused = self.done + page["done"], self.refused + len(page["failed"])
        self.over = "cursor" not in page
        self._request["cursor"] = page.get("cursor")


async def measure(servers: Servers, args: argparse.Namespace) -> None:
    async with Beside("sqlite" if args.sqlite else "postgresql", servers, args.concurrency, args.profile) as arm:
        await arm.prepare(args.flows)
        print(f"{args.flows:,} flows laid down; {await arm.room()}", flush=True)
        for action in args.actions:
            if action == "delete":
                await settled(arm)
                print(f"before the deletion: {await arm.room()}", flush=True)
            found = await arm.while_bulk(action, loaded=not args.alone, at_most=args.at_most)
            print(found.text(action), flush=True)
        print(f"after the deletion: {await arm.room()}", flush=True)
        await arm.lay_down_offline(args.flows, 2 * FIRST_ID)
        print(f"with as many laid down again: {await arm.room()}", flush=True)


async def settled(arm: Beside) -> None:
    """Wait until the restarted flows have run."""
    written = await arm.members()
    while True:
        await asyncio.sleep(2)
        now = await arm.members()
        if now == written:
            return
        written = now


@asynccontextmanager
async def servers(*, sqlite: bool) -> AsyncIterator[Servers]:
    """A nats-server and, unless on SQLite, a PostgreSQL, which end with the measurement."""
    bus, database = NatsServer(), PostgresServer()
    with tempfile.TemporaryDirectory(prefix="dwarf-bench-") as folder:
        await bus.start()
        try:
            if not sqlite:
                await database.start()
            dsn = "" if sqlite else await database.create_database("bench")
            there = Servers(dsn, bus.url, Path(folder))
            if dsn:
                there.pids["database"] = await postmaster_of(dsn)
            yield there
        finally:
            if not sqlite:
                await database.stop("immediate")
            await bus.stop()


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.bulk", description=__doc__)
    parser.add_argument("flows", type=int)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    parser.add_argument("--actions", nargs="+", default=ACTIONS, choices=ACTIONS, help="these only, in this order")
    parser.add_argument("--alone", action="store_true", help="without a load beside it")
    parser.add_argument("--profile", default="", help="write a profile of the replica to files with this prefix")
    parser.add_argument("--at-most", type=float, default=1200, help="seconds for each action, 1200 by default")
    parser.add_argument("--concurrency", type=int, default=64, help="flows of the load at once")
    args = parser.parse_args()
    async with servers(sqlite=args.sqlite) as there:
        await measure(there, args)


if __name__ == "__main__":
    asyncio.run(main())
