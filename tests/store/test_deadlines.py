"""Waits that are timed out: of interrupts and for events, by index, once (P6, E2, C5), on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.errors import Conflict
from dwarf_nats.rules import parking
from dwarf_nats.rules.settlement import Settlement
from dwarf_nats.rules.steps import ClaimedStep, StepRef
from dwarf_nats.store.statements import deadlines
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.state import Raw, state_from
from dwarf_nats.workflow.status import Parked
from tests.support.stores import (
    BUDGET,
    GRAPH,
    born,
    claim_all,
    flow_status,
    look,
    new_flow,
    one_claimed,
    step_status,
    tokens,
)

MINUTE_MS = 60_000


def paused(step: ClaimedStep, timeout_ms: int | None) -> Settlement:
    return parking.interrupted(step, step.changes, Raw(b'"go on?"'), timeout_ms=timeout_ms)


async def one_paused(store: SqlStore, timeout_ms: int | None = 0) -> ClaimedStep:
    """A step of a new flow that is interrupted; with 0 its deadline has passed."""
    step = await one_claimed(store)
    await store.steps.settle([paused(step, timeout_ms)], BUDGET)
    return step


async def one_waiting(store: SqlStore, *, passed: bool = True) -> ClaimedStep:
    """A step of a new flow that waits for an event."""
    step = await one_claimed(store)
    await store.database.fetch(
        f"update dwarf_steps set parked = {Parked.EVENT:d}, claimed_by = null, lease_expires = null,"
        " wait_event = 'paid', wait_key = '7', wait_until = {now} + $2 where step_id = $1",
        step.step_id,
        0 if passed else MINUTE_MS * 1000,
    )
    return step


async def resumed(store: SqlStore, flow_id: int) -> None:
    row = await store.flows.by_id(flow_id)
    assert row is not None
    await store.control.resume(row, '"yes"')


async def test_a_passed_deadline_continues_the_step_and_its_flow(store: SqlStore) -> None:
    """P6: the step is due, marked, and without the payload; the flow runs."""
    step = await one_paused(store)
    result = await store.control.time_out_waits(10)
    assert (result.count, result.next_in) == (1, None)
    assert [(one.flow_id, one.status) for one in result.change.changed] == [(step.flow.flow_id, "running")]
    assert [one.step_id for one in result.change.due] == [step.step_id]
    (row,) = await claim_all(store, 10, BUDGET)
    assert (row.step_id, row.interrupt_timed_out, row.resumed, row.event) == (step.step_id, 1, None, None)
    assert await look(store, "select interrupt_payload, wait_until from dwarf_steps") == [(None, None)]


async def test_a_wait_for_an_event_ends_by_its_deadline(store: SqlStore) -> None:
    """E2: the flow runs all the time, so nothing changes its status."""
    step = await one_waiting(store)
    result = await store.control.time_out_waits(10)
    assert result.change.changed == []
    assert [one.step_id for one in result.change.due] == [step.step_id]
    (row,) = await claim_all(store, 10, BUDGET)
    assert row.event is not None
    assert (row.step_id, json.loads(row.event), row.interrupt_timed_out) == (step.step_id, {"timedOut": True}, 0)


async def test_what_is_not_due_waits_on_and_its_time_is_told(timed: SqlStore, manual: ManualClock) -> None:
    """C5: to the microsecond, and by the heartbeat too."""
    later, sooner = await one_paused(timed, 2 * MINUTE_MS), await one_paused(timed, MINUTE_MS)
    await one_paused(timed, None)
    manual.advance(59.999999)
    assert (await timed.replicas.heartbeat("one")).deadline_in == 1
    result = await timed.control.time_out_waits(10)
    assert (result.count, result.next_in) == (0, 1)
    manual.advance(0.000001)
    result = await timed.control.time_out_waits(10)
    assert ([one.step_id for one in result.change.due], result.next_in) == ([sooner.step_id], 60_000_000)
    manual.advance(70)
    assert (await timed.replicas.heartbeat("one")).deadline_in == 0
    assert [one.step_id for one in (await timed.control.time_out_waits(10)).change.due] == [later.step_id]
    assert (await timed.replicas.heartbeat("one")).deadline_in is None


async def test_one_transaction_continues_so_many_and_says_that_more_have_passed(store: SqlStore) -> None:
    """C5: bounded, those first whose deadline passed first."""
    steps = [await one_paused(store) for _ in range(2)] + [await one_waiting(store)]
    seen = []
    for left in (2, 1, 0):
        result = await store.control.time_out_waits(1)
        seen += [one.step_id for one in result.change.due]
        assert result.count == 1
        assert (result.next_in is not None and result.next_in <= 0) is (left > 0)
    assert seen == [step.step_id for step in steps]
    assert (await store.control.time_out_waits(1)).count == 0


async def test_the_flows_up_to_the_root_run_again_unless_another_pause_is_left(store: SqlStore) -> None:
    """P2, P6: a child whose interrupt timed out, beside one that is still paused."""
    roots = [await one_claimed(store) for _ in range(2)]
    inner = []
    for root in roots:
        child = parking.Child(GRAPH, GRAPH.digest(), new_flow().flow.flow_id, tokens())
        settlement = parking.waiting(root, {}, state_from({}), child=child, entry=StepRef(new_flow().step_id, tokens()))
        assert settlement.child is not None
        settlement.child.eager = True
        await store.steps.settle([settlement], BUDGET)
        inner.append(born(settlement.child))
    # The second root has a paused step of its own, too.
    own = await one_claimed(store)
    await store.database.fetch(
        "update dwarf_steps set flow_id = $2 where step_id = $1", own.step_id, roots[1].flow.flow_id
    )
    own.flow = roots[1].flow
    await store.steps.settle([paused(step, 0) for step in inner] + [paused(own, None)], BUDGET)
    result = await store.control.time_out_waits(10)
    assert result.count == 2
    free = {inner[0].flow.flow_id, roots[0].flow.flow_id, inner[1].flow.flow_id}
    assert {one.flow_id for one in result.change.changed} == free
    assert await flow_status(store, roots[1].flow.flow_id) == "interrupted"
    await resumed(store, roots[1].flow.flow_id)
    assert await flow_status(store, roots[1].flow.flow_id) == "running"


async def test_a_resumed_step_has_no_deadline_any_more(store: SqlStore) -> None:
    """P6: whoever comes first counts."""
    step = await one_paused(store)
    await resumed(store, step.flow.flow_id)
    result = await store.control.time_out_waits(10)
    assert (result.count, result.next_in) == (0, None)
    (row,) = await claim_all(store, 10, BUDGET)
    assert (row.resumed, row.interrupt_timed_out) == ('"yes"', 0)


async def test_a_resume_after_the_deadline_is_refused(store: SqlStore) -> None:
    step = await one_paused(store)
    await store.control.time_out_waits(10)
    with pytest.raises(Conflict, match="to be resumed it must be interrupted"):
        await resumed(store, step.flow.flow_id)


async def test_a_step_that_pauses_again_without_a_deadline_has_none(store: SqlStore) -> None:
    step = await one_paused(store, MINUTE_MS)
    await resumed(store, step.flow.flow_id)
    await store.database.fetch("update dwarf_steps set wait_until = 1 where step_id = $1", step.step_id)
    await claim_all(store, 10, BUDGET)
    step.lease_seq += 1
    await store.steps.settle([paused(step, None)], BUDGET)
    assert await step_status(store, step.step_id) == "interrupted"
    assert (await store.control.time_out_waits(10)).count == 0


async def test_cancelled_waits_have_no_deadline(store: SqlStore) -> None:
    """O10: neither of an interrupt nor for an event."""
    for step in (await one_paused(store, 0), await one_waiting(store)):
        row = await store.flows.by_id(step.flow.flow_id)
        assert row is not None
        await store.control.cancel(row, "", lambda _flow, _steps: b"{}")
    result = await store.control.time_out_waits(10)
    assert (result.count, result.next_in) == (0, None)


# -- several replicas


@pytest.mark.slow
async def test_a_locked_step_is_passed_over_and_comes_later(pg_stores: tuple[SqlStore, SqlStore], pg_dsn: str) -> None:
    """X10: who has locked it continues it, or rolls back."""
    first, second = await one_paused(pg_stores[0]), await one_paused(pg_stores[0])
    connection = await asyncpg.connect(pg_dsn)
    async with connection.transaction():
        await connection.execute("select 1 from dwarf_steps where step_id = $1 for update", first.step_id)
        result = await pg_stores[1].control.time_out_waits(10)
        assert [one.step_id for one in result.change.due] == [second.step_id]
        assert result.next_in is not None
        assert result.next_in <= 0
    await connection.close()
    result = await pg_stores[1].control.time_out_waits(10)
    assert [one.step_id for one in result.change.due] == [first.step_id]


@pytest.mark.slow
async def test_a_resume_and_two_deadlines_at_once_continue_a_step_once(pg_stores: tuple[SqlStore, SqlStore]) -> None:
    """P6: resume or deadline, never both, and the flow changes its status once."""
    one, two = pg_stores
    steps = [await one_paused(one) for _ in range(40)]

    async def resume(step: ClaimedStep) -> bool:
        try:
            await resumed(two, step.flow.flow_id)
        except Conflict:
            return False
        return True

    by_resume, *by_time = await asyncio.gather(
        asyncio.gather(*(resume(step) for step in steps[::-1])),
        *(store.control.time_out_waits(3) for store in (one, two) * 10),
    )
    late = await one.control.time_out_waits(100)
    timed_out = [due.step_id for result in [*by_time, late] for due in result.change.due]
    assert len(timed_out) == len(set(timed_out))
    assert sum(by_resume) + len(timed_out) == len(steps)
    rows = await claim_all(one, 100, BUDGET)
    assert len(rows) == len(steps)
    assert {row.step_id for row in rows if row.interrupt_timed_out} == set(timed_out)
    assert all((row.resumed is None) is bool(row.interrupt_timed_out) for row in rows)
    assert await look(one, "select distinct status from dwarf_flows") == [("running",)]


# -- plans

WAITS = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, parked, not_before, priority,
  fairness_key, fairness_weight, created_at, updated_at, wait_event, wait_key, wait_until)
select n, 1, 1, 't', 'a', 'a', '{{}}', case when n % 2 = 0 then 'interrupted' else 'running' end,
  case when n % 2 = 0 then 0 else {event} end, n, 1, '', 1, n, n, 'paid', '', case when n % 3 = 0 then null else {far} + n end
from {numbers}
"""
FAR = 8_000_000_000_000_000
COUNT = 100_000
STATEMENTS = {"lock": (deadlines.LOCK_PASSED, (100,)), "next": (deadlines.NEXT_AND_NOW, ())}


