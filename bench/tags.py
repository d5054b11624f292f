"""Finding flows by tags among very many: `python -m bench.tags 10000000`, or `… --sqlite` (Q1).

Flows are laid down by SQL, each with a tag that all have and one that only it has; three have the tag that is looked for. Then
each list is read several times through the store, as a replica reads it, and the median is printed. The database is made in a
folder of its own and removed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from dwarf_nats.clock import SystemClock
from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.status import Status

BATCH_FLOWS = 250_000
"""Flows laid down in one statement."""
READS = 21
"""Reads of each list, of which the median is shown; those before count as warm-up."""
FLOWS = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, final_state, created_at, started_at,
  updated_at, root_id, tags)
{numbers}select n, 'a1B2c3D4e5F6g7H8', 'order', 'd', case when n % 1000 = 0 then 'failed' else 'completed' end, n,
  'a1B2c3D4e5F6g7H8', 100, '', 1.0, '{{}}', '', '', '', 0, '{{"total":12.5}}', 1000 * n, 1000 * n, 1000 * n, n,
  '{{"env":"prod","order":' || n || '}}' from numbers
"""
TAGS = """
insert into dwarf_tags (tag, created_at, flow_id)
{numbers}select 'env=prod', 1000 * n, n from numbers union all select 'order=' || n, 1000 * n, n from numbers
"""
LOOKED_FOR = "insert into dwarf_tags (tag, created_at, flow_id) values ('customer=4711', $1, $2)"
NUMBERS = {
    False: "with numbers as (select generate_series(cast({} as bigint), {}) as n) ",
    True: "with recursive numbers(n) as (select {} union all select n + 1 from numbers where n < {}) ",
}
QUERIES = {
    "customer=4711": Query(tags={"customer": 4711}),
    "customer=4711 and env=prod": Query(tags={"env": "prod", "customer": 4711}),
    "customer=4711, completed": Query(tags={"customer": 4711}, status=Status.COMPLETED),
    "env=prod, the newest 100": Query(tags={"env": "prod"}),
    "env=prod, failed, the newest 100": Query(tags={"env": "prod"}, status=Status.FAILED),
    "nobody=has-it": Query(tags={"nobody": "has-it"}),
}


async def fill(store: SqlStore, flows: int, sqlite: bool) -> None:
    """Lay down so many flows with their tags."""
    for first in range(1, flows + 1, BATCH_FLOWS):
        numbers = NUMBERS[sqlite].format(first, min(first + BATCH_FLOWS, flows + 1) - 1)
        await store.database.fetch(FLOWS.format(numbers=numbers))
        await store.database.fetch(TAGS.format(numbers=numbers))
    for flow_id in (flows // 4 + 1, flows // 2 + 1, flows - 1):
        await store.database.fetch(LOOKED_FOR, 1000 * flow_id, flow_id)
    await store.database.fetch("analyze")


async def measure(dsn: str, flows: int, sqlite: bool) -> None:
    store = SqlStore(1, dsn, pool=2, clock=SystemClock())
    await store.open("bench", migrated=True)
    try:
        begun = time.perf_counter()
        await fill(store, flows, sqlite)
        print(f"{flows:,} flows laid down in {time.perf_counter() - begun:.0f} s; {store.label.partition(' at ')[0]}")
        for name, query in QUERIES.items():
            took, found = [], 0
            for _ in range(READS):
                begun = time.perf_counter()
                rows, _ = await store.flows.list_page(query, 100, None, "")
                took.append((time.perf_counter() - begun) * 1000)
                found = len(rows)
            print(f"{name:<34} {found:>4} flows  first {took[0]:8.2f} ms  median {statistics.median(took):8.2f} ms")
    finally:
        await store.close()


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.tags", description=__doc__)
    parser.add_argument("flows", type=int)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    args = parser.parse_args()
    if args.sqlite:
        with tempfile.TemporaryDirectory(prefix="dwarf-tags-") as folder:
            await measure(f"sqlite:///{Path(folder) / 'dwarf.db'}", args.flows, args.sqlite)
        return
    server = PostgresServer(fast=True)
    await server.start()
    try:
        await measure(await server.create_database("tags"), args.flows, args.sqlite)
    finally:
        await server.stop("immediate")


if __name__ == "__main__":
    asyncio.run(main())
