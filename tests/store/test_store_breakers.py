"""Tasks that cannot serve, as the database keeps them (V4-V6): what is parked, who is let through, what is released."""

from __future__ import annotations

import asyncio
import re

import asyncpg
import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.rules.steps import NewFlow
from dwarf_nats.store.dialect import POSTGRES, SQLITE
from dwarf_nats.store.statements import breakers, claim
from dwarf_nats.store.store import SqlStore
from tests.support.stores import (
    BUDGET,
    cancel,
    claim_all,
    ended,
    in_flight,
    look,
    new_flow,
    one_claimed,
    returned,
    step_status,
    went_on,
)

SECOND = 1_000_000


async def pending(store: SqlStore, count: int, **more: object) -> list[NewFlow]:
    """Flows whose entry step stands in line; task `a` unless said otherwise."""
    flows = [new_flow(**more) for _ in range(count)]  # type: ignore[arg-type]
    await store.steps.create(flows, BUDGET)
    return flows


async def parked(store: SqlStore) -> dict[int, int]:
    return dict(await look(store, "select step_id, parked from dwarf_steps order by step_id"))  # type: ignore[arg-type]


async def test_pending_steps_of_the_task_are_parked_and_nothing_else(store: SqlStore) -> None:
    running, done = await one_claimed(store), await one_claimed(store)
    await store.steps.settle([ended(done)], BUDGET)
    mine, others = await pending(store, 3), await pending(store, 2, url="b")
    later = await pending(store, 1, start_at=4_000_000_000 * SECOND)
    created = await pending(store, 1, start=False)
    await store.breakers.park("a")
    held = {new.step_id for new in (*mine, *later)}
    assert await parked(store) == {
        step_id: 2 if step_id in held else 0
        for step_id in (*held, *(new.step_id for new in (*others, *created)), running.step_id, done.step_id)
    }
    assert [row.step_id for row in await claim_all(store, 10, BUDGET)] == [new.step_id for new in others]
    await store.breakers.park("a")  # again changes nothing
    assert sum(await _values(store)) == 2 * len(held)


async def _values(store: SqlStore) -> list[int]:
    return list((await parked(store)).values())


async def test_a_tripped_task_has_its_steps_born_parked(store: SqlStore) -> None:
    """V4: by create, start and settle, whoever inserts them; those born running are in hand already."""
    step, again, running = [await one_claimed(store) for _ in range(3)]
    created = await pending(store, 1, start=False, url="b")
    await store.breakers.trip("b", "unavailable")
    await store.breakers.trip("b", "overloaded")
    assert await store.breakers.tripped_tasks() == {"b": "unavailable"}
    (made,) = await pending(store, 1, url="b")
    (free,) = await pending(store, 1, url="c")
    assert await parked(store) == {
        **dict.fromkeys((step.step_id, again.step_id, running.step_id, created[0].step_id, free.step_id), 0),
        made.step_id: 2,
    }
    await store.control.start(created[0].flow.flow_id, "")
    followed, in_hands = went_on(step), went_on(running, eager=True)
    again.url = "b"
    await look(store, "update dwarf_steps set url = 'b' where step_id = $1", again.step_id)
    await store.steps.settle([followed, in_hands, returned(again)], BUDGET)
    assert followed.successor is not None
    assert in_hands.successor is not None
    now = await parked(store)
    assert [now[one] for one in (created[0].step_id, followed.successor.step_id, again.step_id)] == [2, 2, 2]
    assert now[in_hands.successor.step_id] == 0
    await store.breakers.untrip("b")
    (late,) = await pending(store, 1, url="b")
    assert (await parked(store))[late.step_id] == 0
    assert await store.breakers.tripped_tasks() == {}


async def test_what_a_silent_replica_held_is_parked_if_its_task_is_tripped(store: SqlStore) -> None:
    """B2: its probe among them."""
    step = await one_claimed(store)
    await store.breakers.trip("a", "x")
    await look(store, "update dwarf_replicas set seen_at = seen_at - 11000000")
    assert await store.replicas.reclaim_expired_leases(10_000) == 1
    assert await parked(store) == {step.step_id: 2}
    probe = await store.steps.claim_probe("a", BUDGET)
    assert probe is not None
    assert await store.replicas.release_unowned_leases([]) == 1
    assert await parked(store) == {step.step_id: 2}


