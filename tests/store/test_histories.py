"""Pages of histories (O7): in order, complete, and read by index however long a history is; both databases."""

from __future__ import annotations

import re

import pytest

from dwarf_nats.engine.operations.history import MAX_NESTING_LEVELS, PAGE_MAX_NESTED_STEPS, page
from dwarf_nats.errors import BadRequest
from dwarf_nats.rules.rows import FlowRow
from dwarf_nats.store.database import Tx
from dwarf_nats.store.dialect import POSTGRES, SQLITE
from dwarf_nats.store.sqlite import Sqlite
from dwarf_nats.store.statements import histories
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.records import Step
from tests.support.stores import BUDGET, look, new_flow

pytestmark = [pytest.mark.slow, pytest.mark.unused_database]

COPY = (
    "insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, priority,"
    " fairness_key, fairness_weight, predecessor_id, created_at, updated_at)"
    " select $1, $2, $3, token, $4, url, state, 'completed', 0, priority, fairness_key, fairness_weight, $5, 0, 0"
    " from dwarf_steps where step_id = $6"
)


async def no_graph(digest: str) -> None:
    """The graph of a flow that was removed meanwhile."""
    assert digest


async def flow_with(store: SqlStore, steps: int, above: tuple[FlowRow, int] | None = None) -> tuple[FlowRow, list[int]]:
    """A flow of so many steps in a row, called by a step of another one if that is given; the ids of its steps."""
    new = new_flow()
    if above is not None:
        flow, step_id = above
        new.flow.root_id, new.flow.surgraph_flow_id, new.flow.surgraph_step_id = flow.root_id, flow.flow_id, step_id
    await store.steps.create([new], BUDGET)
    first = new.step_id
    ids = [first, *(first * 100_000 + number for number in range(1, steps))]

    async def work(tx: Tx) -> None:
        for depth, step_id in enumerate(ids[1:], 1):
            await tx.fetch(COPY, step_id, new.flow.flow_id, depth, f"n{depth}", ids[depth - 1], first)

    await store.database.transact(work)
    row = await store.flows.by_id(new.flow.flow_id)
    assert row is not None
    return row, ids


async def all_pages(store: SqlStore, flow: FlowRow, limit: int) -> list[list[Step]]:
    pages, cursor = [], ""
    while True:
        steps, cursor = await page(store.histories, flow, cursor, limit, graph_of=no_graph)
        pages.append(steps)
        if not cursor:
            return pages


@pytest.mark.parametrize("limit", [1, 7, 24, 25, 26])
async def test_the_pages_are_the_whole_history_in_order(store: SqlStore, limit: int) -> None:
    """O7: by the flow's own steps; no cursor on the last page, also where that is full."""
    flow, ids = await flow_with(store, 25)
    pages = await all_pages(store, flow, limit)
    assert [step.step_id for steps in pages for step in steps] == ids
    assert [len(steps) for steps in pages[:-1]] == [limit] * (len(pages) - 1)
    assert 1 <= len(pages[-1]) <= limit


async def test_a_history_that_grows_and_shrinks_while_it_is_read_loses_and_doubles_nothing_else(
    store: SqlStore,
) -> None:
    """Wire: histories; a cursor is a place, not a number of steps."""
    flow, ids = await flow_with(store, 12)
    steps, cursor = await page(store.histories, flow, "", 5, graph_of=no_graph)
    await look(store, "delete from dwarf_steps where step_id {in:$1}", ids[2:4])
    await look(store, COPY, 9_999_999_001, flow.flow_id, 1, "late", ids[0], ids[0])
    await look(store, COPY, 9_999_999_002, flow.flow_id, 12, "new", ids[-1], ids[0])
    rest = [*steps]
    while cursor:
        steps, cursor = await page(store.histories, flow, cursor, 5, graph_of=no_graph)
        rest += steps
    assert [step.step_id for step in rest] == [*ids, 9_999_999_002]


