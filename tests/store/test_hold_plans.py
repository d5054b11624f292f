"""The plans of holds: a page of the queue, a release and the list of holds read by index, however many steps are held (K2)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.rules.holds import HoldCandidate
from dwarf_nats.rules.scheduling.values import PageRequest
from dwarf_nats.store.dialect import POSTGRES, SQLITE
from dwarf_nats.store.statements import holds
from dwarf_nats.store.store import SqlStore
from tests.support.stores import is_empty

pytestmark = [pytest.mark.slow, pytest.mark.unused_database]
HELD = 50_000
FLOW = """
insert into dwarf_flows (flow_id, token, workflow, graph_digest, status, thread_id, thread_token, priority, fairness_key,
  fairness_weight, baggage, notify, idempotency_key, request_digest, delete_on_completion, created_at, updated_at)
values (1, 't', 'w', 'd', 'running', 1, 't', 100, '', 1, '{}', '', '', '', 0, 1, 1)
"""
STEPS = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, parked, not_before, priority, fairness_key,
  fairness_weight, created_at, updated_at)
select n, 1, 1, 't', 'a', 'a', '{}', 'pending', $3, n, 100, '', 1.0, 1, 2000000000 from numbers
"""
NUMBERS = "with recursive numbers(n) as (select cast($1 as bigint) union all select n + 1 from numbers where n < $2)"
NOTES = "insert into dwarf_on_hold (hold, step_id) select 'task:a', step_id from dwarf_steps where parked = 5"
PLACE = (-1, "", -1, 0)


async def fill(store: SqlStore, first: int, last: int, parked: int) -> None:
    rest = STEPS.strip()
    into, _, select = rest.partition("select")
    if "postgres" in store.dsn:
        await store.database.fetch(f"{NUMBERS} {into} select{select}", first, last, parked)
    else:
        await store.database.fetch(f"{into} {NUMBERS} select{select}", first, last, parked)


@pytest.fixture
async def crowded(dsn: str) -> AsyncIterator[SqlStore]:
    """A store with many held steps, and some that are ready; the planner has not been told of them."""
    opened = SqlStore(1, dsn, pool=4, clock=SystemClock())
    await opened.open("one", migrated=True)
    await crowd(opened)
    yield opened
    await opened.close()


@pytest.fixture
async def only_read(module_dsn: str) -> AsyncIterator[SqlStore]:
    """Such a store for tests that write nothing."""
    opened = SqlStore(1, module_dsn, pool=4, clock=SystemClock())
    await opened.open("one", migrated=True)
    if await is_empty(opened):
        await crowd(opened)
    yield opened
    await opened.close()


async def crowd(store: SqlStore) -> None:
    await store.database.fetch(FLOW)
    await fill(store, 1, HELD, 5)
    await store.database.fetch(NOTES)
    await fill(store, HELD + 1, HELD + 2_000, 0)


async def test_k2_a_held_backlog_is_not_read_by_who_looks_for_work(only_read: SqlStore) -> None:
    """K2: held steps are out of the index of ready steps, so neither a peek nor a page of the keeper meets them."""
    page = await only_read.steps.peek(PageRequest(), ())
    assert [head.due_at for head in page.heads] == [HELD + 1]
    first = await only_read.holds.ready_page(None, 1_000)
    second = await only_read.holds.ready_page(first[-1], 1_000)
    assert [one.step_id for one in first + second] == list(range(HELD + 1, HELD + 2_001))
    assert await only_read.holds.ready_page(second[-1], 1_000) == []
    assert first[0] == HoldCandidate(HELD + 1, "a", "w", 100, "", HELD + 1)


async def test_k2_parking_and_releasing_come_batch_by_batch(crowded: SqlStore) -> None:
    """K2: what is not ready is left alone, and a row without its step is forgotten."""
    assert await crowded.holds.park_ready("task:a", [1, HELD + 1, HELD + 2, 10**9]) == 2
    assert await crowded.holds.counts(["task:a", "task:b"]) == {"task:a": HELD + 2}
    assert await crowded.holds.holds_with_steps() == ["task:a"]
    await crowded.database.fetch("update dwarf_steps set status = 'cancelled', parked = 0 where step_id = 1")
    await crowded.database.fetch("delete from dwarf_steps where step_id = 2")
    await crowded.database.fetch("insert into dwarf_tripped (url, cause, tripped_at) values ('b', 'x', 1)")
    await crowded.database.fetch("update dwarf_steps set url = 'b' where step_id = 3")
    steps, more = await crowded.holds.release("task:a", 5)
    assert ([one.step_id for one in steps], more) == ([4, 5], True)
    ((parked,),) = await crowded.database.fetch("select parked from dwarf_steps where step_id = 3")
    assert parked == 2  # its breaker is tripped
    total = len(steps)
    while more:
        steps, more = await crowded.holds.release("task:a", 20_000)
        total += len(steps)
    assert total == HELD + 2 - 3
    assert await crowded.holds.holds_with_steps() == []


@pytest.mark.parametrize("name", ["PAGE", "HOLDS", "NOTED", "LOCK", "RELEASE", "FORGET", "PARK_READY", "PARK_CLAIMED"])
async def test_k2_no_statement_reads_a_table_from_end_to_end(only_read: SqlStore, name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "PAGE": (*PLACE, 1_000), "HOLDS": (), "NOTED": ("task:a", 10), "LOCK": ([1, 2],), "RELEASE": ([1, 2],),
        "FORGET": ("task:a", [1, 2]), "PARK_READY": ([1, 2],), "PARK_CLAIMED": ([1, 2], 1),
    }  # fmt: skip
    given = [
        f"'{{{','.join(map(str, one))}}}'::bigint[]" if isinstance(one, list) else repr(one) for one in arguments[name]
    ]
    if "postgres" in only_read.dsn:
        text = POSTGRES.text(getattr(holds, name))
        for number, value in reversed(list(enumerate(given, 1))):
            text = text.replace(f"${number}", value)

        async def explained(tx: Any) -> list[Any]:
            return list(await tx.fetch(f"explain {text}"))

        plan = "\n".join(line for (line,) in await only_read.database.transact_by_index(explained))
        assert not re.search(r"Seq Scan on dwarf_(steps|on_hold|flows)", plan), plan
        return
    text = SQLITE.text(getattr(holds, name))
    values = ["[1,2]" if isinstance(one, list) else one for one in arguments[name]]
    plan = "\n".join(str(line) for *_, line in await only_read.database.fetch(f"explain query plan {text}", *values))
    assert not re.search(r"SCAN (dwarf_steps|dwarf_on_hold|dwarf_flows|s|f)$", plan, re.MULTILINE), plan
