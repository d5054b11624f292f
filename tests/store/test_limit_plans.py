"""Statements about limits read by index, however many wait and however many keys there are (K1, C4)."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.store import postgres
from dwarf_nats.store.dialect import POSTGRES, SQLITE, Sql
from dwarf_nats.store.sqlite import Sqlite
from dwarf_nats.store.statements import limits
from dwarf_nats.store.store import SqlStore
from tests.store.test_statement_plans import FLOW, STEP, numbered

pytestmark = [pytest.mark.slow, pytest.mark.unused_database]

WAIT = (
    "insert into dwarf_limit_waits (step_id, name, slot, because, priority, fairness_key, turn, since)"
    " select n, 'l' || n % 3, 'l' || n % 3 || '/' || n % 500, 'limit', 1 + n % 4, 'k' || n % 7, n, n from numbers"
)
PERMIT = (
    "insert into dwarf_permits (permit, name, slot, shard, holder, of_flow, generation, started)"
    " select 'l/s1-' || n, 'l', 'l/' || n % 500, 1, n, 0, 1, 1 from numbers"
)
COUNT = (
    "insert into dwarf_limit_counts (slot, name, running, reserved, tokens, at)"
    " select 'l/' || n, 'l', n % 3, 0, null, n from numbers"
)
WHOLE = {"RUNNING", "WAITING"}
"""For people who list limits, and for gauges: they count all there is."""
STATEMENTS = {
    name: value
    for name, value in vars(limits).items()
    if name.isupper()
    and isinstance(value, str)
    and re.match(r"\s*(with|select|update|delete|insert) ", value)
    and name not in WHOLE
    and name not in {"LIVE", "PARKED"}
}


def args_of(sql: Sql) -> list[Any]:
    """Values for the parameters of a statement."""
    text = str(sql)
    found: list[Any] = []
    for number in range(1, len(set(re.findall(r"\$\d+", text))) + 1):
        if f"{{in:${number}}}" in text:
            found.append([1, 2])
        elif f"{{in_text:${number}}}" in text:
            found.append(["l/1"])
        else:
            found.append(1)
    return found


@pytest.fixture
async def full_pg(pg_dsn: str) -> str:
    connection = await asyncpg.connect(pg_dsn)
    for insert in (FLOW, STEP, WAIT, PERMIT, COUNT):
        await connection.execute(numbered(insert, sqlite=False))
    await connection.execute("analyze")
    await connection.close()
    return pg_dsn


@pytest.fixture
async def full_sqlite(sqlite_dsn: str) -> AsyncIterator[Sqlite]:
    store = SqlStore(1, sqlite_dsn, pool=1, clock=SystemClock())
    await store.open("one", migrated=True)
    assert isinstance(store.database, Sqlite)
    for insert in (FLOW, STEP, WAIT, PERMIT, COUNT):
        await store.database.fetch(numbered(insert, sqlite=True))
    yield store.database
    await store.close()


async def test_on_postgresql_every_statement_reads_by_index(full_pg: str) -> None:
    connection = await asyncpg.connect(full_pg, server_settings=postgres.HOT_SETTINGS)
    try:
        for name, sql in STATEMENTS.items():
            await connection.execute(f"prepare s as {POSTGRES.text(sql)}")
            args = ", ".join(
                "array[1,2]::bigint[]"
                if one == [1, 2]
                else "array['l/1']"
                if isinstance(one, list)
                else ("'1'" if name in {"QUEUES_AFTER"} and index < 2 else str(one))
                for index, one in enumerate(args_of(sql))
            )
            async with connection.transaction():
                await connection.execute("set local plan_cache_mode = force_generic_plan")
                ((plan,),) = await connection.fetch(f"explain (format json) execute s({_texts(args)})")
            shown = json.dumps(json.loads(plan))
            for table in ("dwarf_steps", "dwarf_flows", "dwarf_limit_waits", "dwarf_permits", "dwarf_limit_counts"):
                scans = re.findall(rf'"Node Type": "Seq Scan"[^{{}}]*"Relation Name": "{table}"', shown)
                assert not scans, (name, table, shown)
            await connection.execute("deallocate s")
    finally:
        await connection.close()


def _texts(args: str) -> str:
    """Quote numbers, so that PostgreSQL takes them for what each parameter is."""
    return ", ".join(one if one.startswith(("array", "'")) else f"'{one}'" for one in args.split(", "))


async def test_on_sqlite_every_statement_reads_by_index(full_sqlite: Sqlite) -> None:
    for name, sql in STATEMENTS.items():
        rows = await full_sqlite.fetch(f"explain query plan {SQLITE.text(sql)}", *args_of(sql))
        scans = [line for *_, line in rows if re.match(r"SCAN (?!json_each|q\b|a\b|w$|\(|CONSTANT|one\b)", str(line))]
        scans = [line for line in scans if "USING INDEX" not in line and "COVERING" not in line]
        assert not scans, (name, [line for *_, line in rows])