async def test_a_child_is_nested_as_far_as_a_page_goes(store: SqlStore) -> None:
    """Wire: histories; of a child no more steps than a page has; the rest is read by its key."""
    flow, ids = await flow_with(store, 3)
    child, inner = await flow_with(store, 10, (flow, ids[1]))
    (steps,) = await all_pages(store, flow, 10)
    assert [step.step_id for step in steps[1].sub_history] == inner
    assert (steps[1].truncated, steps[1].sub_workflow, steps[0].subgraph) == (False, "line", False)
    steps, _ = await page(store.histories, flow, "", 4, graph_of=no_graph)
    assert [step.step_id for step in steps[1].sub_history] == inner[:4]
    assert (steps[1].truncated, steps[1].subgraph) == (True, True)
    assert steps[1].sub_flow_key == f"1-{child.flow_id}-{child.token}"


async def test_histories_are_nested_so_deep_and_no_deeper(store: SqlStore) -> None:
    """P4: what lies below is read by the key of the last flow that is nested."""
    above, ids = root, _ = await flow_with(store, 1)
    for _ in range(MAX_NESTING_LEVELS + 3):
        above, ids = await flow_with(store, 1, (above, ids[0]))
    seen, flow = 0, root
    while True:
        (step,), cursor = await page(store.histories, flow, "", 10, graph_of=no_graph)
        assert cursor == ""
        levels = 0
        while step.sub_history:
            (step,) = step.sub_history
            levels += 1
        seen += levels
        assert levels <= MAX_NESTING_LEVELS
        if not step.truncated:
            break
        assert (levels, step.subgraph) == (MAX_NESTING_LEVELS, True)
        assert step.sub_flow_key is not None
        below = await store.flows.by_id(int(step.sub_flow_key.split("-")[1]))
        assert below is not None
        flow, seen = below, seen + 1
    assert seen == MAX_NESTING_LEVELS + 3


async def test_a_page_of_many_wide_children_ends_early(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wire: histories; a page costs no more than so many steps, and what it has is complete."""
    monkeypatch.setattr("dwarf_nats.engine.operations.history.PAGE_MAX_NESTED_STEPS", 30)
    flow, ids = await flow_with(store, 9)
    for step_id in ids:
        await flow_with(store, 9, (flow, step_id))
    pages = await all_pages(store, flow, 9)
    assert [len(steps) for steps in pages] == [3, 3, 3]
    assert all(len(step.sub_history) == 9 and not step.truncated for steps in pages for step in steps)
    assert PAGE_MAX_NESTED_STEPS > 1_000
    monkeypatch.setattr("dwarf_nats.engine.operations.history.PAGE_MAX_NESTED_STEPS", 5)
    pages = await all_pages(store, flow, 9)
    assert [len(steps) for steps in pages] == [1] * 9
    assert all(len(step.sub_history) == 5 and step.truncated for (step,) in pages)


async def test_a_cursor_of_no_page_is_a_400(store: SqlStore) -> None:
    flow, _ = await flow_with(store, 1)
    with pytest.raises(BadRequest, match="malformed cursor"):
        await page(store.histories, flow, "nonsense", 10, graph_of=no_graph)


async def plan_of(store: SqlStore, sql: str, *args: object) -> str:
    """How a statement is carried out on tables of some size."""
    if isinstance(store.database, Sqlite):
        rows = await store.database.fetch(f"explain query plan {SQLITE.text(sql)}", *args)
        return "\n".join(str(line) for *_, line in rows)
    rows = await store.database.fetch(f"explain {POSTGRES.text(sql)}", *args)
    return "\n".join(str(line) for (line,) in rows)


async def test_every_page_is_read_by_index_and_nothing_is_sorted(store: SqlStore) -> None:
    """O7: the last page of 10,000 steps costs what the first one does."""
    flow, ids = await flow_with(store, 1_500)
    for _ in range(300):
        await flow_with(store, 1)
    if not isinstance(store.database, Sqlite):
        await look(store, "analyze dwarf_steps")
    for sql, args in (
        (histories.PAGE, (flow.flow_id, 1_200, ids[1_200], 100)),
        (histories.ENTRY, (flow.flow_id,)),
        (histories.LAST, (flow.flow_id,)),
        (histories.first_steps(8), (100, *[flow.flow_id] * 8)),
    ):
        plan = await plan_of(store, sql, *args)
        used = re.findall(r"(?:using|USING) (?:INDEX |index )?(\w+)", plan)
        assert set(used) == {"dwarf_steps_flow"}, plan
        assert not re.search(r"Seq Scan|Bitmap|\bSort\b|TEMP B-TREE|SCAN dwarf", plan), plan