async def test_the_step_due_longest_is_let_through_and_claimed_like_any(store: SqlStore) -> None:
    """V4, X1: one write unparks and claims it, so no trip comes in between; a due time in the future is waited for."""
    first, second = await pending(store, 2)
    await look(store, "update dwarf_steps set not_before = 1 where step_id = $1", second.step_id)
    assert await store.steps.claim_probe("a", BUDGET) is None
    assert await store.breakers.next_probe("a") is None
    await store.breakers.park("a")
    assert ((await store.breakers.next_probe("a")) or 0) <= 0
    row = await store.steps.claim_probe("a", BUDGET)
    assert row is not None
    probe = in_flight(row)
    assert (probe.step_id, probe.lease_seq, probe.url) == (second.step_id, 1, "a")
    assert await step_status(store, second.step_id) == "running"
    await store.breakers.park("a")
    assert await parked(store) == {first.step_id: 2, second.step_id: 0}
    assert len((await store.steps.settle([went_on(probe)], BUDGET)).applied) == 1
    await look(store, "update dwarf_steps set not_before = not_before + 100000000 where step_id = $1", first.step_id)
    assert await store.steps.claim_probe("a", BUDGET) is None
    due_in = await store.breakers.next_probe("a")
    assert due_in is not None
    assert 0 < due_in <= 100 * SECOND


async def test_released_steps_are_in_line_again_each_at_its_own_time(timed: SqlStore, manual: ManualClock) -> None:
    """V5, O2."""
    early = await pending(timed, 5)
    (late,) = await pending(timed, 1, start_at=manual.now() + 30 * SECOND)
    await timed.breakers.park("a")
    manual.advance(10)
    released = await timed.breakers.release("a", 4)
    assert [step_id for step_id, _, _ in released] == [new.step_id for new in early[:4]]
    assert {due for _, _, due in released} == {manual.now() - 10 * SECOND}
    assert len(await timed.breakers.release("a", 4)) == 2
    assert await timed.breakers.release("a", 4) == []
    assert [row.step_id for row in await claim_all(timed, 10, BUDGET)] == [new.step_id for new in early]
    manual.advance(19.9)
    assert await claim_all(timed, 10, BUDGET) == []
    manual.advance(0.1)
    assert [row.step_id for row in await claim_all(timed, 10, BUDGET)] == [late.step_id]


async def test_a_step_that_came_due_while_it_was_parked_is_due_at_once(timed: SqlStore, manual: ManualClock) -> None:
    (late,) = await pending(timed, 1, start_at=manual.now() + 30 * SECOND)
    await timed.breakers.park("a")
    manual.advance(40)
    assert len(await timed.breakers.release("a", 10)) == 1
    assert [row.step_id for row in await claim_all(timed, 10, BUDGET)] == [late.step_id]


async def test_terminal_steps_are_never_parked(store: SqlStore) -> None:
    """V6: cancelled, buried, deleted, or ended after they were let through."""
    flows = await pending(store, 4)
    await store.breakers.trip("a", "x")
    await store.breakers.park("a")
    await cancel(store, flows[0].flow.flow_id)
    row = await store.steps.claim_probe("a", BUDGET)
    assert row is not None
    probe = in_flight(row)
    await look(store, "update dwarf_flows set status = 'cancelled' where flow_id = $1", probe.flow.flow_id)
    await store.steps.close_stale([probe.step_id])
    row = await store.steps.claim_probe("a", BUDGET)
    assert row is not None
    await store.steps.settle([ended(in_flight(row))], BUDGET)
    assert await look(store, "select status, parked from dwarf_steps order by step_id") == [
        ("cancelled", 0), ("cancelled", 0), ("completed", 0), ("pending", 2),
    ]  # fmt: skip
    await cancel(store, flows[3].flow.flow_id)
    await store.control.delete(flows[3].flow.flow_id)
    assert await store.breakers.parked_tasks() == []


async def test_the_database_knows_which_tasks_are_held(store: SqlStore) -> None:
    """V6, O16: one that is named, one that has steps parked, and no other."""
    assert (await store.replicas.heartbeat("one")).held is False
    for url in ("a", "c", "b", "c"):
        await pending(store, 2, url=url)
    await store.breakers.park("c")
    assert (await store.replicas.heartbeat("one")).held is True
    await store.breakers.park("a")
    await store.breakers.trip("d", "x")
    assert await store.breakers.parked_tasks() == ["a", "c"]
    assert [await store.breakers.is_tripped(url) for url in ("a", "b", "c", "d", "e")] == [
        True,
        False,
        True,
        True,
        False,
    ]
    await store.breakers.untrip("d")
    await store.breakers.release("a", 10)
    await store.breakers.release("c", 10)
    assert (await store.replicas.heartbeat("one")).held is False