@pytest.mark.slow
@pytest.mark.unused_database
@pytest.mark.parametrize("name", STATEMENTS)
@pytest.mark.parametrize("analysed", [False, True])
async def test_100_000_waits_cost_one_probe(pg_dsn: str, name: str, analysed: bool) -> None:
    """C5: the next deadline is the first entry of its index, whatever the planner knows of the table."""
    sql, args = STATEMENTS[name]
    store = SqlStore(1, pg_dsn, pool=1, clock=ManualClock())
    await store.open("one", migrated=True)
    numbers = f"generate_series(1::bigint, {COUNT}::bigint) n"
    await store.database.fetch(WAITS.format(event=int(Parked.EVENT), far=FAR, numbers=numbers))
    if analysed:
        await store.database.fetch("analyze dwarf_steps")

    async def explained(tx: Any) -> str:
        text = str(sql).replace("$1", str(args[0]) if args else "")
        rows = await tx.fetch(f"explain (analyze, buffers, format json) {text}")
        return str(rows[0][0])

    plan = await store.database.transact_by_index(explained)
    await store.close()
    assert "dwarf_steps_deadlines" in plan, plan
    assert "Seq Scan" not in plan, plan
    root = json.loads(plan)[0]["Plan"]
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] <= 12, plan


@pytest.mark.slow
@pytest.mark.parametrize("analysed", [False, True])
async def test_a_heartbeat_finds_the_next_of_100_000_deadlines_by_index(pg_dsn: str, analysed: bool) -> None:
    """C5: on an ordinary connection, with which a table might be read from end to end."""
    store = SqlStore(1, pg_dsn, pool=1, clock=ManualClock())
    await store.open("one", migrated=True)
    numbers = f"generate_series(1::bigint, {COUNT}::bigint) n"
    await store.database.fetch(WAITS.format(event=int(Parked.EVENT), far=FAR, numbers=numbers))
    if analysed:
        await store.database.fetch("analyze dwarf_steps")
    rows = await store.database.fetch(f"explain (analyze, buffers, format json) {deadlines.NEXT_DEADLINE}")
    assert (await store.replicas.heartbeat("one")).deadline_in is not None
    await store.close()
    plan = json.loads(rows[0][0])[0]["Plan"]
    assert "dwarf_steps_deadlines" in json.dumps(plan), plan
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= 6, plan


async def test_sqlite_finds_deadlines_by_their_index(timed: SqlStore) -> None:
    numbers = (
        f"(with recursive c(n) as (select 1 union all select n + 1 from c where n < {COUNT // 10}) select n from c)"
    )
    await timed.database.fetch(WAITS.format(event=int(Parked.EVENT), far=FAR, numbers=numbers))
    for sql, args in STATEMENTS.values():
        plan = str([line for *_, line in await timed.database.fetch(f"explain query plan {sql}", *args)])
        assert "dwarf_steps_deadlines" in plan, plan
        assert "TEMP B-TREE" not in plan, plan
        assert "SCAN dwarf_steps" not in plan or "SCAN dwarf_steps USING INDEX dwarf_steps_deadlines" in plan, plan
