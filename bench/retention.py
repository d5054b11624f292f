"""Removal of very many old flows beside a load: `python -m bench.retention 1000000`, or `… --sqlite` (M2).

Flows are laid down by SQL as completed two days ago. Then a rule is put that removes all that are older than a day, beside a
load of other flows. Shown are what the load gets done before, meanwhile and afterwards, and what the database says of the
room: pages, dead rows and vacuums of PostgreSQL, pages and free pages of SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import time
from typing import Any

import asyncpg
import nats
import orjson

from dwarf_nats.clock import SystemClock
from dwarf_nats.store.store import SqlStore

from .arms import Servers
from .bulk import DAY_US, FIRST_ID, MODEL, Beside, copies, servers

RULE = {"name": "bench", "olderThanMs": 86_400_000}
WINDOW_SECONDS = 20.0
ROOM_POSTGRES = """
select sum(pg_total_relation_size(relid))::float8 / 1048576, sum(n_dead_tup)::float8, sum(n_live_tup)::float8,
  sum(autovacuum_count)::float8
from pg_stat_user_tables where relname in ('dwarf_steps', 'dwarf_flows')
"""


async def lay_down(store: SqlStore, flows: int) -> None:
    """Write flows that completed two days ago."""
    ((model, _),) = await store.database.fetch(MODEL)
    ((steps,),) = await store.database.fetch("select count(*) from dwarf_steps where flow_id = $1", model)
    flow, step = f"({FIRST_ID} + n)", f"({FIRST_ID} + n * {steps} + t.depth)"
    ago = {name: f"t.{name} - {2 * DAY_US}" for name in ("created_at", "started_at", "updated_at")}
    await copies(store, "dwarf_flows", model, {"flow_id": flow, "thread_id": flow, "root_id": flow, **ago}, flows=flows)
    linked = {
        "predecessor_id": f"case when t.predecessor_id is not null then {step} - 1 end",
        "successor_id": f"case when t.successor_id is not null then {step} + 1 end",
    }
    await copies(store, "dwarf_steps", model, {"flow_id": flow, "step_id": step, **linked, **ago}, flows=flows)
    await store.database.fetch("analyze")


class Removal(Beside):
    """The service with a load, and a removal in the background."""

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

    async def rate(self, seconds: float) -> float:
        """Steps a second of the load for about so long."""
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            steps += await self.chunk()
        return steps / (time.perf_counter() - began)

    async def ask(self, operation: str, request: dict[str, Any] | None = None) -> Any:
        """The reply to an operation."""
        nc = await nats.connect(self._servers.nats)
        try:
            reply = await nc.request(f"{self._prefix}.{operation}", orjson.dumps(request or {}), timeout=60)
            return orjson.loads(reply.data)
        finally:
            await nc.close()

    async def removed(self) -> int:
        """Flows that the rule has removed so far."""
        (rule,) = (await self.ask("retention.list"))["rules"]
        return int(rule["removed"])

    async def room(self) -> str:
        """Return what the database says of its tables."""
        if not self._on_postgres:
            connection = sqlite3.connect(f"file:{self.dsns[0].removeprefix('sqlite:///')}?mode=ro", uri=True)
            try:
                pages, free, size = (
                    connection.execute(f"pragma {name}").fetchone()[0]
                    for name in ("page_count", "freelist_count", "page_size")
                )
            finally:
                connection.close()
            return f"{pages * size / 2**20:,.0f} MiB, of which {free * size / 2**20:,.0f} MiB free to be used again"
        connection = await asyncpg.connect(self.dsns[0])
        try:
            mib, dead, live, vacuums = await connection.fetchrow(ROOM_POSTGRES)
        finally:
            await connection.close()
        return f"{mib:,.0f} MiB, {live:,.0f} live and {dead:,.0f} dead rows, {vacuums:,.0f} autovacuums"


async def measure(servers: Servers, args: argparse.Namespace) -> None:
    async with Removal("sqlite" if args.sqlite else "postgresql", servers, args.concurrency) as arm:
        await arm.prepare(args.flows)
        print(f"{args.flows:,} flows laid down; {await arm.room()}", flush=True)
        before = await arm.rate(WINDOW_SECONDS)
        await arm.ask("retention.put", RULE)
        while not await arm.removed():  # the first pass comes within a minute
            await arm.rate(1)
        steps, began, first = 0, time.perf_counter(), await arm.removed()
        while (removed := await arm.removed()) < args.flows:
            steps += await arm.chunk()
        seconds = time.perf_counter() - began
        meanwhile = steps / seconds
        after = await arm.rate(WINDOW_SECONDS)
        base = (before + after) / 2
        print(
            f"{removed - first:,} flows removed in {seconds:,.0f} s, {(removed - first) / seconds:,.0f}/s; {await arm.room()}"
        )
        print(
            f"the load: {before:,.0f} steps/s before, {meanwhile:,.0f} meanwhile, {after:,.0f} after; {meanwhile / base:.2f}"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.retention", description=__doc__)
    parser.add_argument("flows", type=int)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    parser.add_argument("--concurrency", type=int, default=64, help="flows of the load at once")
    args = parser.parse_args()
    async with servers(sqlite=args.sqlite) as there:
        await measure(there, args)


if __name__ == "__main__":
    asyncio.run(main())