@pytest.mark.slow
async def test_replicas_that_probe_at_once_let_different_steps_through(pg_stores: tuple[SqlStore, SqlStore]) -> None:
    one, two = pg_stores
    await pending(one, 20)
    await one.breakers.park("a")
    rows = await asyncio.gather(*((one, two)[n % 2].steps.claim_probe("a", BUDGET) for n in range(30)))
    probes = [row.step_id for row in rows if row is not None]
    assert len(probes) == len(set(probes)) == 20


@pytest.mark.slow
async def test_parking_claiming_and_releasing_at_once_loses_no_step(pg_stores: tuple[SqlStore, SqlStore]) -> None:
    """X10: nobody waits for ever, and every step is claimed once in the end."""
    one, two = pg_stores
    flows = await pending(one, 300)
    claimed: list[int] = []

    async def claim(store: SqlStore) -> None:
        for _ in range(15):
            claimed.extend(row.step_id for row in await claim_all(store, 7, BUDGET))

    async def flap(store: SqlStore) -> None:
        for _ in range(8):
            await store.breakers.park("a")
            row = await store.steps.claim_probe("a", BUDGET)
            if row is not None:
                claimed.append(row.step_id)
            while await store.breakers.release("a", 50):
                pass

    async with asyncio.timeout(60):
        await asyncio.gather(claim(one), flap(two), claim(two), flap(one))
        for _ in range(3):
            claimed.extend(row.step_id for row in await claim_all(one, 500, BUDGET))
    assert sorted(claimed) == sorted(new.step_id for new in flows)


# -- what it costs


BACKLOG = """
insert into dwarf_steps (step_id, flow_id, depth, token, node, url, state, status, parked, not_before, priority,
  fairness_key, fairness_weight, created_at, updated_at)
select n, n, 1, 't', 'a', case n % 1000 when 0 then 'rare' else 'common' end, '{}',
  case n % 4 when 0 then 'pending' else 'completed' end, 0, n, 100, '', 1, n, n
from generate_series(1000001, 1040000) n;
analyze dwarf_steps
"""


@pytest.mark.slow
@pytest.mark.unused_database
@pytest.mark.parametrize("when", ["planned on empty tables", "planned on grown tables"])
async def test_postgres_finds_what_is_parked_and_what_to_park_by_index(
    pg_stores: tuple[SqlStore, SqlStore], when: str
) -> None:
    """C4: neither history nor the backlog of other tasks is read."""
    connection = await asyncpg.connect(pg_stores[0].dsn, server_settings={"enable_seqscan": "off"})
    try:
        if "grown" in when:
            await connection.execute(BACKLOG)
        expected = {
            claim.PROBE: "dwarf_steps_parked",
            POSTGRES.text(breakers.PARKS[0]): "dwarf_steps_asleep",
            POSTGRES.text(breakers.PARKS[1]): "dwarf_steps_(lane|ripe)",
            POSTGRES.text(breakers.RELEASE): "dwarf_steps_parked",
            POSTGRES.text(breakers.PARKED_TASKS): "dwarf_steps_parked",
        }
        for sql, index in expected.items():
            count = max([0, *(int(number) for number in re.findall(r"\$(\d+)", sql))])
            await connection.execute("set plan_cache_mode = force_generic_plan")
            await connection.execute(f"prepare it as {sql}")
            arguments = f"({', '.join(['null'] * count)})" if count else ""
            plan = "\n".join(row[0] for row in await connection.fetch(f"explain execute it{arguments}"))
            assert re.search(rf"Index( Only)? Scan.* (using|on) {index}\b", plan), plan
            assert "Seq Scan" not in plan
            await connection.execute("deallocate it")
    finally:
        await connection.close()


async def test_sqlite_finds_what_is_parked_and_what_to_park_by_index(timed: SqlStore) -> None:
    expected = {
        SQLITE.text(breakers.PARKS[0]): "dwarf_steps_asleep",
        SQLITE.text(breakers.PARKS[1]): "dwarf_steps_lane",
        SQLITE.text(breakers.RELEASE): "dwarf_steps_parked",
        SQLITE.text(breakers.PARKED_TASKS): "dwarf_steps_parked",
    }
    for sql, index in expected.items():
        plan = await look(timed, f"explain query plan {sql}", *[1] * sql.count("?"))
        read = [line for *_, line in plan if re.match(r"(SCAN|SEARCH) (dwarf_steps|s)\b", line)]
        assert any(index in one for one in read), plan
        assert not any(re.fullmatch(r"SCAN (dwarf_steps|s)", one) for one in read), plan
