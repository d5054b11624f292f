"""Every column of a row that is written has the value of its name: rows are passed as tuples, in the order of their record."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.rules.settlement import FlowEnd, Settlement
from dwarf_nats.rules.steps import NewFlow, NewStep
from dwarf_nats.store.commands import StepInsert
from dwarf_nats.store.statements.insert import INSERT_TOGETHER_ROWS, StepRow, step_row
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.state import Raw, state_from
from dwarf_nats.workflow.status import Status
from tests.support.stores import BUDGET, born, ended, failed, look, new_flow, tokens, went_on

LEASE_GRACE_US = 30_000_000


def distinct_flow(**more: Any) -> NewFlow:
    """A flow no two fields of which have the same value."""
    return new_flow(
        {"entry": 1},
        step_id=7_001,
        node="the node",
        url="the.url",
        workflow="the workflow",
        digest="the digest",
        baggage=Raw(b'{"bag":1}'),
        priority=71,
        fairness_key="the tenant",
        fairness_weight=2.5,
        time_budget_ms=4_321,
        notify="the.subject",
        thread_id=8_101,
        thread_token="the thread token",
        root_id=8_102,
        surgraph_flow_id=8_103,
        surgraph_step_id=8_104,
        trace="the trace",
        idempotency_key="the key",
        request_digest="the request",
        delete_on_completion=True,
        start_at=8_105,
        **more,
    )


def settled_with_successor(new: NewFlow, **more: Any) -> Settlement:
    """The entry step completed; what comes next has a value of its own in each field."""
    successor = NewStep(
        step_id=9_001,
        token=tokens(),
        node="next node",
        url="next.url",
        depth=2,
        state={},
        state_json=b'{"next":1}',
        spawn_id=9_002,
        ordinal=5,
        refs={"large": 9_003},
        **more,
    )
    step = born(new)
    return Settlement(step, Status.COMPLETED, state_from({"change": 1}), attempt=3, successor=successor)


async def columns_of(store: SqlStore, table: str, key: str, value: int, names: str) -> dict[str, Any]:
    ((*values,),) = await look(store, f"select {names} from {table} where {key} = $1", value)
    return dict(zip(names.split(", "), values, strict=True))


async def test_a_flow_is_written_as_it_was_created(store: SqlStore) -> None:
    """The flow, its entry step and its idempotency key (O1)."""
    new = distinct_flow(breakpoints=("the node",))
    made = await store.steps.create([new], BUDGET)
    flow = new.flow
    expected = {
        "token": flow.token,
        "workflow": "the workflow",
        "graph_digest": "the digest",
        "status": "running",
        "thread_id": 8_101,
        "thread_token": "the thread token",
        "priority": 71,
        "fairness_key": "the tenant",
        "fairness_weight": 2.5,
        "start_at": 8_105,
        "time_budget_ms": 4_321,
        "baggage": '{"bag":1}',
        "notify": "the.subject",
        "idempotency_key": "the key",
        "request_digest": "the request",
        "delete_on_completion": 1,
        "root_id": 8_102,
        "surgraph_flow_id": 8_103,
        "surgraph_step_id": 8_104,
        "breakpoints": '["the node"]',
        "trace": "the trace",
        "created_at": made[flow.flow_id],
        "updated_at": made[flow.flow_id],
    }
    assert await columns_of(store, "dwarf_flows", "flow_id", flow.flow_id, ", ".join(expected)) == expected
    entry = {
        "flow_id": flow.flow_id,
        "depth": 1,
        "token": new.step_token,
        "node": "the node",
        "url": "the.url",
        "state": '{"entry":1}',
        "changes": "{}",
        "status": "pending",
        "not_before": made[flow.flow_id],
        "predecessor_id": None,
        "successor_id": None,
        "spawn_id": 0,
        "ordinal": 0,
        "error": None,
        "borrowed": None,
        "priority": 71,
        "fairness_key": "the tenant",
        "fairness_weight": 2.5,
        "lease_seq": 0,
        "claimed_by": None,
        "lease_expires": None,
    }
    assert await columns_of(store, "dwarf_steps", "step_id", new.step_id, ", ".join(entry)) == entry


async def test_a_key_is_written_where_its_home_is(store: SqlStore) -> None:
    """The key is taken with the flow (O3)."""
    await store.deployment.join("the deployment")
    await store.deployment.raise_shards(1, {1}, before=0)
    new = distinct_flow(reserves=True, shards=1)
    made = await store.steps.create([new], BUDGET)
    names = "fairness_key, idempotency_key, token, request_digest, created_at"
    assert await columns_of(store, "dwarf_keys", "flow_id", new.flow.flow_id, names) == {
        "fairness_key": "the tenant",
        "idempotency_key": "the key",
        "token": new.flow.token,
        "request_digest": "the request",
        "created_at": made[new.flow.flow_id],
    }


async def test_a_settled_step_and_its_successor_are_written_as_they_are(store: SqlStore) -> None:
    """The successor is claimed already if it starts at once (X4)."""
    new = distinct_flow(eager=True)
    await store.steps.create([new], BUDGET)
    one = settled_with_successor(new, eager=True)
    at = (await store.steps.settle([one], BUDGET)).applied[new.step_id].at
    done = {
        "status": "completed",
        "changes": '{"change":1}',
        "error": None,
        "attempt": 3,
        "claimed_by": None,
        "lease_expires": None,
        "successor_id": 9_001,
        "arrived": 0,
        "cohort_size": None,
        "updated_at": at,
    }
    assert await columns_of(store, "dwarf_steps", "step_id", new.step_id, ", ".join(done)) == done
    successor = {
        "flow_id": new.flow.flow_id,
        "depth": 2,
        "node": "next node",
        "url": "next.url",
        "state": '{"next":1}',
        "changes": "{}",
        "error": None,
        "status": "running",
        "lease_seq": 1,
        "claimed_by": store.replicas.replica_id,
        "lease_expires": at + 4_321_000 + LEASE_GRACE_US,
        "not_before": at,
        "predecessor_id": new.step_id,
        "successor_id": None,
        "priority": 71,
        "fairness_key": "the tenant",
        "fairness_weight": 2.5,
        "created_at": at,
        "started_at": at,
        "updated_at": at,
        "borrowed": '{"large":9003}',
    }
    assert await columns_of(store, "dwarf_steps", "step_id", 9_001, ", ".join(successor)) == successor


async def test_a_step_that_is_put_back_waits_for_its_delay(store: SqlStore) -> None:
    """A retry (X6)."""
    new = distinct_flow(eager=True)
    await store.steps.create([new], BUDGET)
    one = Settlement(born(new), Status.PENDING, {}, attempt=2, delay_us=5_000_000)
    one.error_json = '{"message":"no"}'
    at = (await store.steps.settle([one], BUDGET)).applied[new.step_id].at
    put_back = {
        "status": "pending",
        "changes": "{}",
        "error": '{"message":"no"}',
        "attempt": 2,
        "not_before": at + 5_000_000,
        "successor_id": None,
        "updated_at": at,
    }
    assert await columns_of(store, "dwarf_steps", "step_id", new.step_id, ", ".join(put_back)) == put_back


async def test_a_flow_that_ends_is_written_as_it_ended(store: SqlStore) -> None:
    """The final state and the error (X8, X9)."""
    new = distinct_flow(eager=True)
    new.flow.surgraph_step_id = None
    await store.steps.create([new], BUDGET)
    end = FlowEnd(Status.FAILED, b'{"final":1}', refs={"large": new.step_id}, stripped_json=b'{"large":null}')
    one = Settlement(born(new), Status.FAILED, {}, end=end)
    one.error_json = '{"message":"no"}'
    at = (await store.steps.settle([one], BUDGET)).applied[new.step_id].at
    expected = {
        "status": "failed",
        "final_state": '{"large":null}',
        "final_borrowed": f'{{"large":{new.step_id}}}',
        "error": '{"message":"no"}',
        "updated_at": at,
    }
    assert await columns_of(store, "dwarf_flows", "flow_id", new.flow.flow_id, ", ".join(expected)) == expected


def test_a_step_to_be_inserted_has_each_value_in_its_column() -> None:
    new = distinct_flow()
    successor = settled_with_successor(new, delay_us=11).successor
    assert successor is not None
    one = StepInsert(
        flow=new.flow,
        step=successor,
        predecessor_id=9_101,
        status=Status.COMPLETED,
        not_before=9_102,
        changes='{"change":1}',
        error='{"message":"no"}',
        successor_id=9_103,
    )
    assert StepRow._make(step_row(one, BUDGET)) == StepRow(
        step_id=9_001,
        flow_id=new.flow.flow_id,
        depth=2,
        token=successor.token,
        node="next node",
        url="next.url",
        state='{"next":1}',
        status="completed",
        not_before=9_102,
        delay=11,
        predecessor_id=9_101,
        spawn_id=9_002,
        ordinal=5,
        changes='{"change":1}',
        error='{"message":"no"}',
        successor_id=9_103,
        priority=71,
        fairness_key="the tenant",
        fairness_weight=2.5,
        lease=4_321_000 + LEASE_GRACE_US,
        borrowed='{"large":9003}',
    )


@pytest.mark.parametrize("eager", [True, False])
async def test_a_group_writes_as_many_rows_as_it_has_members_each_with_its_own_values(
    store: SqlStore, eager: bool
) -> None:
    """SQLite inserts some rows together and the rest one by one: two full statements, and a remainder."""
    news = [new_flow({}, eager=True) for _ in range(2 * INSERT_TOGETHER_ROWS + 3)]
    await store.steps.create(news, BUDGET)
    group = [went_on(born(new), {"n": number}, eager=eager) for number, new in enumerate(news)]
    applied = (await store.steps.settle(group, BUDGET)).applied
    assert len(applied) == len(group)
    for number, one in enumerate(group):
        assert one.successor is not None
        names = "flow_id, predecessor_id, state, status, token"
        assert await columns_of(store, "dwarf_steps", "step_id", one.successor.step_id, names) == {
            "flow_id": one.step.flow.flow_id,
            "predecessor_id": one.step.step_id,
            "state": f'{{"n":{number}}}',
            "status": "running" if eager else "pending",
            "token": one.successor.token,
        }


async def test_members_of_every_kind_are_written_in_one_group(store: SqlStore) -> None:
    """Completed and going on at once or later, completed at the end, failed, tried again: each kind of row apart on SQLite."""
    news = [new_flow({}, eager=True) for _ in range(5)]
    await store.steps.create(news, BUDGET)
    steps = [born(new) for new in news]
    retried = Settlement(steps[4], Status.PENDING, {}, attempt=1, delay_us=1)
    group = [went_on(steps[0], eager=True), went_on(steps[1], delay_us=7), ended(steps[2]), failed(steps[3]), retried]
    applied = (await store.steps.settle(group, BUDGET)).applied
    found = [await columns_of(store, "dwarf_steps", "step_id", step.step_id, "status, attempt") for step in steps]
    assert [(row["status"], row["attempt"]) for row in found] == [
        ("completed", 0),
        ("completed", 0),
        ("completed", 0),
        ("failed", 0),
        ("pending", 1),
    ]
    later = group[1].successor
    assert later is not None
    waiting = await columns_of(store, "dwarf_steps", "step_id", later.step_id, "status, not_before")
    assert waiting == {"status": "pending", "not_before": applied[steps[1].step_id].at + 7}
    ends = [await columns_of(store, "dwarf_flows", "flow_id", new.flow.flow_id, "status") for new in news]
    assert [row["status"] for row in ends] == ["running", "running", "completed", "failed", "running"]
