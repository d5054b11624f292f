"""Counts of flows by status, and of what is due by priority and fairness key: bounded, on both databases (O9, C4)."""

from __future__ import annotations

import pytest

from dwarf_nats.store.statements import counting, listing_window
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.records import FlowCounts
from dwarf_nats.workflow.status import Status
from tests.support.stores import BUDGET, cancel, claim_all, ended, failed, in_flight, look, new_flow


@pytest.fixture
async def flows(store: SqlStore) -> SqlStore:
    """One completed, one failed, one cancelled, two created, three running; one of these was called by another flow."""
    made = [new_flow(workflow="other", tags={"env": "prod"}), *(new_flow(fairness_key="acme") for _ in range(2))]
    await store.steps.create(made, BUDGET)
    steps = [in_flight(row) for row in await claim_all(store, 10, BUDGET)]
    await store.steps.settle([ended(steps[0]), failed(steps[1], "no")], BUDGET)
    await cancel(store, steps[2].flow.flow_id, "", lambda _: b"{}")
    await store.steps.create([new_flow(start=False) for _ in range(2)], BUDGET)
    running = [new_flow(priority=priority, fairness_key=key) for priority, key in ((7, "acme"), (7, "zeta"), (9, ""))]
    await store.steps.create(running, BUDGET)
    await look(store, "update dwarf_flows set surgraph_step_id = 1 where flow_id = $1", running[2].flow.flow_id)
    return store


async def test_flows_are_counted_by_status(flows: SqlStore) -> None:
    """Those which another flow called are not; a status without any is left out."""
    found = await flows.flows.counts(Query(), None)
    assert dict(found.counts) == {
        Status.COMPLETED: 1,
        Status.FAILED: 1,
        Status.CANCELLED: 1,
        Status.CREATED: 2,
        Status.RUNNING: 2,
    }
    assert (found.more, found.searched_to) == (frozenset(), None)


async def test_filters_count(flows: SqlStore) -> None:
    counts = flows.flows.counts
    assert await counts(Query(workflow="other"), None) == FlowCounts(
        dict.fromkeys((await counts(Query(workflow="other"), None)).counts, 1)
    )
    assert sum((await counts(Query(workflow="other"), None)).counts.values()) == 1
    assert sum((await counts(Query(tags={"env": "prod"}), None)).counts.values()) == 1
    assert sum((await counts(Query(fairness_key="acme"), None)).counts.values()) == 3
    assert (await counts(Query(status=Status.CREATED), None)).counts == {Status.CREATED: 2}
    assert (await counts(Query(search="nobody"), None)).counts == {}


async def test_no_more_are_counted_than_is_told(flows: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index up to a number of each status; else the newest flows, and since when (O9)."""
    monkeypatch.setattr(listing_window, "COSTLY_FLOWS", 3)
    found = await flows.flows.counts(Query(workflow="line"), None)
    assert sum(found.counts.values()) == 2, "of the newest three one was called by another flow"
    assert found.searched_to is not None
    monkeypatch.setattr(counting, "COUNTED", 1)
    monkeypatch.setattr(counting, "BY_STATUS", counting.BY_STATUS.replace("limit 1001", "limit 2"))
    found = await flows.flows.counts(Query(), None)
    assert found.counts[Status.CREATED] == found.counts[Status.RUNNING] == 1
    assert found.more == {Status.CREATED, Status.RUNNING}


async def test_what_is_due_is_counted_by_priority_and_fairness_key(flows: SqlStore) -> None:
    """Keys with most steps first; a key of another priority is not among them."""
    await flows.steps.create([new_flow(priority=7, fairness_key="zeta")], BUDGET)
    backlog = await flows.steps.backlogs(8, 1_000, 100)
    assert [(one.priority, one.steps, one.fairness_keys) for one in backlog] == [(7, 3, 2), (9, 1, 1)]
    keys = await flows.steps.key_backlogs([7, 9])
    assert [(one.fairness_key, one.steps) for one in keys[7]] == [("zeta", 2), ("acme", 1)]
    assert [(one.fairness_key, one.steps) for one in keys[9]] == [("", 1)]
    assert all(one.oldest_us >= 0 for one in keys[7])
    assert await flows.steps.key_backlogs([]) == {}
