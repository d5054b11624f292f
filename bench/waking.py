"""Steps that wait behind a limit in very many keys, and are woken: `python -m bench.waking 100000`, or `… --sqlite` (K1).

Each flow has a fairness key of its own and asks one task twice. The limit lets each key begin once a day, so every second step
waits, each in a queue of its own. Then the limit is raised, and later another time removed: what counts is how long it takes
until all flows have ended, and the CPU time of the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.limit import BY_FAIRNESS_KEY, Limit
from dwarf_nats.workflow.options import FlowOptions

AT_ONCE = 256
DAILY = 1 / 86_400
COUNT = "select count(*) from dwarf_flows where status = 'completed'"


class Keys:
    """An engine whose flows have a key each, and the limit that they wait for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._graph = Graph("twice")
        self._graph.add_task("first", "task")
        self._graph.add_task("second", "task")
        self._graph.add_chain("first", "second", END)

    async def limit(self, per_second: float) -> None:
        """Let each key begin so often."""
        await self._engine.put_limit(
            Limit(name="each", task="task", by=BY_FAIRNESS_KEY, per_second=per_second, burst=1)
        )

    async def fill(self, flows: int, name: str) -> float:
        """Create flows, and return the seconds until all their second steps wait."""
        began = time.perf_counter()
        turns = asyncio.Semaphore(AT_ONCE)

        async def create(number: int) -> None:
            async with turns:
                await self._engine.create(self._graph, None, FlowOptions(fairness_key=f"{name}{number}"), start=True)

        for first in range(0, flows, 10_000):
            await asyncio.gather(*(create(number) for number in range(first, min(first + 10_000, flows))))
        waiting = 0
        while waiting < flows:
            await asyncio.sleep(0.2)
            waiting = sum(one.waiting for one in await self._engine.list_limits())
        return time.perf_counter() - began

    async def completed(self) -> int:
        """The flows that have completed."""
        store: Any = self._engine.shards[1].store
        ((count,),) = await store.database.fetch(COUNT)
        return int(count)

    async def until(self, flows: int) -> str:
        """Wait until so many flows have completed; say how long that took, and what it cost."""
        began, spent, before = time.perf_counter(), time.process_time(), await self.completed()
        half = 0.0
        while (done := await self.completed()) < flows:
            if not half and done - before >= (flows - before) / 2:
                half = time.perf_counter() - began
            await asyncio.sleep(0.1)
        took, cpu = time.perf_counter() - began, time.process_time() - spent
        woken = flows - before
        pace = f"{woken:,} in {took:.1f} s ({half:.1f} s for half of them), {woken / took:,.0f}/s"
        return f"{pace}; engine {cpu / woken * 1e6:.0f} µs each"


async def nothing() -> None:
    """The task."""


@asynccontextmanager
async def database(*, sqlite: bool) -> AsyncIterator[str]:
    """A new database."""
    if sqlite:
        with TemporaryDirectory(prefix="dwarf-bench-") as folder:
            yield f"sqlite:///{Path(folder) / 'waking.db'}"
        return
    async with PostgresServer() as server:
        yield await server.create_database("waking")


async def measure(flows: int, *, sqlite: bool) -> None:
    proxy = TaskProxy()
    proxy.handle_task("task", nothing)
    async with database(sqlite=sqlite) as dsn:
        engine = open_engine([dsn], tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0))
        await engine.startup()
        try:
            keys = Keys(engine)
            await keys.limit(DAILY)
            print(f"{flows:,} steps wait in as many keys after {await keys.fill(flows, 'a'):.1f} s", flush=True)
            await keys.limit(1_000.0)
            print(f"the limit raised:  {await keys.until(flows)}", flush=True)
            await keys.limit(DAILY)
            await keys.fill(flows, "b")
            await engine.delete_limit("each")
            print(f"the limit removed: {await keys.until(2 * flows)}", flush=True)
        finally:
            await engine.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.waking", description=__doc__)
    parser.add_argument("flows", type=int)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    args = parser.parse_args()
    asyncio.run(measure(args.flows, sqlite=args.sqlite))


if __name__ == "__main__":
    main()
