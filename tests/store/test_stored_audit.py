"""Audit records of one database (M3): written once, found newest first by an index for each filter, removed in steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.ports import AuditRow
from dwarf_nats.store.statements import audit
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.audit import UNKNOWN, AuditQuery
from tests.store.test_tag_plans import plan
from tests.support.stores import new_flow

pytestmark = pytest.mark.unused_database
DAY_MS = 86_400_000


def row(number: int, **fields: Any) -> AuditRow:
    values: dict[str, Any] = {
        "at": SystemClock().now(),
        "number": number,
        "operation": "flow.cancel",
        "flow_id": None,
        "step_id": None,
        "name": "",
        "actor": "ada",
        "reason": "",
        "code": 0,
        "message": "",
        "details": "",
    }
    return AuditRow(**values | fields)


async def numbers(store: SqlStore, before: tuple[int, int] | None = None, limit: int = 10, **filters: Any) -> list[int]:
    return [one.number for one in await store.audit.find(AuditQuery(**filters), limit, before)]


async def test_a_record_is_written_once_and_read_as_it_was_m3(store: SqlStore) -> None:
    """A group whose answer was lost is written again; texts and details come back unchanged."""
    rows = [
        row(1, name='o"rder\\ {now} $1', reason="Zoë's 'reason'", details='{"task":"a"}', code=404, message="no"),
        row(2, flow_id=7),
    ]
    await store.audit.add(rows)
    await store.audit.add([*rows, row(3)])
    found = await store.audit.find(AuditQuery(), 10, None)
    assert sorted(one.number for one in found) == [1, 2, 3]
    assert [one for one in found if one.number in (1, 2)] == sorted(rows, key=lambda one: one[:2], reverse=True)


async def test_a_record_of_unknown_outcome_is_completed_once_m3(store: SqlStore) -> None:
    """Whatever comes late or twice: the first outcome stays, and a flow is known although its step is gone by then."""
    new = new_flow()
    await store.steps.create([new], 1000)
    begun = row(1, step_id=new.step_id, code=UNKNOWN, reason="why")
    await store.audit.add([begun])
    await store.database.fetch("delete from dwarf_steps where step_id = $1", new.step_id)
    await store.audit.add([begun._replace(code=409, message="no", details='{"a":1}')])
    await store.audit.add([begun])
    await store.audit.add([begun._replace(code=0)])
    (found,) = await store.audit.find(AuditQuery(), 10, None)
    assert (found.code, found.message, found.reason, found.details) == (409, "no", "why", '{"a":1}')
    assert found.flow_id == new.flow.flow_id


async def test_a_step_stands_for_its_flow_m3(store: SqlStore) -> None:
    new = new_flow()
    await store.steps.create([new], 1000)
    await store.audit.add([row(1, step_id=new.step_id), row(2, step_id=10**12)])
    found = {one.number: one.flow_id for one in await store.audit.find(AuditQuery(), 10, None)}
    assert found == {1: new.flow.flow_id, 2: None}, "a step that is not there was refused"
    assert await numbers(store, flow_id=f"1-{new.flow.flow_id}") == [1]


async def test_filters_and_pages_newest_first_m3(store: SqlStore) -> None:
    now = SystemClock().now()
    made = [
        row(1, at=now - 3 * DAY_MS * 1000, flow_id=7),
        row(2, at=now - 2 * DAY_MS * 1000, flow_id=7, actor="bob"),
        row(3, at=now - 60_000_000, flow_id=8, operation="flow.restart"),
        row(4, at=now - 60_000_000, flow_id=7, operation="flow.restart"),
    ]
    await store.audit.add(made)
    assert await numbers(store) == [4, 3, 2, 1]
    assert await numbers(store, limit=2) == [4, 3]
    assert await numbers(store, before=(made[2].at, 4)) == [3, 2, 1]
    assert await numbers(store, before=(made[2].at, 3), limit=1) == [2]
    assert await numbers(store, flow_id="1-7") == [4, 2, 1]
    assert await numbers(store, actor="bob") == [2]
    assert await numbers(store, operation="flow.restart", flow_id="1-8") == [3]
    assert await numbers(store, older_than_ms=DAY_MS) == [2, 1]
    assert await numbers(store, older_than_ms=DAY_MS, newer_than_ms=5 * DAY_MS // 2) == [2]


async def test_old_records_are_removed_oldest_first_m3(store: SqlStore) -> None:
    now = SystemClock().now()
    await store.audit.add([row(number, at=now - number * DAY_MS * 1000) for number in range(1, 6)])
    assert await store.audit.remove_old(5 * DAY_MS // 2, 2) == 2
    assert await numbers(store) == [1, 2, 3]
    assert await store.audit.remove_old(5 * DAY_MS // 2, 2) == 1
    assert await store.audit.remove_old(5 * DAY_MS // 2, 2) == 0
    assert await numbers(store) == [1, 2]


@pytest.fixture
async def crowded(dsn: str) -> AsyncIterator[SqlStore]:
    """A store with 50,000 records."""
    store = SqlStore(1, dsn, pool=4, clock=SystemClock())
    await store.open("one", migrated=True)
    for first in range(0, 50_000, 10_000):
        await store.audit.add(
            [
                row(n, at=n, flow_id=n % 10, actor=f"a{n % 10}", operation=f"o{n % 10}")
                for n in range(first, first + 10_000)
            ]
        )
    await store.database.fetch("analyze")
    yield store
    await store.close()


@pytest.mark.slow
async def test_each_filter_reads_its_index_in_order_m3(crowded: SqlStore) -> None:
    for query, index in (
        (AuditQuery(), ("dwarf_audit_pkey", "sqlite_autoindex_dwarf_audit_1")),
        (AuditQuery(flow_id="1-7"), ("dwarf_audit_flow",)),
        (AuditQuery(actor="a7"), ("dwarf_audit_actor",)),
        (AuditQuery(operation="o7"), ("dwarf_audit_operation",)),
    ):
        for before in (None, (40_000, 1)):
            shown = await plan(crowded, *audit.found(query, 101, before))
            assert any(one in shown for one in index), shown
            assert "Sort" not in shown, shown
            assert "TEMP B-TREE" not in shown, shown
    explain = "explain query plan" if crowded.dsn.startswith("sqlite") else "explain"
    rows = await crowded.database.transact_by_index(lambda tx: tx.fetch(f"{explain} {audit.REMOVE_OLD}", 1000, 1000))
    shown = "\n".join(str(one[-1]) for one in rows)
    assert "Seq Scan on dwarf_audit" not in shown, shown
    assert "SCAN dwarf_audit" not in shown, shown
