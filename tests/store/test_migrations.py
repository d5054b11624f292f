"""The schema: from empty, again, by several replicas at once; and plans of the hot statements."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.store import postgres, sqlite, upgrade
from dwarf_nats.store.dsn import read
from dwarf_nats.store.revisions import HEAD
from dwarf_nats.store.statements import claim, create, settle
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.keys import Key
from tests.support.stores import BUDGET, claim_all, look, new_flow


def store_on(dsn: str) -> SqlStore:
    return SqlStore(1, dsn, pool=2, clock=SystemClock())


async def test_an_empty_database_is_brought_to_the_newest_revision_and_stays_there(empty_dsn: str) -> None:
    for _ in range(2):
        store = store_on(empty_dsn)
        await store.open("one", migrated=True)
        await store.steps.create([new_flow()], BUDGET)
        assert await look(store, "select version_num from dwarf_schema") == [(HEAD,)]
        await store.close()
    store = store_on(empty_dsn)
    await store.open("one", migrated=False)
    assert await store.flows.size() == (2, 2)
    await store.close()


async def test_a_store_that_may_not_migrate_says_that_it_is_needed(empty_dsn: str) -> None:
    store = store_on(empty_dsn)
    with pytest.raises(Unavailable, match=r"revision None, this version needs .*: run dwarf-nats migrate"):
        await store.open("one", migrated=False)
    await store.close()


async def test_a_schema_of_a_later_version_is_refused(empty_dsn: str) -> None:
    store = store_on(empty_dsn)
    await store.open("one", migrated=True)
    await look(store, "update dwarf_schema set version_num = '9999'")
    await store.close()
    store = store_on(empty_dsn)
    with pytest.raises(Unavailable, match="cannot be migrated: .*9999"):
        await store.open("one", migrated=True)
    await store.close()
    with pytest.raises(Unavailable, match="revision 9999, of a later version than this one: upgrade this replica"):
        await store.open("one", migrated=False)
    await store.close()


def _revisions() -> list[str]:
    """All that were ever released, the oldest first."""
    return [one.revision for one in upgrade.scripts().walk_revisions()][::-1]


async def _leave_at(store: SqlStore, revision: str) -> None:
    """Bring an empty database to a revision, as the version of that time did."""
    await store.database.open()
    if isinstance(store.database, postgres.Postgres):
        raw = await read(store.dsn).connect({}, command_timeout=None)
        await upgrade.upgrade_postgres(raw, revision)
        await raw.close()
    else:
        assert isinstance(store.database, sqlite.Sqlite)
        await store.database.call(lambda raw: upgrade.upgrade_sqlite(raw, revision))


OLD_FLOW = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, started_at, updated_at)
values (900001, 'aaaaaaaaaaaaaaaa', 'line', 'd', 'running', 900001, 'aaaaaaaaaaaaaaaa', 100, '', 1, '{}', '', '', '', 0, 1, 1,
  1)
"""
OLD_STEP = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, priority, fairness_key,
  fairness_weight, created_at, updated_at)
