"""Every statement about compensations, events, deadlines and pauses reads by index (N9, E1-E3, P5, P6).

The statements are found in their modules, so that none is forgotten. Plans are made without values, as a cached one is, on
tables with many rows of every kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.store import postgres
from dwarf_nats.store.dialect import POSTGRES, SQLITE, Sql, Statement
from dwarf_nats.store.sqlite import Sqlite
from dwarf_nats.store.statements import compensation, deadlines, event_visits, events, pauses, shown_pauses
from dwarf_nats.store.store import SqlStore
from tests.support.stores import is_empty

pytestmark = [pytest.mark.slow, pytest.mark.unused_database]

GROWING = ("dwarf_flows", "dwarf_steps", "dwarf_events", "dwarf_event_visits", "dwarf_event_asks", "dwarf_graphs")
ASIDE = {"COMPENSATED", "REASON", "BEGIN_CANCELLED"}
BY_POOL = {"MATCHED", "TAKE_UNFINISHED", "TAKE_ASKS", "CLOSE_ASK", "OLD_VISITS", "REMOVE_VISIT", "REMOVE_OLD"}
"""Statements about events that run on a connection of the pool as they are."""
IN_SETTLEMENTS = {
    "events": {"PARK", "RECEIVE", "ANY_KEPT", "OLDEST_KEPT", "DONE", "DELETE", "ASK"},
    "pauses": {"BREAKPOINT_HIT", "INTERRUPT_PAYLOAD", "LOCK_FLOW", "KEEP_PAUSE_ORDER", "INTERRUPT"},
}
IN_ORDER = {
    **dict.fromkeys(
        ("deadlines.LOCK_PASSED", "deadlines.NEXT_DEADLINE", "deadlines.NEXT_AND_NOW"), "dwarf_steps_deadlines"
    ),
    "event_visits.OLD_VISITS": "dwarf_event_visits_old",
}
"""Statements that read an index from its first entry on, and no further than their limit."""

SMALL = {
    **dict.fromkeys(("compensation.NEXT", "compensation.ANY_UNDER_WAY"), "dwarf_steps_compensations"),
    "compensation.COMPENSATING": "dwarf_flows_compensating",
    **dict.fromkeys(("pauses.KEEP_PAUSE_ORDER", "pauses.STILL_PAUSED", "pauses.LOCK_PAUSES"), "dwarf_steps_paused"),
    "shown_pauses.LISTED": "dwarf_steps_paused",
}


def statements() -> Iterator[tuple[str, Sql]]:
    """Every statement that reads a table, by `module.NAME`."""
    for module in (compensation, deadlines, event_visits, events, pauses, shown_pauses):
        for name, value in vars(module).items():
            if name.isupper() and not name.startswith("_") and _is_statement(module, name, value):
                yield f"{module.__name__.rsplit('.', 1)[1]}.{name}", value


def _is_statement(module: ModuleType, name: str, value: Any) -> bool:
    imported = isinstance(value, str) and f"\n{name} = " not in _source(module)
    text = value.postgres if isinstance(value, Statement) else value
    return isinstance(text, str) and not imported and bool(re.match(r"\s*(with|select|update|delete|insert)\b", text))


def _source(module: ModuleType) -> str:
    assert module.__file__ is not None
    with open(module.__file__) as file:
        return file.read()


STATEMENTS = dict(statements())

FLOW = (
    "insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,"
    " fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at, root_id,"
    " surgraph_flow_id, surgraph_step_id, compensating)"
    " select n, 't', 'w', 'd' || n % 1000, case when n % 3 = 0 then 'running' else 'completed' end, n, 't', 1, '', 1, '{}', '',"
    " '', '', 0, n, n, n - n % 10, case when n % 10 > 0 then n - n % 10 end, case when n % 10 > 0 then n end,"
    " case when n % 30 = 0 then 'failed' end from numbers"
)
STEP = (
    "insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, parked, not_before, priority,"
    " fairness_key, fairness_weight, created_at, updated_at, compensates, wait_event, wait_key, wait_until)"
    " select n, n - n % 5, n % 5, 't', 'a', 'a', '{}', case when n % 5 = 0 then 'completed' when n % 5 = 1 then 'created'"
    " when n % 5 = 2 then 'interrupted' else 'running' end, case when n % 5 = 3 then 3 else 0 end, n, 1, '', 1, n, n,"
    " case when n % 5 = 1 then n - 1 end, case when n % 5 = 3 then 'paid' end, case when n % 5 = 3 then 'k' || n % 100 end,"
    " case when n % 5 in (2, 3) and n % 3 = 0 then 8000000000000000 + n end from numbers"
)
EVENT = (
    "insert into dwarf_events (event, key, number, id, repeatable, data, at, keep_until, state, touched_at)"
    " select 'paid', 'k' || n % 100, n, 'i' || n, 0, '1', n, n + 8000000000000000, case n % 3 when 0 then 'kept' when 1 then"
    " 'open' else 'reserved' end, case when n % 3 > 0 then n end from numbers"
)
VISIT = (
    "insert into dwarf_event_visits (event, key, id, turn, delivered, at)"
    " select 'paid', 'k' || n % 100, 'i' || n, 0, 1, n from numbers"
)
ASK = (
    "insert into dwarf_event_asks (step_id, lease_seq, event, key, touched_at)"
    " select n, 1, 'paid', 'k' || n % 100, n from numbers"
)
GRAPH = "insert into dwarf_graphs (digest, body) select 'd' || n, '{}' from numbers"
INSERTS = (FLOW, STEP, EVENT, VISIT, ASK, GRAPH)
COUNT = 20_000


def numbered(insert: str, *, sqlite: bool) -> str:
    """The statement for many rows."""
    into, rows = insert.split(" select ", 1)
    numbers = (
        f"with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < {COUNT})"
        if sqlite
        else f"with numbers as (select generate_series(1::bigint, {COUNT}::bigint) as n)"
    )
    return f"{into} {numbers} select {rows}"


@pytest.fixture
async def full_pg(module_pg_dsn: str) -> str:
    """A PostgreSQL database with many rows."""
    connection = await asyncpg.connect(module_pg_dsn)
    if not await connection.fetch("select 1 from dwarf_flows limit 1"):
        for insert in INSERTS:
            await connection.execute(numbered(insert, sqlite=False))
        await connection.execute("analyze")
    await connection.close()
    return module_pg_dsn


@pytest.fixture
async def full_sqlite(module_sqlite_dsn: str) -> AsyncIterator[Sqlite]:
    """An SQLite database with many rows."""
    store = SqlStore(1, module_sqlite_dsn, pool=1, clock=SystemClock())
    await store.open("one", migrated=True)
    assert isinstance(store.database, Sqlite)
    if await is_empty(store):
        for insert in INSERTS:
            await store.database.fetch(numbered(insert, sqlite=True))
    yield store.database
    await store.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a plan of PostgreSQL."""
    yield plan
    for one in plan.get("Plans", ()):
        yield from nodes(one)


