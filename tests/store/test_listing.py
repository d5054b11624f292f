"""List and purge (O9)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.store.statements import listing_window
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.status import Status
from tests.support.stores import BUDGET, cancel, claim_all, ended, failed, in_flight, look, new_flow


async def listed(store: SqlStore, query: Query, thread_id: int | None = None) -> list[int]:
    rows, cursor = await store.flows.list_page(query, 100, thread_id, "")
    assert cursor == ""
    return sorted(row.flow_id for row in rows)


@pytest.fixture
async def flows(store: SqlStore) -> dict[str, int]:
    """Five flows that differ in what can be asked for."""
    made = {
        "created": new_flow(start=False, workflow="Orders.big", priority=1),
        "pending": new_flow(fairness_key="tenant", start_at=2**52),
        "done": new_flow(priority=5),
        "broken": new_flow(),
        "stopped": new_flow(workflow="other", fairness_key="tenant"),
    }
    made["done"].flow.thread_id = made["created"].flow.flow_id
    await store.steps.create(list(made.values()), BUDGET)
    steps = {row.step_id: in_flight(row) for row in await claim_all(store, 10, BUDGET)}
    await store.steps.settle(
        [ended(steps[made["done"].step_id]), failed(steps[made["broken"].step_id], "Disk 50%_full")], BUDGET
    )
    await cancel(store, made["stopped"].flow.flow_id, "customer CHANGED mind", lambda _: b"{}")
    await look(store, "update dwarf_steps set node = 'Ship_it' where step_id = $1", made["pending"].step_id)
    return {name: new.flow.flow_id for name, new in made.items()}


FILTERS: list[tuple[Query, str]] = [
    (Query(), "created pending done broken stopped"),
    (Query(status=Status.RUNNING), "pending"),
    (Query(status=Status.FAILED), "broken"),
    (Query(workflow="line"), "pending done broken"),
    (Query(workflow="lin"), ""),
    (Query(task="Ship_it"), "pending"),
    (Query(task="a", status=Status.COMPLETED), "done"),
    (Query(fairness_key="tenant"), "pending stopped"),
    (Query(fairness_key=""), "created done broken"),
    (Query(priority=5), "done"),
    (Query(older_than_ms=3_600_000), ""),
    (Query(newer_than_ms=3_600_000), "created pending done broken stopped"),
    (Query(search="ORDERS"), "created"),
    (Query(search="ship_"), "pending"),
    (Query(search="50%_FULL"), "broken"),
    (Query(search="%"), "broken"),
    (Query(search="changed MIND"), "stopped"),
    (Query(search="\\"), ""),
    (Query(search="500"), ""),
    (Query(search="message"), ""),
    (Query(search='"'), ""),
    (Query(search="line", status=Status.COMPLETED, priority=5), "done"),
]


async def test_filters_combine(store: SqlStore, flows: dict[str, int]) -> None:
    for query, found in FILTERS:
        assert await listed(store, query) == sorted(flows[name] for name in found.split()), query


async def test_a_thread_is_a_filter(store: SqlStore, flows: dict[str, int]) -> None:
    assert await listed(store, Query(), flows["created"]) == sorted([flows["created"], flows["done"]])


async def test_the_flow_key_can_be_searched_for(store: SqlStore, flows: dict[str, int]) -> None:
    row = await store.flows.by_id(flows["done"])
    assert row is not None
    assert await listed(store, Query(search=f"1-{row.flow_id}-{row.token.lower()}")) == [flows["done"]]


async def test_updated_is_the_last_change_of_the_flows_status(store: SqlStore, flows: dict[str, int]) -> None:
    await look(store, "update dwarf_flows set updated_at = updated_at - 60000000 where flow_id = $1", flows["done"])
    await look(store, "update dwarf_steps set updated_at = updated_at - 60000000")
    assert await listed(store, Query(older_than_ms=30_000)) == [flows["done"]]
    assert flows["done"] not in await listed(store, Query(newer_than_ms=30_000))


async def test_pages_follow_each_other_newest_first_without_gap_or_repeat(store: SqlStore) -> None:
    for _ in range(3):  # flows of one group share a creation time: the id decides
        await store.steps.create([new_flow() for _ in range(9)], BUDGET)
    seen: list[int] = []
    cursor = ""
    while True:
        rows, cursor = await store.flows.list_page(Query(), 4, None, cursor)
        seen += [row.flow_id for row in rows]
        if not cursor:
            break
        assert len(rows) == 4
    assert len(seen) == 27
    assert seen == sorted(seen, reverse=True)


async def test_a_full_last_page_has_no_cursor(store: SqlStore) -> None:
    await store.steps.create([new_flow() for _ in range(4)], BUDGET)
    rows, cursor = await store.flows.list_page(Query(), 4, None, "")
    assert (len(rows), cursor) == (4, "")


SCANS = [
    Query(workflow="rare"),
    Query(task="rare"),
    Query(fairness_key="rare"),
    Query(search="RARE"),
    Query(tags={"env": "prod"}, workflow="rare"),
    Query(status=Status.CREATED, workflow="rare"),
    Query(status=Status.CREATED, tags={"env": "prod"}, workflow="rare"),
    Query(newer_than_ms=3_600_000, workflow="rare"),
]


@pytest.mark.parametrize("query", SCANS, ids=str)
async def test_a_page_that_would_look_through_too_many_flows_ends_early_and_goes_on(
    store: SqlStore, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No flow is missed or told twice, pages are short or empty, and only the last has no cursor (O9)."""
    for name, flows in (("FIRST_FLOWS", 2), ("CHEAP_FLOWS", 3), ("COSTLY_FLOWS", 3)):
        monkeypatch.setattr(listing_window, name, flows)
    wanted = []
    for number in range(23):
        rare = number in (0, 9, 10, 22)
        tags: dict[str, Any] = {"env": "prod", "kind": "rare"} if rare else {"env": "prod"}
        new = new_flow(start=False, tags=tags, **({"workflow": "rare", "fairness_key": "rare"} if rare else {}))
        await store.steps.create([new], BUDGET)
        if rare:
            wanted.append(new.flow.flow_id)
            await look(store, "update dwarf_steps set node = 'rare' where step_id = $1", new.step_id)
    seen: list[int] = []
    sizes: list[int] = []
    cursor = ""
    while cursor or not sizes:
        rows, cursor = await store.flows.list_page(query, 2, None, cursor)
        seen += [row.flow_id for row in rows]
        sizes.append(len(rows))
    assert seen == sorted(wanted, reverse=True)
    assert max(sizes) <= 2
    assert sizes.count(0) > 1, "empty pages in between"
    assert len(sizes) > 4


