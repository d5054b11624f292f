"""Removal of very many old flows beside a load: `python -m bench.retention 1000000`, or `… --sqlite` (M2).

Flows are laid down by SQL as completed two days ago. Then a rule is put that removes all that are older than a day, beside a
load of other flows. Shown are what the load gets done before, meanwhile and afterwards, and what the database says of the
room: pages, dead rows and vacuums of PostgreSQL, pages and free pages of SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import nats
import orjson

from dwarf_nats.store.store import SqlStore

from .arms import Servers
from .bulk import DAY_US, Beside, servers
from .room import FIRST_ID, MODEL, Costs, copies

RULE = {"name": "bench", "olderThanMs": 86_400_000}
WINDOW_SECONDS = 20.0


async def lay_down(store: SqlStore, flows: int, first_id: int) -> None:
    """Write flows that completed two days ago."""
    ((model, _),) = await store.database.fetch(MODEL)
    ((steps,),) = await store.database.fetch("select count(*) from dwarf_steps where flow_id = $1", model)
    flow, step = f"({first_id} + n)", f"({first_id} + n * {steps} + t.depth)"
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

    steps_run = 0
    """Steps of the load in the last window."""

    async def write_flows(self, store: SqlStore, flows: int, first_id: int) -> None:
        await lay_down(store, flows, first_id)

    async def rate(self, seconds: float) -> float:
        """Steps a second of the load for about so long."""
        self.steps_run, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            self.steps_run += await self.chunk()
        return self.steps_run / (time.perf_counter() - began)

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


async def measure(servers: Servers, args: argparse.Namespace) -> None:
    async with Removal("sqlite" if args.sqlite else "postgresql", servers, args.concurrency) as arm:
        await arm.prepare(args.flows)
        print(f"{args.flows:,} flows laid down; {await arm.room()}", flush=True)
        costs, spent = Costs(), await arm.spent()
        before = await arm.rate(WINDOW_SECONDS)
        costs.alone.add(spent, await arm.spent(), arm.steps_run)
        await arm.ask("retention.put", RULE)
        while not await arm.removed():  # the first pass comes within a minute
            await arm.rate(1)
        steps, began, first, spent = 0, time.perf_counter(), await arm.removed(), await arm.spent()
        while (removed := await arm.removed()) < args.flows and time.perf_counter() - began < args.at_most:
            steps += await arm.chunk()
        seconds = time.perf_counter() - began
        costs.together.add(spent, await arm.spent(), steps, removed - first)
        meanwhile = steps / seconds
        stopped = "" if removed >= args.flows else ", stopped there"
        print(
            f"{removed - first:,} flows removed in {seconds:,.0f} s, {(removed - first) / seconds:,.0f}/s{stopped};"
            f" {await arm.room()}; {costs.text()}",
            flush=True,
        )
        await arm.ask("retention.delete", {"name": RULE["name"]})
        after = await arm.rate(WINDOW_SECONDS)
        base = (before + after) / 2
        print(
            f"the load: {before:,.0f} steps/s before, {meanwhile:,.0f} meanwhile, {after:,.0f} after; {meanwhile / base:.2f}"
        )
        await arm.lay_down_offline(args.flows, 2 * FIRST_ID)
        print(f"with as many laid down again: {await arm.room()}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.retention", description=__doc__)
    parser.add_argument("flows", type=int)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    parser.add_argument("--at-most", type=float, default=1800, help="seconds for the removal, 1800 by default")
    parser.add_argument("--concurrency", type=int, default=64, help="flows of the load at once")
    args = parser.parse_args()
    async with servers(sqlite=args.sqlite) as there:
        await measure(there, args)


if __name__ == "__main__":
    asyncio.run(main())