def parameters(text: str) -> int:
    return max((int(number) for number in re.findall(r"[$?](\d+)", text)), default=0)


def read_whole(name: str, plan: dict[str, Any]) -> list[str]:
    """The tables and indexes that a plan of PostgreSQL reads from end to end."""
    found = []
    for node in nodes(plan):
        kind, table, index = (node.get(key, "") for key in ("Node Type", "Relation Name", "Index Name"))
        by_index = kind in ("Index Scan", "Index Only Scan", "Bitmap Index Scan")
        if kind == "Seq Scan" and table in GROWING:
            found.append(table)
        elif by_index and index.startswith(GROWING) and "Index Cond" not in node and index != IN_ORDER.get(name):
            found.append(index)
    return found


async def test_postgres_reads_by_index(full_pg: str) -> None:
    found = []
    for name, sql in STATEMENTS.items():
        for settings in settings_of(name):
            plan = await generic_plan(full_pg, sql, settings)
            if whole := read_whole(name, plan):
                found.append(f"{name}: {whole}\n{outline(plan)}")
    assert not found, "\n".join(found)


async def test_settlements_read_by_index_if_planned_on_empty_tables(pg_dsn: str) -> None:
    """A plan is kept on that connection while the tables grow."""
    found = []
    for name, sql in STATEMENTS.items():
        if postgres.HOT_SETTINGS in settings_of(name):
            plan = await generic_plan(pg_dsn, sql, postgres.HOT_SETTINGS)
            if whole := read_whole(name, plan):
                found.append(f"{name}: {whole}\n{outline(plan)}")
    assert not found, "\n".join(found)