values (900001, 900001, 1, 'bbbbbbbbbbbbbbbb', 'a', 'a', '{"n":1}', 'pending', 1, 100, '', 1, 1, 1)
"""


@pytest.mark.parametrize("revision", _revisions())
async def test_every_revision_ever_released_is_brought_to_the_newest_and_its_flows_go_on(
    empty_dsn: str, revision: str
) -> None:
    store = store_on(empty_dsn)
    await _leave_at(store, revision)
    assert await look(store, "select version_num from dwarf_schema") == [(revision,)]
    for statement in (OLD_FLOW, OLD_STEP):
        await store.database.fetch(statement)
    await store.close()
    store = store_on(empty_dsn)
    await store.open("one", migrated=True)
    assert await look(store, "select version_num from dwarf_schema") == [(HEAD,)]
    flow = await store.flows.get(Key(1, 900_001, "a" * 16))
    assert (flow.workflow, flow.status, flow.trace) == ("line", "running", "")
    (row,) = await claim_all(store, 10, BUDGET)
    assert (row.step_id, row.node, row.state, row.trace) == (900_001, "a", '{"n":1}', "")
    await store.close()


@pytest.mark.slow
async def test_replicas_starting_at_once_migrate_in_turn(empty_pg_dsn: str) -> None:
    stores = [store_on(empty_pg_dsn) for _ in range(3)]
    await asyncio.gather(*(store.open("one", migrated=True) for store in stores))
    assert len({store.replicas.replica_id for store in stores}) == 3
    assert await look(stores[0], "select count(*) from dwarf_replicas") == [(3,)]
    await asyncio.gather(*(store.close() for store in stores))


async def test_one_replica_per_sqlite_file(empty_sqlite_dsn: str) -> None:
    one, two = store_on(empty_sqlite_dsn), store_on(empty_sqlite_dsn)
    await one.open("one", migrated=True)
    with pytest.raises(Unavailable, match="in use by another replica"):
        await two.open("two", migrated=True)
    await one.close()
    await two.open("two", migrated=True)
    await two.close()


async def test_a_closed_store_is_unavailable_and_can_be_opened_again(empty_dsn: str) -> None:
    store = store_on(empty_dsn)
    await store.open("one", migrated=True)
    await store.close()
    with pytest.raises(Unavailable, match="not running"):
        await store.flows.size()
    await store.open("one", migrated=True)
    assert await store.flows.size() == (0, 0)
    await store.close()


async def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        await store_on(f"sqlite:///{tmp_path}/nowhere/dwarf.db").open("one", migrated=True)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/nowhere"):
        await store_on("postgresql://user:secret@127.0.0.1:1/nowhere").open("one", migrated=True)
    for dsn in ("mysql://host/name", "dwarf.db", ""):
        with pytest.raises(BadRequest, match="use postgresql://"):
            store_on(dsn)


HISTORY = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at)
select n, 't', 'w', 'd', case n % 4 when 0 then 'running' else 'completed' end, n, 't', 100, '', 1, '{}', '', '', '', 0, n, n
from generate_series(1000001, 1020000) n;
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, priority, fairness_key,
  fairness_weight, created_at, updated_at)
select n, n, 1, 't', 'a', 'a', '{}', case n % 4 when 0 then 'pending' else 'completed' end, n, 100, '', 1, n, n
from generate_series(1000001, 1020000) n;
analyze dwarf_flows; analyze dwarf_steps
"""
SCAN = re.compile(r"Seq Scan on dwarf_(steps|flows)")


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["empty", "20,000 rows"])
async def test_hot_statements_read_through_indexes_only(empty_pg_dsn: str, rows: str) -> None:
    """C4: a plan made while a table is empty must hold when it has grown."""
    store = store_on(empty_pg_dsn)
    await store.open("one", migrated=True)
    hot = await asyncpg.connect(empty_pg_dsn, server_settings=postgres.HOT_SETTINGS)
    try:
        if rows != "empty":
            await hot.execute(HISTORY)
        statements = {
            "CREATE": create.CREATE,
            "CREATE_KEYED": create.CREATE_KEYED,
            "CLAIM": claim.CLAIM,
            "SETTLE": settle.SETTLE,
        }
        for name, sql in statements.items():
            count = max(int(number) for number in re.findall(r"\$(\d+)", sql))
            await hot.execute(f"prepare hot_{name} as {sql}")
            lines = await hot.fetch(f"explain execute hot_{name}({', '.join(['null'] * count)})")
            plan = "\n".join(line[0] for line in lines)
            assert SCAN.search(plan) is None, f"{name}\n{plan}"
            if name == "CLAIM":
                assert "Index Scan using dwarf_steps_ripe" in plan, plan
    finally:
        await hot.close()
        await store.close()
