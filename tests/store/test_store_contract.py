"""What a store promises, on both databases."""

from __future__ import annotations

import pytest

from dwarf_nats.errors import Conflict, NotFound
from dwarf_nats.rules import parking
from dwarf_nats.rules.decide import release
from dwarf_nats.rules.rows import StepRow
from dwarf_nats.rules.settlement import Settlement
from dwarf_nats.rules.steps import ClaimedStep, StepRef
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.keys import Key
from dwarf_nats.workflow.state import Raw, state_from
from dwarf_nats.workflow.status import Status
from tests.support.stores import (
    BUDGET,
    GRAPH,
    born,
    cancel,
    claim_all,
    ended,
    failed,
    fingerprint,
    flow_status,
    in_flight,
    look,
    new_flow,
    next_due,
    one_claimed,
    returned,
    step_status,
    tokens,
    went_on,
)

NOTHING = b'{"end":1}'


def final(_: list[StepRow]) -> bytes:
    return NOTHING


# -- creation (O1)


async def test_a_group_of_flows_is_created_with_their_entry_steps(store: SqlStore) -> None:
    group = [new_flow({"n": n}, start=n % 2 == 0) for n in range(20)]
    made = await store.steps.create(group, BUDGET)
    assert set(made) == {new.flow.flow_id for new in group}
    for new in group:
        row = await store.flows.get(Key(1, new.flow.flow_id, new.flow.token))
        assert (row.status, row.started_at is not None) == (
            (Status.RUNNING, True) if new.start else (Status.CREATED, False)
        )
        (step,) = await store.flows.complete_steps([new.flow.flow_id])
        assert (step.node, step.depth, step.state) == ("a", 1, new.state_json.decode())
        assert step.status is (Status.PENDING if new.start else Status.CREATED)
        assert row.created_at == made[new.flow.flow_id] == step.created_at


async def test_a_flow_born_running_is_claimed_by_this_replica_already(store: SqlStore) -> None:
    new = new_flow(eager=True)
    await store.steps.create([new], BUDGET)
    assert await claim_all(store, 10, BUDGET) == []
    assert await look(store, "select status, lease_seq, claimed_by from dwarf_steps") == [
        ("running", 1, store.replicas.replica_id)
    ]
    assert (await store.steps.settle([ended(born(new))], BUDGET)).applied
    assert await flow_status(store, new.flow.flow_id) == "completed"


async def test_an_idempotency_key_makes_one_flow_within_a_group_and_across_groups(store: SqlStore) -> None:
    twice = [new_flow(idempotency_key="k"), new_flow(), new_flow(idempotency_key="k"), new_flow(idempotency_key="l")]
    made = await store.steps.create(twice, BUDGET)
    assert len(made) == 3
    again = new_flow(idempotency_key="k")
    other = new_flow(idempotency_key="k", fairness_key="tenant")
    assert set(await store.steps.create([again, other], BUDGET)) == {other.flow.flow_id}
    row = await store.flows.by_idempotency_key("", "k")
    assert row is not None
    assert row.flow_id in made
    assert await store.flows.size() == (4, 4)
    assert await store.flows.by_idempotency_key("", "") is None


async def test_a_deleted_flow_frees_its_idempotency_key(store: SqlStore) -> None:
    first = new_flow(idempotency_key="k", start=False)
    await store.steps.create([first], BUDGET)
    await store.control.delete(first.flow.flow_id)
    assert len(await store.steps.create([new_flow(idempotency_key="k")], BUDGET)) == 1


async def test_a_wrong_token_looks_like_an_id_that_is_not_there(store: SqlStore) -> None:
    new = new_flow()
    await store.steps.create([new], BUDGET)
    wrong = "x" * 16
    for key in (Key(1, new.flow.flow_id, wrong), Key(1, 999_999, wrong)):
        with pytest.raises(NotFound, match="no flow 1-"):
            await store.flows.get(key)
    with pytest.raises(NotFound, match="no step 1-"):
        await store.flows.step(Key(1, new.step_id, wrong))


# -- claim (X1)