async def test_few_flows_that_run_are_found_at_once_however_old_they_are(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have an index; of very many, a page looks through a part only (O9)."""
    monkeypatch.setattr(listing_window, "FIRST_FLOWS", 2)
    monkeypatch.setattr(listing_window, "CHEAP_FLOWS", 3)
    old = new_flow(workflow="rare")
    await store.steps.create([old], BUDGET)
    await store.steps.create([new_flow(start=False) for _ in range(9)], BUDGET)
    query = Query(status=Status.RUNNING, workflow="rare")
    assert await listed(store, query) == [old.flow.flow_id]
    monkeypatch.setattr(listing_window, "COSTLY_FLOWS", 1)
    rows, cursor = await store.flows.list_page(query, 100, None, "")
    assert (rows, cursor != "") == ([], True)


async def test_a_cursor_that_is_none_of_ours_is_refused(store: SqlStore) -> None:
    for cursor in ("x", "!!!!", "MQ", "MS4y.LjM", "LTEuMg", "99999999999999999999", "a" * 200, "é"):
        with pytest.raises(BadRequest, match="malformed cursor"):
            await store.flows.list_page(Query(), 100, None, cursor)


async def test_purge_removes_what_matches_and_does_not_run_oldest_first(store: SqlStore, flows: dict[str, int]) -> None:
    assert await store.control.purge(Query(workflow="line"), None, 1) == 1
    assert await store.flows.by_id(flows["done"]) is None
    assert await store.control.purge(Query(workflow="line"), None, 100) == 1
    assert await store.control.purge(Query(workflow="line"), None, 100) == 0
    assert await listed(store, Query()) == sorted(flows[name] for name in ("created", "pending", "stopped"))
    assert await store.flows.size() == (3, 3)


async def test_subgraph_flows_are_not_listed_or_purged_by_themselves(store: SqlStore, flows: dict[str, int]) -> None:
    await look(store, "update dwarf_flows set surgraph_step_id = 1 where flow_id = $1", flows["done"])
    assert flows["done"] not in await listed(store, Query())
    assert await store.control.purge(Query(status=Status.COMPLETED), None, 100) == 0
