"""What an explanation reads: by index, and for a page of flows in one statement (Q2); both databases."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.rules.living import LivingStep, Moment
from dwarf_nats.store.database import Tx
from dwarf_nats.store.dialect import POSTGRES, SQLITE, Sql
from dwarf_nats.store.statements import explain
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.status import Status
from tests.support.stores import is_empty

STEPS = 30_000
"""Steps of flow 1; as many flows have one step each."""
_NUMBERS = {
    "postgres": f"(select generate_series(1, {STEPS}) as n) numbers",
    "sqlite": f"(with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < {STEPS})"
    " select n from numbers) numbers",
}
_FLOWS = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at, root_id)
select n, 't', 'w', 'd', 'running', n, 't', 1, '', 1, '{{}}', '', '', '', 0, n, n, n from {numbers}
"""
_STEPS = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, parked, not_before, priority, fairness_key,
  fairness_weight, created_at, updated_at)
select {step}, {flow}, {depth}, 't', 'a', 'a', '{{}}', {status}, 0, 0, 100, '', 1.0, n, n from {numbers} where n > 1 or {whole}
"""

pytestmark = [pytest.mark.slow, pytest.mark.unused_database]


@pytest.fixture
async def crowded(module_dsn: str) -> AsyncIterator[SqlStore]:
    """A store with a flow of many steps, of which the first lives, and many flows of one living step each."""
    opened = SqlStore(1, module_dsn, pool=4, clock=SystemClock())
    await opened.open("one", migrated=True)
    if await is_empty(opened):
        await fill(opened)
    yield opened
    await opened.close()


async def fill(store: SqlStore) -> None:
    numbers = _NUMBERS["postgres" if "postgres" in store.dsn else "sqlite"]
    await store.database.fetch(_FLOWS.format(numbers=numbers))
    of_one = {"step": "n", "flow": 1, "depth": "n", "status": "case when n = 1 then 'interrupted' else 'completed' end"}
    await store.database.fetch(_STEPS.format(numbers=numbers, whole="n = 1", **of_one))
    of_many = {"step": f"n + {STEPS}", "flow": "n", "depth": 1, "status": "'interrupted'"}
    await store.database.fetch(_STEPS.format(numbers=numbers, whole="n < 1", **of_many))
    if "postgres" in store.dsn:
        await store.database.fetch("analyze")


async def plan(store: SqlStore, sql: Sql, *args: Any) -> str:
    """The plan of a statement, as the store runs it by index."""
    if store.dsn.startswith("sqlite"):
        rows = await store.database.fetch(f"explain query plan {SQLITE.text(sql)}", *args)
        return "\n".join(str(tuple(row)) for row in rows)
    rows = await store.database.transact_by_index(lambda tx: tx.fetch(f"explain {POSTGRES.text(sql)}", *args))
    return "\n".join(line for (line,) in rows)


PAGE = list(range(1, 101))


EACH = pytest.mark.parametrize(
    ("sql", "args", "indexes"),
    [
        (explain.MOMENT, (), ("dwarf_steps_ripe",)),
        (explain.FLOWS, (1, 10), ("dwarf_flows_tree",)),
        (explain.STEPS, ([1], [1], 101), ("dwarf_steps_flow",)),
        (explain.GROUPS, ([1], [1]), ("dwarf_steps_flow",)),
        (explain.OLDEST_RECENT, (PAGE,), ("dwarf_steps_flow", "dwarf_steps_ripe")),
        (explain.OLDEST, (PAGE,), ("dwarf_steps_flow",)),
        (explain.FAILED_STEP, (1,), ("dwarf_steps_flow",)),
        (explain.FAILED_CHILD, (1, 1), ("dwarf_flows_tree",)),
    ],
    ids=["moment", "flows", "steps", "groups", "oldest recent", "oldest", "failed step", "failed child"],
)


@EACH
async def test_statements_read_by_index(
    crowded: SqlStore, sql: Sql, args: Sequence[Any], indexes: Sequence[str]
) -> None:
    """Q2: nothing is read from end to end, however many flows and steps there are."""
    check(await plan(crowded, sql, *args), indexes)


@EACH
async def test_plans_made_on_empty_tables_do_not_read_all_either(
    store: SqlStore, sql: Sql, args: Sequence[Any], indexes: Sequence[str]
) -> None:
    """Q2: a plan lives on when the tables have grown."""
    check(await plan(store, sql, *args), indexes)


def check(shown: str, indexes: Sequence[str]) -> None:
    for index in indexes:
        assert index in shown, shown
    assert not re.search(r"Seq Scan on dwarf_(steps|flows)|SCAN (dwarf_steps|dwarf_flows|f|c)\b(?! USING)", shown), (
        shown
    )


async def test_a_page_of_flows_costs_one_statement_and_a_flow_with_a_long_past_one_more(crowded: SqlStore) -> None:
    """Q2: the last steps of each flow are looked at first; the oldest living step is found wherever it is."""
    run: list[Sql] = []

    class Noted:
        """A transaction that notes its statements."""

        def __init__(self, tx: Tx) -> None:
            self._tx = tx

        async def fetch(self, sql: Sql, *args: Any) -> Any:
            run.append(sql)
            return await self._tx.fetch(sql, *args)

    async def oldest(flow_ids: list[int]) -> tuple[Moment | None, list[LivingStep]]:
        run.clear()
        return await crowded.database.transact_by_index(lambda tx: explain.oldest(Noted(tx), flow_ids))

    moment, steps = await oldest(PAGE[1:])
    assert run == [explain.OLDEST_RECENT]
    assert moment is not None
    assert {step.flow_id: step.step_id for step in steps} == {n: n + STEPS for n in PAGE[1:]}
    _, steps = await oldest(PAGE)
    assert run == [explain.OLDEST_RECENT, explain.OLDEST]
    assert {step.step_id for step in steps if step.flow_id == 1} == {1}
    assert {step.status for step in steps} == {Status.INTERRUPTED}
