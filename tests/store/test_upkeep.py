"""Leases, replicas and what leaves by itself (B2, B3, B6, O1)."""

from __future__ import annotations

from dwarf_nats.clock import ManualClock
from dwarf_nats.store.store import SqlStore
from tests.support.stores import (
    BUDGET,
    born,
    cancel,
    claim_all,
    ended,
    flow_status,
    in_flight,
    look,
    new_flow,
    next_due,
    one_claimed,
    step_status,
    went_on,
)

SECOND = 1_000_000


async def test_steps_of_a_silent_replica_go_back_to_pending(store: SqlStore) -> None:
    """B2, and X1: its late result is fenced."""
    step = await one_claimed(store)
    assert await store.replicas.reclaim_expired_leases(10_000) == 0
    await look(store, "update dwarf_replicas set seen_at = seen_at - 11000000")
    assert await store.replicas.reclaim_expired_leases(10_000) == 1
    assert await step_status(store, step.step_id) == "pending"
    assert (await store.steps.settle([went_on(step)], BUDGET)).applied == {}
    again = in_flight((await claim_all(store, 1, BUDGET))[0])
    assert again.lease_seq == step.lease_seq + 1
    assert (await store.steps.settle([went_on(step)], BUDGET)).applied == {}
    assert len((await store.steps.settle([went_on(again)], BUDGET)).applied) == 1


async def test_a_step_past_its_own_lease_goes_back_to_pending(store: SqlStore) -> None:
    step = await one_claimed(store)
    kept = await one_claimed(store)
    await look(store, "update dwarf_steps set lease_expires = 1 where step_id = $1", step.step_id)
    assert await store.replicas.reclaim_expired_leases(10_000) == 1
    assert await step_status(store, step.step_id) == "pending"
    assert await step_status(store, kept.step_id) == "running"


async def test_parked_steps_and_those_of_terminal_flows_are_left_alone(store: SqlStore) -> None:
    parked, dead = await one_claimed(store), await one_claimed(store)
    await look(store, "update dwarf_steps set lease_expires = 1")
    await look(store, "update dwarf_steps set parked = 1 where step_id = $1", parked.step_id)
    await look(store, "update dwarf_flows set status = 'cancelled' where flow_id = $1", dead.flow.flow_id)
    assert await store.replicas.reclaim_expired_leases(10_000) == 0


async def test_a_lease_is_the_time_budget_and_thirty_seconds(timed: SqlStore, manual: ManualClock) -> None:
    new = new_flow(time_budget_ms=1000)
    await timed.steps.create([new], BUDGET)
    await claim_all(timed, 1, BUDGET)
    manual.advance(30.9)
    await timed.replicas.heartbeat("one")
    assert await timed.replicas.reclaim_expired_leases(10_000) == 0
    manual.advance(0.2)
    assert await timed.replicas.reclaim_expired_leases(10_000) == 1


async def test_a_replica_that_renews_its_row_keeps_its_steps(timed: SqlStore, manual: ManualClock) -> None:
    await one_claimed(timed)
    for _ in range(5):
        manual.advance(8)
        await timed.replicas.heartbeat("one")
        assert await timed.replicas.reclaim_expired_leases(10_000) == 0
    manual.advance(11)
    assert await timed.replicas.reclaim_expired_leases(10_000) == 1


async def test_a_beat_tells_when_work_is_due(timed: SqlStore, manual: ManualClock) -> None:
    """B1: whoever put it there may not have said so."""
    assert (await timed.replicas.heartbeat("one")).due_in is None
    await timed.steps.create([new_flow(start_at=manual.now() + 7 * SECOND)], BUDGET)
    assert (await timed.replicas.heartbeat("one")).due_in == 7 * SECOND
    manual.advance(3)
    assert (await timed.replicas.heartbeat("one")).due_in == 4 * SECOND
    await timed.steps.create([new_flow(), new_flow(start=False)], BUDGET)
    manual.advance(1)
    assert (await timed.replicas.heartbeat("one")).due_in == 0
    assert len(await claim_all(timed, 500, BUDGET)) == 1
    assert (await timed.replicas.heartbeat("one")).due_in == 3 * SECOND
    manual.advance(4)
    assert (await timed.replicas.heartbeat("one")).due_in == 0


async def test_rows_of_replicas_long_gone_are_removed_once_they_hold_nothing(
    timed: SqlStore, manual: ManualClock
) -> None:
    await look(
        timed,
        "insert into dwarf_replicas (replica_id, name, seen_at) values (77, 'gone', $1)",
        manual.now() - 200 * SECOND,
    )
    await timed.replicas.delete_dead(10_000)
    assert await look(timed, "select replica_id from dwarf_replicas") == [(timed.replicas.replica_id,)]


async def test_a_replica_disowns_what_it_does_not_have_in_hand(store: SqlStore) -> None:
    """B6: after an outage."""
    kept, lost = await one_claimed(store), await one_claimed(store)
    assert await store.replicas.release_unowned_leases([kept.step_id]) == 1
    assert await step_status(store, lost.step_id) == "pending"
    assert len((await store.steps.settle([ended(kept)], BUDGET)).applied) == 1


async def test_a_replica_that_leaves_gives_everything_back(store: SqlStore) -> None:
    """B3."""
    step = await one_claimed(store)
    await store.replicas.deregister()
    assert await step_status(store, step.step_id) == "pending"
    assert await look(store, "select count(*) from dwarf_replicas") == [(0,)]


async def test_a_retry_keeps_the_step_until_it_is_due(timed: SqlStore, manual: ManualClock) -> None:
    """X5, C5."""
    step = await one_claimed(timed)
    manual.advance(1)
    settlement = went_on(step, delay_us=5 * SECOND)
    await timed.steps.settle([settlement], BUDGET)
    assert await next_due(timed) == 5 * SECOND
    assert await claim_all(timed, 1, BUDGET) == []
    manual.advance(5)
    (row,) = await claim_all(timed, 1, BUDGET)
    assert row.age_us == 0


async def test_the_age_of_a_step_runs_from_its_first_dispatch(timed: SqlStore, manual: ManualClock) -> None:
    """X5: for give_up_after."""
    new = new_flow(eager=True)
    await timed.steps.create([new], BUDGET)
    manual.advance(3)
    await timed.replicas.release_unowned_leases([])
    manual.advance(4)
    assert (await claim_all(timed, 1, BUDGET))[0].age_us == 7 * SECOND


async def test_completed_flows_marked_for_it_leave_a_while_later(timed: SqlStore, manual: ManualClock) -> None:
    """O1: failed and cancelled ones stay, and so does a completed one that was not marked."""
    leaving = [new_flow(delete_on_completion=True, eager=True) for _ in range(3)]
    staying = new_flow(eager=True)
    await timed.steps.create([*leaving, staying], BUDGET)
    await timed.steps.settle([ended(born(leaving[0])), ended(born(staying))], BUDGET)
    await cancel(timed, leaving[1].flow.flow_id, "", lambda _: b"{}")
    assert await timed.control.remove_completed(60_000, 1) is False
    assert await flow_status(timed, leaving[0].flow.flow_id) == "completed"
    manual.advance(61)
    assert await timed.control.remove_completed(60_000, 1) is True
    assert await timed.flows.by_id(leaving[0].flow.flow_id) is None
    assert await timed.flows.size() == (3, 3)
