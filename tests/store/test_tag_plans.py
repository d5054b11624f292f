"""The plans of lists by tags: entries of the tag, newest first, and the flow of each, whatever the tables are like (Q1)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.store.database import Row
from dwarf_nats.store.dialect import POSTGRES, SQLITE
from dwarf_nats.store.postgres import HOT_SETTINGS
from dwarf_nats.store.statements import listing, tags
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.status import Status

pytestmark = pytest.mark.unused_database
FLOWS = 200_000
INSERT_FLOWS = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at, root_id,
  tags)
select n, 't', 'order', 'd', case when n % 1000 = 0 then 'failed' else 'completed' end, n, 't', 100, '', 1.0, '{}', '', '',
  '', 0, n, n, n, '{"env":"prod"}' from numbers
"""
INSERT_TAGS = """
insert into dwarf_tags (tag, created_at, flow_id)
select 'env=prod', n, n from numbers union all select 'order=' || n, n, n from numbers
union all select 'rare=1', n, n from numbers where n % 70000 = 0
"""
QUERIES = {
    "rare": Query(tags={"rare": 1}),
    "common": Query(tags={"env": "prod"}),
    "one of its kind": Query(tags={"order": 4711}),
    "unknown": Query(tags={"nobody": "has it"}),
    "rare and common": Query(tags={"env": "prod", "rare": 1}),
    "with a status": Query(tags={"rare": 1}, status=Status.COMPLETED),
    "with workflow and age": Query(tags={"rare": 1}, workflow="order", older_than_ms=1000),
    "with a search": Query(tags={"rare": 1}, search="order"),
}


class Noting:
    """A database that keeps the statement of a list."""

    def __init__(self, store: SqlStore) -> None:
        self._database = store.database
        self.statement: tuple[str, tuple[Any, ...]] = ("", ())

    async def fetch(self, sql: Any, *args: Any) -> list[Row]:
        self.statement = sql, args
        return await self._database.fetch(sql, *args)


async def statement_of(store: SqlStore, query: Query, *, purged: bool) -> tuple[str, Any]:
    noting: Any = Noting(store)
    if purged:
        return await listing.purgeable(noting, 1, query, thread_id=None, limit=1000)
    await listing.page(noting, 1, query, limit=100, thread_id=None, cursor="")
    return noting.statement  # type: ignore[no-any-return]


async def plan(store: SqlStore, sql: str, args: Any, *, generic: bool = False) -> str:
    if store.dsn.startswith("sqlite"):
        rows = await store.database.fetch(f"explain query plan {SQLITE.text(sql)}", *args)
        return "\n".join(str(line) for *_, line in rows)
    text = POSTGRES.text(sql)
    async with store.database.transaction() as tx:
        await tx.fetch(f"set local plan_cache_mode = {'force_generic_plan' if generic else 'force_custom_plan'}")
        rows = await tx.fetch(f"explain {text}", *args)
    return "\n".join(line for (line,) in rows)


def check(shown: str) -> None:
    """The tag's entries in the order of the primary key, each flow by its primary key; nothing sorted."""
    check_by_index(shown)
    assert not re.search(r"Sort Key: [tf]\.|Bitmap|TEMP B-TREE", shown), shown
    assert re.search(r"Scan (?:Backward )?using dwarf_tags_pkey on dwarf_tags t|SEARCH t USING PRIMARY KEY", shown), (
        shown
    )


def check_by_index(shown: str) -> None:
    """The tag's entries first; nothing is read from end to end."""
    found = re.search(r"Seq Scan on dwarf_(?:flows|tags)|Hash|Merge|SCAN [a-z_]+\b(?! USING)|dwarf_flows_newest", shown)
    assert found is None, shown
    tag, flow = ("dwarf_tags t", "dwarf_flows_pkey") if "dwarf_tags t" in shown else ("SEARCH t", "SEARCH f")
    assert 0 <= shown.find(tag) < shown.find(flow), shown


async def numbers(store: SqlStore, insert: str) -> None:
    if store.dsn.startswith("sqlite"):
        rows = f"with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < {FLOWS})"
    else:
        rows = f"with numbers as (select generate_series(1, {FLOWS}) as n)"
    into, found = insert.strip().split("\n", 1) if "dwarf_tags" in insert else insert.split("select", 1)
    await store.database.fetch(f"{into} {rows} {found if 'dwarf_tags' in insert else 'select' + found}")


