"""The cost of choosing steps: rows and pages touched, whatever the backlog (C4).

On PostgreSQL a queue of 1,000,000 ready steps in 1,000 keys and 200,000 scheduled steps, on SQLite one of 100,000.
No durations.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.rules.scheduling.values import PageRequest, Share
from dwarf_nats.store import postgres
from dwarf_nats.store.migrate import migrate_postgres
from dwarf_nats.store.sqlite import Session
from dwarf_nats.store.statements import backlog, claim, peek, ready
from dwarf_nats.store.store import SqlStore

pytestmark = pytest.mark.unused_database
KEYS = 1_000
BLOCKED_STEPS = 100_000
"""The first steps of one key: a task whose valve is shut."""
SCHEDULED_STEPS = 100_000

FLOWS = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at)
select n, 't', 'w', 'd', 'running', n, 't', 100, '', 1, '{}', '', '', '', 0, n, n from generate_series(1, 1000) n
"""
# The key `k0` begins with steps of one task; the others have their steps spread over ten tasks, in turn.
STEPS = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, priority, fairness_key,
  fairness_weight, created_at, updated_at)
select n, n % 1000 + 1, 1, 't', 'a',
  case when n <= $2 then 'shut' else 'task' || ((n / $3) % 10) end, '{}', 'pending', n, 100 + 100 * (n % 2),
  case when n <= $2 then 'k0' else 'k' || (n % $3) end, 1, n, 2000000000
from generate_series(1::bigint, $1::bigint) n
"""
SCHEDULED = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, not_before, priority, fairness_key,
  fairness_weight, created_at, updated_at)
select n, n % 1000 + 1, 1, 't', 'a', 'a', '{}', 'pending', 8000000000000000 + n, 1, 's' || n, 1, n, n
from generate_series(10000000::bigint, 10000000 + $1::bigint - 1) n
"""
INDEXES = re.compile(r"Index (?:Only )?Scan using (\w+)")


async def fill(connection: asyncpg.Connection, steps: int, blocked_tasks: int, keys: int, scheduled: int) -> None:
    await connection.execute(FLOWS)
    await connection.execute(STEPS, steps, blocked_tasks, keys)
    await connection.execute(SCHEDULED, scheduled)


async def hot_connection(dsn: str) -> asyncpg.Connection:
    return await asyncpg.connect(dsn, server_settings=postgres.HOT_SETTINGS)


# -- PostgreSQL: the plans

STATEMENTS = {
    "peek": (peek.PEEK, {"dwarf_steps_ripe", "dwarf_steps_asleep"}),
    "peek past": (peek.PEEK_PAST, {"dwarf_steps_ripe", "dwarf_steps_lane", "dwarf_steps_asleep"}),
    "backlog": (backlog.BACKLOG, {"dwarf_steps_ripe"}),
    "promote_due": (ready.PROMOTE, {"dwarf_steps_asleep"}),
    "claim": (claim.CLAIM, {"dwarf_steps_ripe", "dwarf_flows_pkey"}),
    "claim past": (claim.CLAIM_WITHIN_BUDGETS, {"dwarf_steps_lane", "dwarf_flows_pkey"}),
}


@pytest.mark.slow
async def test_plans_hold_whatever_the_statistics_say(pg_dsn: str) -> None:
    """Made on an empty table, analysed or not, and on a full one whose statistics say that it is empty, and the reverse."""
    await migrate_postgres(pg_dsn)
    connection = await hot_connection(pg_dsn)
    try:
        await all_plans_read_by_index(connection, "empty")
        await connection.execute("analyze dwarf_steps; analyze dwarf_flows")
        await all_plans_read_by_index(connection, "empty, analysed")
        await fill(connection, 20_000, 5_000, 100, 2_000)
        await all_plans_read_by_index(connection, "full, statistics of an empty table")
        await connection.execute("analyze dwarf_steps; analyze dwarf_flows")
        await all_plans_read_by_index(connection, "full, analysed")
        await connection.execute("update dwarf_steps set status = 'completed'; analyze dwarf_steps")
        await all_plans_read_by_index(connection, "history only, analysed")
        await connection.execute("delete from dwarf_steps")
        await all_plans_read_by_index(connection, "empty, statistics of a full table")
    finally:
        await connection.close()