async def test_a_claim_takes_the_best_band_first_and_the_longest_due_first(store: SqlStore) -> None:
    group = [new_flow(priority=priority) for priority in (200, 100, 1, 100)]
    await store.steps.create(group, BUDGET)
    rows = await claim_all(store, 3, BUDGET)
    assert [row.step_id for row in rows] == [group[2].step_id, group[1].step_id, group[3].step_id]
    assert [row.step_id for row in await claim_all(store, 3, BUDGET)] == [group[0].step_id]
    assert await claim_all(store, 3, BUDGET) == []


async def test_a_claim_returns_all_a_dispatch_needs(store: SqlStore) -> None:
    new = new_flow({"a": 1}, priority=7, fairness_key="t", fairness_weight=2.5, time_budget_ms=500, notify="me")
    made = await store.steps.create([new], BUDGET)
    (row,) = await claim_all(store, 1, BUDGET)
    step, facts = in_flight(row), new.flow
    assert (step.step_id, step.token, step.node, step.url, step.depth, step.attempt, step.lease_seq) == (
        new.step_id, new.step_token, "a", "a", 1, 0, 1,
    )  # fmt: skip
    assert (bytes(step.state["a"]), step.changes, step.age_us) == (b"1", {}, 0)
    flow = step.flow
    assert (flow.flow_id, flow.token, flow.workflow, flow.digest, flow.priority, flow.fairness_key) == (
        facts.flow_id, facts.token, "line", GRAPH.digest(), 7, "t",
    )  # fmt: skip
    assert (flow.fairness_weight, flow.time_budget_ms, flow.notify, flow.thread_id) == (2.5, 500, "me", facts.flow_id)
    assert flow.created_at == flow.updated_at == made[facts.flow_id]
    ((lease, seen),) = await look(store, "select lease_expires, updated_at from dwarf_steps")
    assert lease - seen == 30_500_000


async def test_what_is_created_parked_or_not_due_is_not_claimed(store: SqlStore) -> None:
    later = new_flow(start_at=2**52)
    await store.steps.create([new_flow(start=False), later, parked := new_flow()], BUDGET)
    await look(store, "update dwarf_steps set parked = 1 where step_id = $1", parked.step_id)
    assert await claim_all(store, 10, BUDGET) == []
    due = await next_due(store)
    assert due is not None
    assert due > 10**12


async def test_next_due_is_none_without_pending_steps(store: SqlStore) -> None:
    assert await next_due(store) is None
    await store.steps.create([new_flow()], BUDGET)
    due = await next_due(store)
    assert due is not None
    assert due <= 0


async def test_a_step_of_a_terminal_flow_takes_its_status(store: SqlStore) -> None:
    """X2."""
    new = new_flow()
    await store.steps.create([new], BUDGET)
    await look(store, "update dwarf_flows set status = 'failed' where flow_id = $1", new.flow.flow_id)
    (row,) = await claim_all(store, 1, BUDGET)
    assert row.flow_status == "failed"
    await store.steps.close_stale([row.step_id])
    assert await step_status(store, new.step_id) == "failed"


# -- settlement


async def test_a_settlement_ends_the_step_and_bears_its_successor(store: SqlStore) -> None:
    step = await one_claimed(store, {"a": 1})
    settlement = went_on(step, {"b": 2})
    (done,) = (await store.steps.settle([settlement], BUDGET)).applied.values()
    assert done.alive
    first, second = await store.flows.complete_steps([step.flow.flow_id])
    assert (first.status, first.changes, first.successor_id, first.updated_at) == (
        Status.COMPLETED, '{"b":2}', second.step_id, done.at,
    )  # fmt: skip
    assert (second.status, second.node, second.depth, second.state, second.predecessor_id) == (
        Status.PENDING, "b", 2, '{"a":1,"b":2}', first.step_id,
    )  # fmt: skip
    (row,) = await claim_all(store, 5, BUDGET)
    assert row.step_id == second.step_id


async def test_a_successor_born_running_is_not_for_others_to_claim(store: SqlStore) -> None:
    settlement = went_on(await one_claimed(store), eager=True)
    assert settlement.successor is not None
    await store.steps.settle([settlement], BUDGET)
    assert await claim_all(store, 5, BUDGET) == []
    assert await look(
        store, "select status, lease_seq, claimed_by from dwarf_steps where step_id = $1", settlement.successor.step_id
    ) == [("running", 1, store.replicas.replica_id)]