@pytest.fixture(params=["not analysed", "analysed"])
async def large(dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[SqlStore]:
    """A store with very many flows; the planner knows of them, or not yet."""
    opened = SqlStore(1, dsn, pool=2, clock=SystemClock())
    await opened.open("one", migrated=True)
    await numbers(opened, INSERT_FLOWS)
    await numbers(opened, INSERT_TAGS)
    if request.param == "analysed":
        await opened.database.fetch("analyze")
    yield opened
    await opened.close()


@pytest.mark.slow
async def test_lists_and_purges_by_tags_read_large_tables_by_index_and_find_what_is_there(large: SqlStore) -> None:
    """Q1: with values known to the planner, and for any values."""
    for name, query in QUERIES.items():
        for purged in (False, True):
            sql, args = await statement_of(large, query, purged=purged)
            for generic in (False, True):
                shown = await plan(large, sql, args, generic=generic)
                try:
                    check(shown)
                except AssertionError as error:
                    raise AssertionError(f"{name}, purged {purged}, generic {generic}: {shown}") from error
    # The rarest of several tags is looked up first.
    rows, _ = await large.flows.list_page(QUERIES["rare and common"], 10, None, "")
    assert [row.flow_id for row in rows] == [140_000, 70_000]
    rows, _ = await large.flows.list_page(QUERIES["common"], 2, None, "")
    assert [row.flow_id for row in rows] == [FLOWS, FLOWS - 1]
    rows, _ = await large.flows.list_page(QUERIES["one of its kind"], 2, None, "")
    assert [row.flow_id for row in rows] == [4711]
    _, args = await statement_of(large, QUERIES["rare and common"], purged=False)
    assert args[:2] == ("rare=1", "env=prod")


@pytest.mark.slow
async def test_a_plan_made_while_the_tables_were_empty_reads_by_index(dsn: str) -> None:
    """Q1: it may be kept until the tables are analysed, and does little harm when they have grown meanwhile."""
    opened = SqlStore(1, dsn, pool=2, clock=SystemClock())
    await opened.open("one", migrated=True)
    try:
        for query in QUERIES.values():
            sql, args = await statement_of(opened, query, purged=False)
            check_by_index(await plan(opened, sql, args, generic=True))
    finally:
        await opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("empty", [True, False], ids=["empty", "analysed"])
async def test_rows_of_tags_are_removed_by_the_primary_key(dsn: str, empty: bool) -> None:
    """Q1: also on the connection of the hot statements, by a plan for any values."""
    opened = SqlStore(1, dsn, pool=2, clock=SystemClock())
    await opened.open("one", migrated=True)
    try:
        if not empty:
            await numbers(opened, INSERT_TAGS)
            await opened.database.fetch("analyze")
        rows = [tags.TagRow("env=prod", 7, 7), tags.TagRow("order=8", 8, 8)]
        if dsn.startswith("sqlite"):
            shown = await plan(opened, tags.DELETE_ONE, rows[0])
            assert "SEARCH dwarf_tags USING PRIMARY KEY (tag=? AND created_at=? AND flow_id=?)" in shown
        else:
            async with opened.database.transaction() as tx:
                for name, value in HOT_SETTINGS.items():
                    if name.startswith(("enable_", "plan_")):
                        await tx.fetch(f"set local {name} = {value}")
                text = POSTGRES.text(tags.DELETE)
                shown = "\n".join(line for (line,) in await tx.fetch(f"explain {text}", tags.encoded(rows)))
            assert "dwarf_tags_pkey" in shown
            assert "Index Cond: ((tag = " in shown
            assert not re.search(r"Seq Scan|Hash|Merge", shown), shown
        flows = [('{"env":"prod"}', 7, 7), (None, 9, 9), ('{"order":8}', 8, 8)]
        await opened.database.transact(lambda tx: tags.removed(tx, flows))
        ((left,),) = await opened.database.fetch("select count(*) from dwarf_tags where flow_id in (7, 8)")
        assert left == (0 if empty else 2)
    finally:
        await opened.close()
