"""The plans of events with 100,000 steps that wait: a signal reads those of its topic, an idle replica reads none (E1-E3)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.rules.events import NewEvent, Topic
from dwarf_nats.store.dialect import POSTGRES, SQLITE
from dwarf_nats.store.statements import event_visits, events, replicas
from dwarf_nats.store.store import SqlStore
from tests.support.stores import is_empty

WAITING = 100_000
PAID = Topic("order.paid", "7")
INSERT = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, parked, not_before, priority, fairness_key,
  fairness_weight, created_at, updated_at, wait_event, wait_key)
select n, n, 1, 't', 'a', 'a', '{}', 'running', 3, 0, 100, '', 1.0, 0, 0, 'order.paid', cast(n as text) from numbers
"""
NUMBERS = {
    "postgres": f"with numbers as (select generate_series(1, {WAITING}) as n)",
    "sqlite": f"with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < {WAITING})",
}

pytestmark = pytest.mark.slow


@pytest.fixture
async def crowded(module_dsn: str) -> AsyncIterator[SqlStore]:
    """A store with steps that wait, each for a key of its own; the planner has not been told of them."""
    opened = SqlStore(1, module_dsn, pool=4, clock=SystemClock())
    await opened.open("one", migrated=True)
    if await is_empty(opened, "dwarf_steps"):
        await opened.database.fetch(f"{NUMBERS['postgres']} {INSERT}" if "postgres" in module_dsn else _sqlite())
    yield opened
    await opened.close()


def _sqlite() -> str:
    into, rows = INSERT.split("select", 1)
    return f"{into} {NUMBERS['sqlite']} select {rows}"


async def plan(store: SqlStore, sql: Any, *args: Any) -> str:
    """The plan of a statement, as the store runs it by index."""
    if store.dsn.startswith("sqlite"):
        text = SQLITE.text(sql)
        rows = await store.database.fetch(f"explain query plan {text}", *args)
        return "\n".join(str(row) for row in map(tuple, rows))
    rows = await store.database.transact_by_index(lambda tx: tx.fetch(f"explain {POSTGRES.text(sql)}", *args))
    return "\n".join(line for (line,) in rows)


@pytest.mark.parametrize(
    ("sql", "args"),
    [(events.WAKE_ALL, (*PAID, "{}")), (events.WAKE_ONE, (*PAID, "{}")), (events.WAITS_SINCE, tuple(PAID))],
    ids=["wake all", "wake one", "waits since"],
)
async def test_steps_that_wait_are_found_by_their_index(crowded: SqlStore, sql: str, args: tuple[Any, ...]) -> None:
    """E1: and nothing is read from end to end."""
    shown = await plan(crowded, sql, *args)
    assert "dwarf_steps_events" in shown
    assert not re.search(r"Seq Scan on dwarf_steps|SCAN dwarf_steps\b(?! USING)", shown), shown


@pytest.mark.parametrize(
    ("sql", "args", "index"),
    [
        (events.OLDEST_KEPT, tuple(PAID), "dwarf_events_kept"),
        (events.ANY_KEPT, tuple(PAID), "dwarf_events_kept"),
        (events.KNOWN, (*PAID, "m1"), "dwarf_events_ids"),
        (events.REMOVE_OLD, (10,), "dwarf_events_old"),
        (event_visits.TAKE_UNFINISHED, (0, 10), "dwarf_events_unfinished"),
        (event_visits.TAKE_ASKS, (0, 10), "dwarf_event_asks_old"),
        (event_visits.OLD_VISITS, (0, 10), "dwarf_event_visits_old"),
    ],
    ids=["oldest kept", "any kept", "known", "remove old", "unfinished", "asks", "old visits"],
)
async def test_events_are_found_by_their_index(crowded: SqlStore, sql: str, args: tuple[Any, ...], index: str) -> None:
    """E1, E3."""
    assert index in await plan(crowded, sql, *args)


@pytest.mark.parametrize(
    ("sql", "args"),
    [
        (replicas.RECLAIM_EXPIRED, (1000,)),
        (replicas.RELEASE_UNOWNED, (1, [])),
        (replicas.DELETE_DEAD, (1000,)),
    ],
    ids=["reclaim", "release", "dead replicas"],
)
async def test_what_an_idle_replica_does_reads_no_step_that_waits(
    crowded: SqlStore, sql: str, args: tuple[Any, ...]
) -> None:
    """E2: the leases are found by an index that leaves out steps without one."""
    ((definition,),) = await crowded.database.fetch(
        "select sql from sqlite_master where name = 'dwarf_steps_held'"
        if crowded.dsn.startswith("sqlite")
        else "select indexdef from pg_indexes where indexname = 'dwarf_steps_held'"
    )
    assert "parked = 0" in definition
    plain = [args[0], *("[]" if crowded.dsn.startswith("sqlite") else one for one in args[1:])]
    shown = await plan(crowded, sql, *plain)
    assert "dwarf_steps_held" in shown
    assert not re.search(r"Seq Scan on dwarf_steps|SCAN dwarf_steps\b(?! USING)", shown), shown


async def test_a_signal_among_many_reaches_the_step_that_waits_for_it(crowded: SqlStore) -> None:
    """E1."""
    new = NewEvent(topic=Topic("order.paid", "500"), id="m", repeatable=False, data="1")
    signalled = await crowded.events.signal(new, shards=1)
    assert signalled is not None
    assert [step.step_id for step in signalled.due] == [500]