async def test_completion_ends_the_flow_with_its_final_state(store: SqlStore) -> None:
    """X9."""
    step = await one_claimed(store, {"a": 1})
    await store.steps.settle([ended(step, {"b": 2})], BUDGET)
    row = await store.flows.by_id(step.flow.flow_id)
    assert row is not None
    assert (row.status, row.final_state, row.error) == (Status.COMPLETED, '{"a":1,"b":2}', None)


async def test_failure_ends_the_flow_with_the_error(store: SqlStore) -> None:
    """X8."""
    step = await one_claimed(store, {"a": 1})
    await store.steps.settle([failed(step, "boom")], BUDGET)
    row = await store.flows.by_id(step.flow.flow_id)
    assert row is not None
    assert (row.status, row.final_state, row.error) == (Status.FAILED, '{"a":1}', '{"message":"boom","code":500}')
    (only,) = await store.flows.complete_steps([step.flow.flow_id])
    assert (only.status, only.error) == (Status.FAILED, row.error)


async def test_a_step_given_back_is_claimed_again_under_a_new_lease(store: SqlStore) -> None:
    step = await one_claimed(store)
    await store.steps.settle([returned(step)], BUDGET)
    (row,) = await claim_all(store, 1, BUDGET)
    assert (row.step_id, row.attempt, row.lease_seq) == (step.step_id, 0, 2)


async def test_a_whole_group_takes_effect_in_one_call(store: SqlStore) -> None:
    group = [new_flow({"n": n}) for n in range(60)]
    await store.steps.create(group, BUDGET)
    steps = [in_flight(row) for row in await claim_all(store, 500, BUDGET)]
    acts = (went_on, ended, failed, returned)
    settled = await store.steps.settle([acts[n % 4](step) for n, step in enumerate(steps)], BUDGET)
    assert set(settled.applied) == {step.step_id for step in steps}
    wanted = [("completed", "running"), ("completed", "completed"), ("failed", "failed"), ("pending", "running")]
    for n, step in enumerate(steps):
        found = await step_status(store, step.step_id), await flow_status(store, step.flow.flow_id)
        assert found == wanted[n % 4]
    assert len(await claim_all(store, 500, BUDGET)) == 30


async def test_a_result_under_an_old_lease_changes_nothing(store: SqlStore) -> None:
    """X1: fenced by the lease generation."""
    late = await one_claimed(store)
    await store.steps.settle([returned(late)], BUDGET)
    now = in_flight((await claim_all(store, 1, BUDGET))[0])
    mate = await one_claimed(store)
    settled = await store.steps.settle([went_on(late, {"late": 1}), ended(mate)], BUDGET)
    assert set(settled.applied) == {mate.step_id}
    assert len(await store.flows.steps([late.flow.flow_id])) == 1
    assert await step_status(store, now.step_id) == "running"
    assert set((await store.steps.settle([ended(now, {"now": 1})], BUDGET)).applied) == {now.step_id}
    row = await store.flows.by_id(now.flow.flow_id)
    assert row is not None
    assert row.final_state == '{"now":1}'


async def test_a_result_settles_once(store: SqlStore) -> None:
    step = await one_claimed(store)
    assert len((await store.steps.settle([went_on(step)], BUDGET)).applied) == 1
    assert (await store.steps.settle([went_on(step)], BUDGET)).applied == {}
    assert len(await store.flows.complete_steps([step.flow.flow_id])) == 2


async def test_a_result_for_a_flow_that_is_gone_is_dropped(store: SqlStore) -> None:
    step = await one_claimed(store)
    await look(store, "delete from dwarf_steps")
    await look(store, "delete from dwarf_flows")
    assert (await store.steps.settle([went_on(step)], BUDGET)).applied == {}
    assert await store.flows.size() == (0, 0)


async def test_a_result_for_a_terminal_flow_buries_the_step_and_bears_nothing(store: SqlStore) -> None:
    """X2, X8: the step takes its flow's status."""
    step = await one_claimed(store)
    await look(store, "update dwarf_flows set status = 'cancelled' where flow_id = $1", step.flow.flow_id)
    (done,) = (await store.steps.settle([went_on(step)], BUDGET)).applied.values()
    assert not done.alive
    assert await step_status(store, step.step_id) == "cancelled"
    assert len(await store.flows.complete_steps([step.flow.flow_id])) == 1


