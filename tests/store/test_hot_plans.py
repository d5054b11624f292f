"""The plans of the hot statements: a group is looked up row by row in the primary keys, whatever the tables were like
when the plan was made. A plan cached on empty tables must not read all that runs, nor compare each with each."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from dwarf_nats.store import cohorts, postgres
from dwarf_nats.store.migrate import migrate_postgres

pytestmark = pytest.mark.slow


@pytest.fixture
async def hot(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the settings of the one that runs the hot statements, to an empty shard."""
    await migrate_postgres(pg_dsn)
    connection = await asyncpg.connect(pg_dsn, server_settings=postgres._HOT)
    yield connection
    await connection.close()


async def plan_of(connection: asyncpg.Connection, sql: str) -> str:
    """The generic plan, as made on the tables as they are."""
    count = max(int(number) for number in re.findall(r"\$(\d+)", sql))
    await connection.execute(f"prepare hot as {sql}")
    rows = await connection.fetch(f"explain (verbose) execute hot({', '.join(['null'] * count)})")
    return "\n".join(row[0] for row in rows)


async def test_settle_reads_by_primary_key_even_if_planned_on_empty_tables(hot: asyncpg.Connection) -> None:
    plan = await plan_of(hot, postgres.SETTLE)
    assert set(re.findall(r"Index Scan using (\w+)", plan)) == {"dwarf_steps_pkey", "dwarf_flows_pkey"}
    assert "Seq Scan" not in plan
    assert "Join Filter" not in plan
    assert "hashed SubPlan" in plan
    assert "(SubPlan" not in plan


@pytest.mark.parametrize("sql", [postgres.CREATE, postgres.CREATE_KEYED], ids=["plain", "keyed"])
async def test_create_joins_nothing(hot: asyncpg.Connection, sql: str) -> None:
    """Whether a task is tripped, and which flows were made, is looked up in hashes filled once per statement."""
    plan = await plan_of(hot, sql)
    assert "Nested Loop" not in plan
    assert len(set(re.findall(r"hashed SubPlan \d+", plan))) == (2 if sql is postgres.CREATE_KEYED else 1)
    assert "(SubPlan" not in plan


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (cohorts.ARRIVE, "dwarf_steps_pkey"),
        (cohorts.MEMBERS, "dwarf_steps_cohort"),
        (cohorts.CONVERGE, "dwarf_steps_cohort"),
    ],
    ids=["arrive", "members", "converge"],
)
async def test_a_cohort_is_found_by_its_index(hot: asyncpg.Connection, sql: str, index: str) -> None:
    """F6: whatever else is in the table."""
    plan = await plan_of(hot, sql)
    assert index in plan
    assert "Seq Scan" not in plan
