"""The plans of lists by status: flows that failed or wait for a person are found among very many others (O9)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.store.statements import listing, listing_window
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.status import Status
from tests.store.test_tag_plans import Noting, plan, statement_of
from tests.support.stores import is_empty

FLOWS = 100_000
INSERT = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at, root_id)
select n, 't', 'order', 'd', case when n % 50000 = 0 then 'failed' else 'completed' end, n, 't', 100, '', 1.0, '{}', '', '',
  '', 0, n, n, n from numbers
"""

pytestmark = pytest.mark.slow


@pytest.fixture
async def crowded(module_dsn: str) -> AsyncIterator[SqlStore]:
    """A store with 100,000 flows, two of which failed."""
    store = SqlStore(1, module_dsn, pool=4, clock=SystemClock())
    await store.open("one", migrated=True)
    if await is_empty(store):
        await fill(store)
    yield store
    await store.close()


async def fill(store: SqlStore) -> None:
    numbers = f"select generate_series(1, {FLOWS}) as n"
    if store.dsn.startswith("sqlite"):
        numbers = f"select 1 as n union all select n + 1 from numbers where n < {FLOWS}"
    into, rows = INSERT.split("select", 1)
    await store.database.fetch(f"{into} select * from (with recursive numbers(n) as ({numbers}) select {rows}) as made")
    await store.database.fetch("analyze")


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


SCANS = {
    "workflow": Query(workflow="rare"),
    "task": Query(task="rare"),
    "fairness key": Query(fairness_key="rare"),
    "search": Query(search="rare"),
    "status and workflow": Query(status=Status.COMPLETED, workflow="rare"),
    "stopped and workflow": Query(status=Status.FAILED, workflow="rare"),
}


@pytest.mark.parametrize("query", SCANS.values(), ids=SCANS.keys())
async def test_what_is_looked_through_is_bounded_on_both_sides(
    crowded: SqlStore, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a page is found in the index alone, and its flows between two places of it, in order (O9)."""
    for name, flows in (("FIRST_FLOWS", 1), ("CHEAP_FLOWS", 20_000 if query.status is not Status.FAILED else 1)):
        monkeypatch.setattr(listing_window, name, flows)
    noted: Any = Noted(crowded)
    await listing.page(noted, 1, query, limit=100, thread_id=None, cursor="")
    index = "dwarf_flows_stopped" if query.status is Status.FAILED else "dwarf_flows_newest"
    bounds = [one for one in noted.statements if "offset" in one[0]]
    pages = [one for one in noted.statements if ">= ($" in one[0]]
    assert len(bounds) == 2
    assert len(pages) == 2
    for sql, args in (bounds[-1], pages[-1]):
        shown = await plan(crowded, sql, args)
        assert index in shown, shown
        assert "Seq Scan on dwarf_flows" not in shown, shown
        assert not re.search(r"SCAN f\b(?! USING (?:COVERING )?INDEX)", shown), shown
        assert "offset" not in sql or "Sort" not in shown, shown


class Noted(Noting):
    """A database that keeps all statements of a list."""

    def __init__(self, store: SqlStore) -> None:
        super().__init__(store)
        self.statements: list[tuple[str, tuple[Any, ...]]] = []

    async def fetch(self, sql: Any, *args: Any) -> Any:
        self.statements.append((sql, args))
        return await super().fetch(sql, *args)