# -- start, cancel, delete


async def test_start_makes_a_created_flow_claimable_once(store: SqlStore) -> None:
    """O2."""
    new = new_flow(start=False)
    await store.steps.create([new], BUDGET)
    at, ((step_id, priority, not_before),) = await store.control.start(new.flow.flow_id, "me")
    assert (step_id, priority) == (new.step_id, 100)
    assert not_before <= at
    row = await store.flows.by_id(new.flow.flow_id)
    assert row is not None
    assert (row.status, row.notify, row.started_at) == (Status.RUNNING, "me", at)
    with pytest.raises(Conflict, match="the flow is running: to be started it must be created"):
        await store.control.start(new.flow.flow_id, "")
    with pytest.raises(NotFound):
        await store.control.start(10**9, "")
    assert len(await claim_all(store, 5, BUDGET)) == 1


async def test_start_keeps_the_notify_option_unless_told_otherwise(store: SqlStore) -> None:
    new = new_flow(start=False, notify="option")
    await store.steps.create([new], BUDGET)
    await store.control.start(new.flow.flow_id, "")
    row = await store.flows.by_id(new.flow.flow_id)
    assert row is not None
    assert row.notify == "option"


async def test_cancel_takes_the_live_steps_along_and_names_the_running_ones(store: SqlStore) -> None:
    """O10."""
    step = await one_claimed(store)
    told = (await cancel(store, step.flow.flow_id, "enough", final)).running
    assert told == [StepRef(step.step_id, step.token)]
    row = await store.flows.by_id(step.flow.flow_id)
    assert row is not None
    assert (row.status, row.cancel_reason, row.final_state) == (Status.CANCELLED, "enough", NOTHING.decode())
    assert await step_status(store, step.step_id) == "cancelled"
    assert (await store.steps.settle([went_on(step)], BUDGET)).applied == {}
    with pytest.raises(
        Conflict, match="the flow is cancelled: to be cancelled it must be created, running or interrupted"
    ):
        await cancel(store, step.flow.flow_id, "", final)


@pytest.mark.parametrize("start", [True, False])
async def test_cancel_of_a_flow_nobody_runs_tells_nobody(store: SqlStore, start: bool) -> None:
    new = new_flow(start=start)
    await store.steps.create([new], BUDGET)
    assert (await cancel(store, new.flow.flow_id, "", final)).running == []
    assert await claim_all(store, 5, BUDGET) == []


async def test_delete_removes_flow_and_steps_but_no_running_flow(store: SqlStore) -> None:
    """O9."""
    step = await one_claimed(store)
    with pytest.raises(Conflict, match="cancel it first"):
        await store.control.delete(step.flow.flow_id)
    assert await store.flows.size() == (1, 1)
    await store.steps.settle([ended(step)], BUDGET)
    await store.control.delete(step.flow.flow_id)
    await store.control.delete(step.flow.flow_id)
    assert await store.flows.size() == (0, 0)


# -- reading


async def test_the_fingerprint_changes_with_every_write(store: SqlStore) -> None:
    """O6."""
    new = new_flow(start=False)
    await store.steps.create([new], BUDGET)
    seen = [await fingerprint(store, new.flow.flow_id)]
    await store.control.start(new.flow.flow_id, "")
    seen.append(await fingerprint(store, new.flow.flow_id))
    step = in_flight((await claim_all(store, 1, BUDGET))[0])
    seen.append(await fingerprint(store, new.flow.flow_id))
    await store.steps.settle([went_on(step)], BUDGET)
    seen.append(await fingerprint(store, new.flow.flow_id))
    await cancel(store, new.flow.flow_id, "", final)
    seen.append(await fingerprint(store, new.flow.flow_id))
    assert len(set(map(tuple, seen))) == 5
    assert await fingerprint(store, new.flow.flow_id) == seen[-1]
    row = await store.flows.by_id(new.flow.flow_id)
    assert row is not None
    await store.control.delete(row.flow_id)
    assert not await store.flows.fingerprint(row)


