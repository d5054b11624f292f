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
from pathlib import Path
from typing import Any

import nats
import orjson

from dwarf_nats.clock import SystemClock
from dwarf_nats.dev_servers import NatsServer, PostgresServer
from dwarf_nats.store.store import SqlStore

from .arms import Servers, ServiceArm, Sides
from .shapes import WORKFLOW

STEPS = 3
FIRST_ID = 10**9
"""Far beyond the ids that the sequences give."""
DAY_US = 86_400_000_000
QUERY = {"tags": {"batch": 7}}
ACTIONS = ("cancel", "restart", "delete")
AT_ONCE_FLOWS = 20_000
"""Flows laid down in one statement."""
NUMBERS = {
    False: "with numbers as (select generate_series(cast({} as bigint), {}) as n) ",
    True: "with recursive numbers(n) as (select {} union all select n + 1 from numbers where n < {}) ",
}
COLUMNS = {
    False: "select attname from pg_attribute where attrelid = $1::text::regclass and attnum > 0 and not attisdropped",
    True: "select name from pragma_table_info($1)",
}
MODEL = f"select flow_id, created_at from dwarf_flows where workflow = '{WORKFLOW}' and status = 'completed' limit 1"


async def copies(
    store: SqlStore, table: str, model: int, changed: dict[str, str], *, flows: int, which: str = ""
) -> None:
    """Lay down copies of the rows of a flow; `changed`: expressions by column, over `t` and the number `n`."""
    sqlite = "SQLite" in store.label
    names = [name for (name,) in await store.database.fetch(COLUMNS[sqlite], table)]
    values = ", ".join(changed.get(name, f"t.{name}") for name in names)
    for first in range(0, flows, AT_ONCE_FLOWS):
        numbers = NUMBERS[sqlite].format(first, min(first + AT_ONCE_FLOWS, flows) - 1)
        await store.database.fetch(
            f"insert into {table} ({', '.join(names)}) {numbers}"
            f"select {values} from numbers, {table} t where t.flow_id = $1 {which}",
            model,
        )


async def lay_down(store: SqlStore, flows: int) -> None:
    """Write running flows with the tag, whose entry steps are due tomorrow."""
    ((model, created_at),) = await store.database.fetch(MODEL)
    flow = f"({FIRST_ID} + n)"
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
    for first in range(0, flows, AT_ONCE_FLOWS):
        numbers = NUMBERS["SQLite" in store.label].format(first, min(first + AT_ONCE_FLOWS, flows) - 1)
        await store.database.fetch(
            f"insert into dwarf_tags (tag, created_at, flow_id) {numbers}"
            f"select 'batch=7', {created_at}, {flow} from numbers"
        )
    await store.database.fetch("analyze")


class Beside(ServiceArm):
    """The service with a load, and a bulk operation beside it."""

    def __init__(self, database: str, servers: Servers, concurrency: int) -> None:
        super().__init__(database, servers, Sides(steps=STEPS))
        self._concurrency = concurrency
        self._chunk = concurrency * 4

    async def prepare(self, flows: int) -> None:
        """Lay down the flows while no replica has the database."""
        await self.warm_up(self._concurrency)
        await self._replicas[0].__aexit__(None, None, None)
        store = SqlStore(1, self.dsns[0], pool=2, clock=SystemClock())
        await store.open("bench", migrated=True)
        try:
            await lay_down(store, flows)
        finally:
            await store.close()
        self._replicas[0] = self._new_replica(1)
        await self._stack.enter_async_context(self._replicas[0])
        await self.warm_up(self._concurrency)

    async def chunk(self) -> int:
        began = time.perf_counter()
        done = await self._load.ask(flows=self._chunk, concurrency=self._concurrency)
        took = time.perf_counter() - began
        self._chunk = max(self._concurrency, round(2 * self._chunk / took))  # about two seconds
        return int(done["flows"]) * self.shape.steps

    async def members(self) -> float:
        """Steps and creations that the replica has written."""
        return float((await self._replicas[0].ask())["members"])

    async def while_bulk(self, action: str, loaded: bool) -> dict[str, float]:
        """Carry out the operation to its end; a chunk of the load with it and one without in turns."""
        operation = Pages(self._servers.nats, self._prefix, action)
        running = asyncio.create_task(operation.run())
        written, began = await self.members(), time.perf_counter()
        rates: dict[bool, list[float]] = {True: [], False: []}
        while loaded and not running.done():
            for going in (True, False):
                await operation.let(going)
                chunk_began = time.perf_counter()
                steps = await self.chunk()
                if not running.done():
                    rates[going].append(steps / (time.perf_counter() - chunk_began))
        await operation.let(True)
        await running
        return {
            "done": operation.done,
            "refused": operation.refused,
            "seconds": operation.seconds,
            "before": statistics.mean(rates[False] or [0]),
            "meanwhile": statistics.mean(rates[True][: len(rates[False])] or [0]),
            "all": (await self.members() - written) / (time.perf_counter() - began),
        }


class Pages:
    """The pages of one operation, asked for one after the other, and the time that they took."""

    def __init__(self, url: str, prefix: str, action: str) -> None:
        self._url, self._subject = url, f"{prefix}.flow.bulk"
        self._request: dict[str, Any] = {"action": action, "query": QUERY}
        self._going, self._page = asyncio.Event(), asyncio.Lock()
        self.done = self.refused = 0
        self.seconds = 0.0

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
        while True:
            await self._going.wait()
            async with self._page:
                began = time.perf_counter()
                reply = await nc.request(self._subject, orjson.dumps(self._request), timeout=60)
                self.seconds += time.perf_counter() - began
            page = orjson.loads(reply.data)
            if "error" in page:
                raise RuntimeError(page["error"])
            self.done, self.refused = self.done + page["done"], self.refused + len(page["failed"])
            if "cursor" not in page:
                await nc.close()
                return
            self._request["cursor"] = page["cursor"]


async def measure(servers: Servers, args: argparse.Namespace) -> None:
    async with Beside("sqlite" if args.sqlite else "postgresql", servers, args.concurrency) as arm:
        await arm.prepare(args.flows)
        for action in ACTIONS:
            if action == "delete":
                await settled(arm)
            found = await arm.while_bulk(action, loaded=not args.alone)
            line = f"{action:<8} {found['done']:>9,.0f} flows in {found['seconds']:7.1f} s"
            line += f", {found['done'] / found['seconds']:7,.0f}/s"
            if found["refused"]:
                line += f", {found['refused']:,.0f} refused"
            if found["before"]:
                ratio = found["meanwhile"] / found["before"]
                line += f"; the load {found['before']:7,.0f} → {found['meanwhile']:7,.0f} steps/s, {ratio:.2f}"
                line += f"; all steps {found['all']:,.0f}/s" if action == "restart" else ""
            print(line, flush=True)


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
            yield Servers(dsn, bus.url, Path(folder))
        finally:
            if not sqlite:
                await database.stop("immediate")
            await bus.stop()


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.bulk", description=__doc__)
    parser.add_argument("flows", type=int)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    parser.add_argument("--alone", action="store_true", help="without a load beside it")
    parser.add_argument("--concurrency", type=int, default=64, help="flows of the load at once")
    args = parser.parse_args()
    async with servers(sqlite=args.sqlite) as there:
        await measure(there, args)


if __name__ == "__main__":
    asyncio.run(main())
