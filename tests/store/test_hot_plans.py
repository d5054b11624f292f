"""The plans of the hot statements: a group is looked up row by row in the primary keys, whatever the tables were like
when the plan was made. A plan cached on empty tables must not read all that runs, nor compare each with each."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable

import asyncpg
import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.store import postgres
from dwarf_nats.store.dialect import POSTGRES
from dwarf_nats.store.migrate import migrate_postgres
from dwarf_nats.store.statements import cohorts, create, settle, settle_chains, settle_next
from dwarf_nats.store.store import SqlStore
from tests.support.stores import BUDGET, claim_all, ended, in_flight, new_flow, one_claimed, went_on

pytestmark = [pytest.mark.slow, pytest.mark.unused_database]


@pytest.fixture
async def hot(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the settings of the one that runs the hot statements, to an empty shard."""
    await migrate_postgres(pg_dsn)
    connection = await asyncpg.connect(pg_dsn, server_settings=postgres.HOT_SETTINGS)
    yield connection
    await connection.close()


async def plan_of(connection: asyncpg.Connection, sql: str) -> str:
    """The generic plan, as made on the tables as they are."""
    count = max(int(number) for number in re.findall(r"\$(\d+)", sql))
    await connection.execute(f"prepare hot as {POSTGRES.text(sql)}")
    rows = await connection.fetch(f"explain (verbose) execute hot({', '.join(['null'] * count)})")
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("sql", [settle.SETTLE, settle_chains.SETTLE_CHAINS], ids=["group", "chains"])
async def test_settle_reads_by_primary_key_even_if_planned_on_empty_tables(hot: asyncpg.Connection, sql: str) -> None:
    plan = await plan_of(hot, sql)
    assert set(re.findall(r"Index Scan using (\w+)", plan)) == {"dwarf_steps_pkey", "dwarf_flows_pkey"}
    assert "Seq Scan" not in plan
    assert "Join Filter" not in plan
    assert "hashed SubPlan" in plan
    assert "(SubPlan" not in plan


async def test_a_lone_step_is_settled_by_primary_key(hot: asyncpg.Connection) -> None:
    plan = await plan_of(hot, settle_next.SETTLE_NEXT)
    assert set(re.findall(r"Index Scan using (\w+)", plan)) == {"dwarf_steps_pkey", "dwarf_flows_pkey"}
    assert "Seq Scan" not in re.sub(r"Seq Scan on [\w.]*dwarf_tripped", "", plan)
    assert "Join Filter" not in plan


@pytest.mark.parametrize("sql", [create.CREATE, create.CREATE_KEYED], ids=["plain", "keyed"])
async def test_create_joins_nothing(hot: asyncpg.Connection, sql: str) -> None:
    """Tripped tasks, keys that were taken and flows that were made are looked up in hashes filled once per statement.

    The registry may be large: the name of an assumed graph is looked up in its index.
    """
    plan = await plan_of(hot, sql)
    registry = r"\(SubPlan (\d+)\)(?s:.)*?SubPlan \1\n +->  Index Scan using dwarf_registry_pkey"
    assert re.search(registry, plan)
    plan = re.sub(registry, "", plan)
    assert "Nested Loop" not in plan
    assert len(set(re.findall(r"hashed SubPlan \d+", plan))) == (3 if sql is create.CREATE_KEYED else 1)
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


async def read_by(store: SqlStore, work: Awaitable[object]) -> dict[str, int]:
    """How many entries of each primary key something reads on the hot connection."""

    async def totals() -> dict[str, int]:
        await hot.fetch("select pg_stat_force_next_flush()")
        rows = await hot.fetch(
            "select indexrelname, idx_tup_read from pg_stat_user_indexes where indexrelname like '%pkey'"
        )
        return {row[0]: row[1] for row in rows}

    assert isinstance(store.database, postgres.Postgres)
    hot = store.database._hot
    assert hot is not None
    before = await totals()
    await work
    return {name: count - before[name] for name, count in (await totals()).items()}


async def test_plans_made_while_the_tables_were_known_to_be_empty_do_not_stay(pg_dsn: str) -> None:
    """C4: what a purge has emptied and autovacuum has seen fills again, and nobody analyses it for a while."""
    store = SqlStore(1, pg_dsn, pool=1, clock=SystemClock())
    await store.open("one", migrated=True)
    await store.database.fetch("analyze dwarf_flows, dwarf_steps")
    await store.steps.settle([ended(await one_claimed(store))], BUDGET)
    for _ in range(10):
        await store.steps.create([new_flow() for _ in range(500)], BUDGET)
    steps = [in_flight(row) for row in await claim_all(store, 500, BUDGET)]
    for step in steps[: postgres.FIRST_REPLAN_RUNS]:
        await store.steps.settle([went_on(step)], BUDGET)
    read = await read_by(store, store.steps.settle([went_on(step) for step in steps[100:110]], BUDGET))
    await store.close()
    assert read["dwarf_flows_pkey"] <= 30, read
    assert read["dwarf_steps_pkey"] <= 30, read