async def test_stopped_among_names_what_stopped_or_is_gone(store: SqlStore) -> None:
    step = await one_claimed(store)
    created = new_flow(start=False)
    await store.steps.create([created, going := new_flow()], BUDGET)
    await store.steps.settle([ended(step)], BUDGET)
    ids = [step.flow.flow_id, created.flow.flow_id, going.flow.flow_id, 10**9]
    assert await store.flows.stopped_among(ids) == [step.flow.flow_id, 10**9]


async def test_cancelled_among_names_the_steps_that_are_cancelled_or_gone(store: SqlStore) -> None:
    """O10: what a replica in doubt asks about the steps it has in hand."""
    cancelled, running, done = [await one_claimed(store) for _ in range(3)]
    await cancel(store, cancelled.flow.flow_id)
    await store.steps.settle([ended(done)], BUDGET)
    ids = [running.step_id, 10**9, cancelled.step_id, done.step_id]
    assert await store.steps.cancelled_among(ids) == [10**9, cancelled.step_id]


async def test_graphs_are_stored_once_and_registered_by_name(store: SqlStore) -> None:
    """G10."""
    await store.graphs.save("d1", b"{}")
    await store.graphs.save("d1", b"{}")
    assert await store.graphs.load("d1") == b"{}"
    assert await store.graphs.load("d2") is None
    first = await store.graphs.register("one", "d1")
    assert await store.graphs.register("one", "d2") >= first
    await store.graphs.register("two", "d1")
    assert [row[:2] for row in await store.graphs.registered()] == [("one", "d2"), ("two", "d1")]
    assert await store.graphs.registered_digests(["two", "none", "one"]) == {"one": "d2", "two": "d1"}
    assert await store.graphs.unregister("one")
    assert not await store.graphs.unregister("one")


async def test_ids_come_in_blocks_that_never_overlap(store: SqlStore) -> None:
    taken: set[int] = set()
    for _ in range(4):
        first, count = await store.next_ids("step")
        block = set(range(first, first + count))
        assert not block & taken
        taken |= block
    assert (await store.next_ids("replica"))[0] > store.replicas.replica_id


# -- pauses and children


def paused(step: ClaimedStep, payload: bytes | None) -> Settlement:
    return parking.interrupted(step, step.changes, None if payload is None else Raw(payload))


def calling(step: ClaimedStep, eager: bool = False) -> Settlement:
    """The step waits for a child flow of the same graph."""
    child = parking.Child(GRAPH, GRAPH.digest(), new_flow().flow.flow_id, tokens())
    settlement = parking.waiting(
        step, {}, state_from({"in": 1}), child=child, entry=StepRef(new_flow().step_id, tokens())
    )
    assert settlement.child is not None
    settlement.child.eager = eager
    return settlement


async def test_a_park_written_twice_starts_one_child(store: SqlStore) -> None:
    """X1, P1: as after a commit whose answer was lost."""
    step = await one_claimed(store)
    settlement = calling(step)
    assert len((await store.steps.settle([settlement], BUDGET)).applied) == 1
    assert (await store.steps.settle([settlement], BUDGET)).applied == {}
    assert await store.flows.size() == (2, 2)
    assert await look(store, "select status, parked from dwarf_steps where step_id = $1", step.step_id) == [
        ("running", 1)
    ]
    assert await store.replicas.reclaim_expired_leases(0) == 0  # parked steps are exempt (B2)


async def test_the_end_of_a_child_wakes_its_caller_once(store: SqlStore) -> None:
    """P1: with the final state; a second end changes nothing."""
    step = await one_claimed(store)
    settlement = calling(step, eager=True)
    assert settlement.child is not None
    await store.steps.settle([settlement], BUDGET)
    inner = born(settlement.child)
    done = ended(inner, {"out": 2})
    settled = await store.steps.settle([done], BUDGET)
    assert settled.woken == [(step.step_id, 100)]
    assert (await store.steps.settle([done], BUDGET)).applied == {}
    (row,) = await claim_all(store, 5, BUDGET)
    assert (row.step_id, row.subgraph_result, row.subgraph_error) == (step.step_id, '{"in":1,"out":2}', None)


