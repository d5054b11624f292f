"""Every statement of bulk operations and of retention reads by index, however large the tables are (M1, M2).

The operations run on large tables, and each statement is explained before it runs, with its own values.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.store.commands import carried_out
from dwarf_nats.store.database import Operation, Row, T
from dwarf_nats.store.dialect import POSTGRES, SQLITE, Sql
from dwarf_nats.store.statements import bulk, delete, listing, retention, tags
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.bulk import BulkAction
from dwarf_nats.workflow.options import Query

pytestmark = pytest.mark.slow
COUNT = 30_000
FLOWS = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at, root_id,
  surgraph_flow_id, surgraph_step_id, tags)
select n, 't', 'w', 'd', case when n % 3 = 0 then 'running' when n % 3 = 1 then 'failed' else 'completed' end, n, 't', 1, '',
  1, '{}', '', case when n % 5 = 0 then 'k' || n else '' end, '', 0, n, n,
  case when n % 20 in (8, 9) then n - n % 20 else n end,
  case when n % 20 in (8, 9) then n - n % 20 end, case when n % 20 in (8, 9) then n end, '{"batch":7}' from numbers
"""
STEPS = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, priority, fairness_key,
  fairness_weight, created_at, updated_at, predecessor_id)
select n, n - n % 2, n % 2, 't', 'a', 'a', '{}', case when n % 6 = 0 then 'pending' when n % 4 = 0 then 'failed'
  else 'completed' end, n, 1, '', 1, n, n, case when n % 2 = 1 then n - 1 end from numbers
"""
TAGS = "insert into dwarf_tags (tag, created_at, flow_id) select 'batch=7', n, n from numbers"
KEYS = """
insert into dwarf_keys (fairness_key, idempotency_key, shard, flow_id, token, request_digest, created_at)
select '', 'k' || n, 0, n, 't', '', n from numbers
"""
PLACED = """
insert into dwarf_placed (flow_id, fairness_key, idempotency_key, gone, updated_at)
select n, '', 'k' || n, 0, n from numbers
"""
NUMBERS = f"with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < {COUNT})"
SMALL = ("dwarf_tripped", "dwarf_tripped_pkey", "dwarf_retention", "dwarf_flows_compensating")
"""Tables and an index that do not grow with the flows: tasks, rules, and flows that are being compensated."""
IDS = list(range(10, 4_010, 10))
"""Root flows, some of each status."""
Work = Callable[[Any], Awaitable[Any]]


class Explaining:
    """A transaction that explains each statement before it runs it."""

    def __init__(self, tx: Any, on_postgres: bool) -> None:
        self._tx = tx
        self._on_postgres = on_postgres
        self.read_whole: list[str] = []
        self.statements = 0

    async def fetch(self, sql: Sql, *args: Any) -> list[Row]:
        self.statements += 1
        if self._on_postgres:
            ((shown,),) = await self._tx.fetch(f"explain (format json) {POSTGRES.text(sql)}", *args)
            found = [*whole_on_postgres(json.loads(shown)[0]["Plan"])]
        else:
            lines = await self._tx.fetch(f"explain query plan {SQLITE.text(sql)}", *args)
            found = [line for *_, line in lines if re.match(r"SCAN (?!r$|r |json_each)", line)]
            found = [line for line in found if not line.split()[1].startswith(SMALL)]
        self.read_whole += [f"{one}: {sql}" for one in found]
        return list(await self._tx.fetch(sql, *args))

    async def run(self, operation: Operation[T]) -> T:
        result: T = await self._tx.run(operation)
        return result


def whole_on_postgres(plan: dict[str, Any]) -> Iterator[str]:
    """The tables and indexes that a plan reads from end to end."""
    kind = plan["Node Type"]
    whole = plan.get("Relation Name") if kind == "Seq Scan" else plan.get("Index Name")
    if whole and "Index Cond" not in plan and whole not in SMALL:
        yield whole
    for one in plan.get("Plans", ()):
        yield from whole_on_postgres(one)


@pytest.fixture(params=["analyzed", "as it was filled"])
async def crowded(dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[SqlStore]:
    """A store with many flows of every kind, of which the planner has been told or not."""
    store = SqlStore(1, dsn, pool=2, clock=SystemClock())
    await store.open("one", migrated=True)
    for insert in (FLOWS, STEPS, TAGS, KEYS, PLACED):
        into, _, select = insert.strip().partition("select ")
        text = (
            f"{NUMBERS} {into} select {select}" if dsn.startswith("postgres") else f"{into} {NUMBERS} select {select}"
        )
        await store.database.fetch(text)
    if request.param == "analyzed":
        await store.database.fetch("analyze")
    yield store
    await store.close()


async def explained(store: SqlStore, work: Work) -> int:
    """Do the work with each statement explained; return the number of statements."""
    seen: list[Explaining] = []

    async def do(tx: Any) -> None:
        seen.append(Explaining(tx, "postgres" in store.dsn))
        await work(seen[-1])

    await store.database.transact_by_index(do)
    assert seen[-1].read_whole == []
    return seen[-1].statements


async def test_cancels_and_restarts_of_many_read_by_index_m1(crowded: SqlStore) -> None:
    def cancel(tx: Any) -> Awaitable[Any]:
        return bulk.cancel(tx, IDS, "", final_state=lambda *_: b"{}", compensates=lambda _: False)

    assert await explained(crowded, cancel) == 8
    assert await explained(crowded, lambda tx: bulk.restart(tx, IDS)) >= 8
    assert await explained(crowded, lambda tx: bulk.failed_steps(tx, 1, 20, 10**9)) == 2


async def test_removals_of_many_read_by_index_m1_m2(crowded: SqlStore) -> None:
    assert await explained(crowded, lambda tx: delete.delete_not_running(tx, IDS[:200])) >= 7
    assert await explained(crowded, lambda tx: retention.look(tx, (5_000, 0), 1_000, 1_000)) == 1
    assert await explained(crowded, lambda tx: retention.remove(tx, IDS[200:], lambda *_: "rule")) >= 8
    assert await explained(crowded, lambda tx: retention.note_run(tx, ["rule"])) == 2


async def test_a_page_of_members_is_read_in_the_order_of_its_index_m1(crowded: SqlStore) -> None:
    """For each action and filter; the flows for which it was done are left out on the way."""
    after = await crowded.bulk.begin()
    for action in BulkAction:
        for query in (Query(tags={"batch": 7}), Query(workflow="w"), Query(status="failed")):

            async def page(tx: Any, query: Query = query, action: BulkAction = action) -> None:
                await listing.members(
                    tx, 1, query, thread_id=None, after=after, undone=bulk.UNDONE[action], limit=1_001
                )

            assert await explained(crowded, page) >= 1


async def test_a_tag_is_set_by_index_m1(crowded: SqlStore) -> None:
    assert await explained(crowded, lambda tx: carried_out(tx, tags.change(40, {"batch": None, "seen": True}))) >= 2
