"""The plans of lists by status: flows that failed or wait for a person are found among very many others (O9)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.status import Status
from tests.store.test_tag_plans import plan, statement_of

FLOWS = 100_000
INSERT = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at, root_id)
select n, 't', 'order', 'd', case when n % 50000 = 0 then 'failed' else 'completed' end, n, 't', 100, '', 1.0, '{}', '', '',
  '', 0, n, n, n from numbers
"""

pytestmark = pytest.mark.slow


@pytest.fixture
async def crowded(dsn: str) -> AsyncIterator[SqlStore]:
    """A store with 100,000 flows, two of which failed."""
    store = SqlStore(1, dsn, pool=4, clock=SystemClock())
    await store.open("one", migrated=True)
    numbers = f"select generate_series(1, {FLOWS}) as n"
    if dsn.startswith("sqlite"):
        numbers = f"select 1 as n union all select n + 1 from numbers where n < {FLOWS}"
    into, rows = INSERT.split("select", 1)
    await store.database.fetch(f"{into} select * from (with recursive numbers(n) as ({numbers}) select {rows}) as made")
    await store.database.fetch("analyze")
    yield store
    await store.close()


@pytest.mark.parametrize("status", [Status.FAILED, Status.INTERRUPTED, Status.CANCELLED])
async def test_flows_that_stopped_are_found_by_their_index(crowded: SqlStore, status: Status) -> None:
    """Not by the newest first of all flows, until one of that status turns up."""
    sql, args = await statement_of(crowded, Query(status=status), purged=False)
    shown = await plan(crowded, sql, args)
    assert "dwarf_flows_stopped" in shown, shown
    assert "dwarf_flows_newest" not in shown, shown


async def test_flows_that_were_never_started_are_found_by_their_index(crowded: SqlStore) -> None:
    sql, args = await statement_of(crowded, Query(status=Status.CREATED), purged=False)
    shown = await plan(crowded, sql, args)
    assert "dwarf_flows_unstarted" in shown, shown
    assert "dwarf_flows_newest" not in shown, shown


async def test_and_only_they(crowded: SqlStore) -> None:
    rows, cursor = await crowded.flows.list_page(Query(status=Status.FAILED), 10, None, "")
    assert ([row.flow_id for row in rows], cursor) == ([100_000, 50_000], "")


async def test_a_status_that_most_flows_have_is_read_newest_first(crowded: SqlStore) -> None:
    sql, args = await statement_of(crowded, Query(status=Status.COMPLETED), purged=False)
    shown = await plan(crowded, sql, args)
    assert "dwarf_flows_newest" in shown, shown