async def test_a_failed_child_in_the_group_of_other_results(store: SqlStore) -> None:
    step, other = await one_claimed(store), await one_claimed(store)
    settlement = calling(step, eager=True)
    assert settlement.child is not None
    await store.steps.settle([settlement], BUDGET)
    settled = await store.steps.settle([failed(born(settlement.child), "no luck"), went_on(other)], BUDGET)
    assert len(settled.applied) == 2
    rows = {row.step_id: row for row in await claim_all(store, 5, BUDGET)}
    assert rows[step.step_id].subgraph_result is None
    assert ErrorInfo.from_stored(rows[step.step_id].subgraph_error) == ErrorInfo("no luck")


async def test_a_lease_is_extended_by_the_claim_that_holds_it(store: SqlStore) -> None:
    """L1, B2, X1."""
    step = await one_claimed(store)
    before = await lease_of(store, step)
    assert await store.steps.extend_lease(step.step_id, step.lease_seq, 10**12)
    after = await lease_of(store, step)
    assert after - before > 10**11
    assert not await store.steps.extend_lease(step.step_id, step.lease_seq + 1, 10**13)
    assert await lease_of(store, step) == after
    await store.steps.settle([went_on(step)], BUDGET)
    assert not await store.steps.extend_lease(step.step_id, step.lease_seq, 10**13)


async def lease_of(store: SqlStore, step: ClaimedStep) -> int:
    """When its lease expires, on the clock of the database."""
    ((expires,),) = await store.database.fetch("select lease_expires from dwarf_steps where step_id = $1", step.step_id)
    return int(expires)


async def test_the_last_error_stays_while_a_step_waits_for_its_next_attempt(store: SqlStore) -> None:
    """L3: also when it is given back meanwhile; it goes when the step is completed."""

    async def error() -> ErrorInfo | None:
        row = await store.flows.step_by_id(step.step_id)
        assert row is not None
        return ErrorInfo.from_stored(row.error)

    step = await one_claimed(store)
    broken = ErrorInfo("no luck", 502)
    retried = Settlement(step, Status.PENDING, {}, error=broken, attempt=1)
    retried.error_json = broken.stored()
    await store.steps.settle([retried], BUDGET)
    assert await error() == broken
    (again,) = await claim_all(store, 1, BUDGET)
    step.lease_seq = again.lease_seq
    await store.steps.settle([release(step)], BUDGET)
    assert await error() == broken
    (again,) = await claim_all(store, 1, BUDGET)
    step.lease_seq = again.lease_seq
    await store.steps.settle([went_on(step)], BUDGET)
    assert await error() is None


async def test_pauses_of_one_group_reach_their_roots_once(store: SqlStore) -> None:
    """P2: of two that pause one root together, the first wins."""
    step = await one_claimed(store)
    settlement = calling(step, eager=True)
    assert settlement.child is not None
    await store.steps.settle([settlement], BUDGET)
    settled = await store.steps.settle([paused(born(settlement.child), b'"?"')], BUDGET)
    assert [(one.flow_id, end.payload) for one, end, *_ in settled.ended] == [
        (settlement.child.flow.flow_id, Raw(b'"?"')),
        (step.flow.flow_id, Raw(b'"?"')),
    ]
    row = await store.flows.by_id(step.flow.flow_id)
    assert row is not None
    pause = await store.flows.paused_by(row)
    assert pause is not None
    assert ([one.payload for one in pause.pauses], pause.state_json) == (["?"], b'{"in":1}')
    result = await store.control.resume(row, "1")
    assert [one.flow_id for one in result.changed] == [settlement.child.flow.flow_id, step.flow.flow_id]
    with pytest.raises(Conflict, match="to be resumed it must be interrupted"):
        await store.control.resume(row, "1")


async def test_nothing_is_born_running_in_a_flow_with_breakpoints(store: SqlStore) -> None:
    """O12: the claim looks at them; what the replica knew of the flow does not matter."""
    step = await one_claimed(store)
    row = await store.flows.by_id(step.flow.flow_id)
    assert row is not None
    await store.control.break_before(row, "b", enabled=True)
    settlement = went_on(step, eager=True)
    await store.steps.settle([settlement], BUDGET)
    assert settlement.successor is not None
    assert not settlement.successor.eager
    assert await step_status(store, settlement.successor.step_id) == "pending"
    (claimed,) = await claim_all(store, 5, BUDGET)
    assert claimed.breakpoints == '["b"]'
