"""100,000 schedules: the next one is the first entry of an index, and an idle replica asks for nothing more (R3)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.engine.maintenance import schedule_timer
from dwarf_nats.store.dialect import POSTGRES, SQLITE
from dwarf_nats.store.statements import replicas, schedules
from dwarf_nats.store.store import SqlStore
from dwarf_nats.testing import TaskProxy
from tests.support.engines import quiet, replica, shard_of

MANY = 100_000
FAR = "{now} + 3600000000 + n * 1000"
COLUMNS = "name, workflow, body, due_at, fire_at, wake_at, created_at, updated_at"
BODY = '{"name":"x","workflow":"report","cron":"0 3 * * *"}'
VALUES = f"select 's' || n, 'report', '{BODY}', {FAR}, {FAR}, {FAR}, 0, 0 from numbers"
INSERT = {
    "postgres": f"with numbers as (select generate_series(1, {MANY}) as n) insert into dwarf_schedules ({COLUMNS}) {VALUES}",
    "sqlite": f"insert into dwarf_schedules ({COLUMNS}) with recursive numbers(n) as"
    f" (select 1 union all select n + 1 from numbers where n < {MANY}) {VALUES}",
}

pytestmark = [pytest.mark.slow, pytest.mark.unused_database]


@pytest.fixture
async def crowded(dsn: str) -> AsyncIterator[SqlStore]:
    """A store with 100,000 schedules, none of them due; the planner has not been told of them."""
    opened = SqlStore(1, dsn, pool=4, clock=SystemClock())
    await opened.open("one", migrated=True)
    await opened.database.fetch(INSERT["postgres" if "postgres" in dsn else "sqlite"])
    yield opened
    await opened.close()


async def plan(store: SqlStore, sql: Any, *args: Any) -> str:
    if store.dsn.startswith("sqlite"):
        rows = await store.database.fetch(f"explain query plan {SQLITE.text(sql)}", *args)
        return "\n".join(str(row) for row in map(tuple, rows))
    rows = await store.database.transact_by_index(lambda tx: tx.fetch(f"explain {POSTGRES.text(sql)}", *args))
    return "\n".join(line for (line,) in rows)


async def test_no_statement_reads_all_schedules(crowded: SqlStore) -> None:
    """R3: on both databases, whatever the planner knows."""
    for sql, args, index in (
        (schedules.CLAIM, (100, 1), "dwarf_schedules_wake"),
        (schedules.NEXT_AND_NOW, (), "dwarf_schedules_wake"),
        (replicas.HEARTBEAT, (1, "one", 1, 0), "dwarf_schedules_wake"),
        (schedules.LATE, (1, 10), "dwarf_schedules_fire"),
        (schedules.PAGE, ("s5", 10), ""),
        (schedules.PAGE_OF_WORKFLOW, ("s5", 10, "report"), ""),
        (schedules.GET, ("s5",), ""),
    ):
        shown = await plan(crowded, sql, *args)
        assert index in shown, shown
        assert not re.search(r"Seq Scan on dwarf_schedules|SCAN dwarf_schedules\b(?! USING)", shown), shown
    claimed = await crowded.schedules.claim(100, 1)
    assert claimed.rows == []
    assert claimed.next_in is not None
    assert 0 < claimed.next_in <= 3_600_001_000


async def test_an_idle_replica_asks_for_nothing_because_of_schedules(
    dsn: str, crowded: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: after its start the timer sleeps; the heartbeat, which is there anyway, brings the next due time along."""
    if dsn.startswith("sqlite"):
        await crowded.close()  # one replica per file
    looked: list[int] = []
    fire_due = schedule_timer.ScheduleTimer.fire_due

    async def counted(self: Any) -> None:
        looked.append(1)
        await fire_due(self)

    monkeypatch.setattr(schedule_timer.ScheduleTimer, "fire_due", counted)
    async with replica(dsn, TaskProxy()) as engine:
        await quiet(engine)
        database = shard_of(engine).store.database
        asked: list[str] = []
        for name in ("fetch", "fetch_by_index", "transact", "transact_by_index"):
            call = getattr(database, name)

            def watch(*args: Any, _call: Any = call) -> Any:
                asked.append(str(args[0]))
                return _call(*args)

            monkeypatch.setattr(database, name, watch)
        heartbeat = engine._lifecycle.maintenance[1].heartbeat
        for _ in range(20):
            await heartbeat.run_once()
            await quiet(engine)
        assert len(looked) == 1
        assert not [sql for sql in asked if "dwarf_schedules" in sql and "dwarf_replicas" not in sql]
    if dsn.startswith("sqlite"):
        await crowded.open("one", migrated=True)