async def all_plans_read_by_index(connection: asyncpg.Connection, when: str) -> None:
    for number, (name, (sql, indexes)) in enumerate(STATEMENTS.items()):
        count = max(int(one) for one in re.findall(r"\$(\d+)", sql))
        await connection.execute(f"prepare plan_{number} as {sql}")
        rows = await connection.fetch(f"explain execute plan_{number}({', '.join(['null'] * count)})")
        await connection.execute(f"deallocate plan_{number}")
        plan = "\n".join(row[0] for row in rows)
        assert set(INDEXES.findall(plan)) == indexes, f"{name}, {when}\n{plan}"
        assert "Seq Scan" not in plan, f"{name}, {when}\n{plan}"
        assert "Bitmap" not in plan, f"{name}, {when}\n{plan}"
        # Nothing is sorted on its way to a limit, but for the few candidates of one claim.
        chosen = plan.partition("CTE picked")[2].partition("CTE claimed")[0] or plan
        assert ("Sort" in chosen) is (name == "claim past"), f"{name}, {when}\n{plan}"


# -- PostgreSQL: pages and rows


@pytest.fixture(scope="module")
def queues(postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """Two databases: a small queue and a deep one."""

    async def make(name: str, *sizes: int) -> str:
        dsn = await postgres.create_database(name)
        await migrate_postgres(dsn)
        connection = await asyncpg.connect(dsn)
        await fill(connection, *sizes)
        await connection.execute("vacuum analyze dwarf_steps")
        await connection.close()
        return dsn

    yield {
        "small": asyncio.run(make("queue_small", 1_000, 100, 10, 10)),
        "deep": asyncio.run(make("queue_deep", 300_000, BLOCKED_STEPS, KEYS, SCHEDULED_STEPS)),
    }
    for name in ("queue_small", "queue_deep"):
        asyncio.run(postgres.drop_database(name))


async def touched(dsn: str, sql: str, args: str, node: str = "") -> tuple[int, int]:
    """How many rows a statement returns, and pages it touches: it, or its CTE `node`. Nothing of it stays."""
    connection = await hot_connection(dsn)
    try:
        await connection.execute(f"prepare hot as {sql}")
        transaction = connection.transaction()
        await transaction.start()
        plan = json.loads(await connection.fetchval(f"explain (analyze, buffers, format json) execute hot({args})"))
        await transaction.rollback()
    finally:
        await connection.close()
    found = plan[0]["Plan"] if not node else named(plan[0]["Plan"], f"CTE {node}")
    return int(found["Actual Rows"]), int(found["Shared Hit Blocks"] + found["Shared Read Blocks"])


def named(plan: dict[str, Any], name: str) -> dict[str, Any]:
    for part in plan.get("Plans", ()):
        found = part if part.get("Subplan Name") == name else named(part, name)
        if found:
            return found
    return {}


def array(values: list[Any], kind: str) -> str:
    return "array[" + ", ".join(f"'{value}'" for value in values) + f"]::{kind}[]"


def claim_args(keys: list[str], steps: int, task_budgets: dict[str, int] | None = None) -> str:
    limit = len(keys) * steps
    shares = [
        array([100] * len(keys), "int"),
        array(keys, "text"),
        array([steps] * len(keys), "int"),
        array([0] * len(keys), "int"),
    ]
    if task_budgets is not None:
        shares += [array(list(task_budgets), "text"), array(list(task_budgets.values()), "int")]
    return ", ".join(shares) + f", {limit}, 1, 1000"


EVEN = [f"k{number}" for number in range(0, KEYS, 2)]
PROBE = 6
"""Pages one probe may touch: down the index, and the row."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "args", "rows"),
    [
        (peek.PEEK, "0, 0, '', 1", 1),
        (peek.PEEK, "0, 0, '', 64", 64),
        (peek.PEEK, "100, 0, '', 64", 64),
        (peek.PEEK, "0, 100, 'k500', 64", 64),
        (peek.PEEK_PAST, "0, 0, '', 64, array['shut', 'task3'], ''", 64),
        (peek.PEEK_PAST, "0, 100, 'k500', 64, array['shut'], 'task5'", 64),
    ],
)
async def test_a_page_costs_its_heads(queues: dict[str, str], sql: str, args: str, rows: int) -> None:
    """A probe each, whatever is in the queue behind, scheduled, or of tasks that are passed over."""
    found, pages = await touched(queues["deep"], sql, args)
    assert rows <= found <= rows * 1.2
    assert pages <= (found + 3) * PROBE


@pytest.mark.slow
async def test_counting_the_queue_costs_what_is_counted(queues: dict[str, str]) -> None:
    """T1: two bands, 500 steps and 50 keys of each, of a million steps."""
    found, pages = await touched(queues["deep"], backlog.BACKLOG, "16, 500, 50")
    assert found == 2
    assert pages <= 2 * (500 + 50 * PROBE) + 10 * PROBE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "keys", "steps", "task_budgets", "rows"),
    [
        (claim.CLAIM, ["k0"], 80, None, 80),
        (claim.CLAIM, EVEN[:80], 1, None, 80),
        (claim.CLAIM, EVEN[:8], 10, None, 80),
        (claim.CLAIM_WITHIN_BUDGETS, ["k2"], 80, {"elsewhere": 0}, 80),
        (claim.CLAIM_WITHIN_BUDGETS, ["k0"], 80, {"shut": 0}, 80),
        (claim.CLAIM_WITHIN_BUDGETS, ["k0"], 80, {"shut": 5}, 80),
        (claim.CLAIM_WITHIN_BUDGETS, EVEN[:8], 10, {"shut": 0, "task1": 0}, 80),
    ],
)
async def test_choosing_costs_what_is_chosen(
    queues: dict[str, str], sql: str, keys: list[str], steps: int, task_budgets: dict[str, int] | None, rows: int
) -> None:
    """C3, C4: 100,000 steps of a task that is passed over are not walked through either."""
    found, pages = await touched(queues["deep"], sql, claim_args(keys, steps, task_budgets), "picked")
    tasks = 11 if task_budgets is not None else 1  # from each of a key's tasks as many as could be the oldest
    assert found == rows
    assert pages <= (rows * 2 + len(keys) * PROBE) * tasks + rows * PROBE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "keys", "steps", "task_budgets"),
    [(claim.CLAIM, ["k2"], 40, None), (claim.CLAIM_WITHIN_BUDGETS, ["k2"], 40, {"shut": 0})],
    ids=["claim", "claim past"],
)
async def test_a_claim_touches_no_more_pages_of_a_deep_queue_than_of_a_small_one(
    queues: dict[str, str], sql: str, keys: list[str], steps: int, task_budgets: dict[str, int] | None
) -> None:
    """C4: but for the depth of the indexes."""
    args = claim_args(keys, steps, task_budgets)
    few, small = await touched(queues["small"], sql, args)
    many, deep = await touched(queues["deep"], sql, args)
    assert (few, many) == (steps, steps)
    assert deep <= small * 2


@pytest.mark.slow
async def test_scheduled_steps_cost_nothing_until_they_are_due(queues: dict[str, str]) -> None:
    """C5: the next one is found by a probe, and nobody else looks at them."""
    rows, pages = await touched(queues["deep"], ready.PROMOTE, "1000")
    assert (rows, pages <= PROBE) == (0, True)


# -- SQLite


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, sqlite3.Connection]]:
    """A small queue and a deep one."""

    async def make(name: str, steps: int, blocked_tasks: int, keys: int, scheduled: int) -> sqlite3.Connection:
        path = tmp_path_factory.mktemp(name) / "line.db"
        store = SqlStore(1, f"sqlite:///{path}", pool=1, clock=ManualClock())
        await store.open("one", migrated=True)
        await store.close()
        connection = sqlite3.connect(path)
        series = "with recursive s(n) as (select ?1 union all select n + 1 from s where n < ?2) "
        columns, rows = STEPS.split("select", 1)
        made = rows.split("from generate_series")[0].replace("$2", "?3").replace("$3", "?4")
        connection.execute(columns + series + "select" + made + "from s", (1, steps, blocked_tasks, keys))
        columns, rows = SCHEDULED.split("select", 1)
        made = rows.split("from generate_series")[0]
        connection.execute(columns + series + "select" + made + "from s", (10_000_000, 10_000_000 + scheduled - 1))
        connection.commit()
        return connection

    made = {
        "small": asyncio.run(make("small", 1_000, 100, 10, 10)),
        "deep": asyncio.run(make("deep", 100_000, 20_000, 100, 20_000)),
    }
    yield made
    for connection in made.values():
        connection.close()


def steps_of(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Any]) -> int:
    """How many instructions of SQLite's virtual machine `work` takes."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(tick, 1)
    try:
        work(connection)
    finally:
        connection.set_progress_handler(None, 0)
    return count


NOW = 5 * 10**15
WORK: dict[str, Callable[[sqlite3.Connection], Any]] = {
    "peek": lambda c: peek.Peek(PageRequest(limit=5), ()).on_sqlite(Session(c, NOW)),
    "peek from a key on": lambda c: peek.Peek(PageRequest(0, 100, "k4", limit=3), ()).on_sqlite(Session(c, NOW)),
    "peek past": lambda c: peek.Peek(PageRequest(limit=5), ("shut", "task1")).on_sqlite(Session(c, NOW)),
    "backlog": lambda c: backlog.Backlog(4, 50, 5).on_sqlite(Session(c, NOW)),
    "claim of one key": lambda c: claim.pick_sqlite(Session(c, NOW), 20, [Share(100, "k2", 20)], {}),
    "claim of several": lambda c: claim.pick_sqlite(
        Session(c, NOW), 20, [Share(100, f"k{n}", 5) for n in (2, 4, 6, 8)], {}
    ),
    "claim past": lambda c: claim.pick_sqlite(Session(c, NOW), 5, [Share(100, "k0", 5)], {"shut": 0}),
    "claim with an allowance": lambda c: claim.pick_sqlite(Session(c, NOW), 5, [Share(100, "k0", 5)], {"shut": 3}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WORK))
def test_sqlite_works_no_more_on_a_deep_queue(files: dict[str, sqlite3.Connection], name: str) -> None:
    """C4."""
    found = {depth: WORK[name](connection) for depth, connection in files.items()}
    size = {depth: len(one) if isinstance(one, list) else len(one.heads) for depth, one in found.items()}
    assert 0 < size["small"] <= size["deep"]
    each = {depth: steps_of(connection, WORK[name]) / size[depth] for depth, connection in files.items()}
    assert each["deep"] <= each["small"] * 1.3


@pytest.mark.slow
@pytest.mark.parametrize("analysed", [False, True])
def test_sqlite_searches_an_index_for_every_probe(files: dict[str, sqlite3.Connection], analysed: bool) -> None:
    connection = files["deep"]
    if analysed:
        connection.execute("analyze")
    probes = [
        peek.BEST,
        peek.KEY_FROM,
        peek.NEXT_KEY,
        peek.NEXT_PRIORITY,
        peek.TASK_FROM,
        peek.NEXT_TASK,
        peek.TASK_NEXT_KEY,
        peek.TASK_NEXT_PRIORITY,
        claim.KEY_STEPS,
        claim.NEXT_TASK,
        claim.TASK_STEPS,
    ]
    for sql in probes:
        plan = [line for *_, line in connection.execute(f"explain query plan {sql}", [1] * sql.count("?"))]
        assert [one.startswith("SEARCH dwarf_steps USING INDEX dwarf_steps_") for one in plan] == [True], sql
    counted = [line for *_, line in connection.execute(f"explain query plan {backlog.PRIORITY_STEPS}", [1, 1])]
    assert "SEARCH dwarf_steps USING INDEX dwarf_steps_ripe (priority=?)" in counted
    # The first of its index; `scan` is SQLite's word for reading from the start on.
    ((*_, wakes),) = connection.execute(f"explain query plan {peek.NEXT_SCHEDULED_SQLITE}").fetchall()
    assert wakes == "SCAN dwarf_steps USING INDEX dwarf_steps_asleep"
    plan = [line for *_, line in connection.execute(f"explain query plan {claim.CLAIM_SQLITE}", [1, "[]"])]
    assert [one.split(" USING ")[0] for one in plan[1:3]] == ["SEARCH s", "SEARCH f"]