async def generic_plan(dsn: str, sql: Sql, settings: dict[str, str]) -> dict[str, Any]:
    connection = await asyncpg.connect(dsn, server_settings=settings)
    text = POSTGRES.text(sql)
    await connection.execute(f"prepare it as {text}")
    values = f"({', '.join(['null'] * parameters(text))})" if parameters(text) else ""
    ((shown,),) = await connection.fetch(f"explain (format json) execute it{values}")
    await connection.close()
    plan: dict[str, Any] = json.loads(shown)[0]["Plan"]
    return plan


def outline(plan: dict[str, Any], depth: int = 0) -> str:
    """A plan of PostgreSQL as a few lines of text."""
    wanted = (
        "Node Type",
        "Relation Name",
        "Index Name",
        "Index Cond",
        "Filter",
        "Join Filter",
        "Hash Cond",
        "Plan Rows",
    )
    line = "  " * depth + ", ".join(str(plan[key]) for key in wanted if key in plan)
    return "\n".join([line, *(outline(one, depth + 1) for one in plan.get("Plans", ()))])


def settings_of(name: str) -> list[dict[str, str]]:
    """The settings of the connections and transactions that run a statement."""
    module, _, constant = name.partition(".")
    plain = {"plan_cache_mode": "force_generic_plan"}
    if module == "compensation":
        return [plain] if constant in ASIDE else [postgres.HOT_SETTINGS, plain]
    by_index = module in ("events", "event_visits", "deadlines") and constant not in BY_POOL
    hot = [postgres.HOT_SETTINGS] if constant in IN_SETTLEMENTS.get(module, ()) else []
    return [*hot, {**plain, "enable_seqscan": "off"} if by_index else plain]


async def sqlite_plan(database: Sqlite, sql: Sql) -> list[str]:
    text = SQLITE.text(sql)
    rows = await database.fetch(f"explain query plan {text}", *[None] * parameters(text))
    return [line for *_, line in rows]


async def test_sqlite_reads_by_index(full_sqlite: Sqlite) -> None:
    found = {}
    for name, sql in STATEMENTS.items():
        if name == "events.LOCK_ALL":  # of PostgreSQL
            continue
        lines = await sqlite_plan(full_sqlite, sql)
        aliases = re.findall(r"(?:from|join|update) (dwarf_\w+) (\w+)", SQLITE.text(sql))
        growing = {*GROWING, *(alias for table, alias in aliases if table in GROWING)}
        for line in lines:
            scan = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", line)
            if scan and scan[1] in growing and scan[2] != IN_ORDER.get(name, "none"):
                found[name] = lines
    assert not found, "\n".join(f"{name}: {lines}" for name, lines in found.items())


@pytest.mark.parametrize(("name", "index"), SMALL.items(), ids=SMALL)
async def test_what_is_rare_among_the_steps_of_a_flow_has_an_index(
    full_pg: str, full_sqlite: Sqlite, name: str, index: str
) -> None:
    """10,000 branches that pause, or are compensated, do not cost 10,000 reads each."""
    sql = STATEMENTS[name]
    for settings in settings_of(name):
        assert index in outline(await generic_plan(full_pg, sql, settings))
    assert index in "\n".join(await sqlite_plan(full_sqlite, sql))
