"""Two replicas on one PostgreSQL, and races made to happen (X1, X10, O1, O10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.errors import Conflict, NotFound, Unavailable
from dwarf_nats.rules.rows import StepRow
from dwarf_nats.rules.steps import StepRef
from dwarf_nats.store import postgres
from dwarf_nats.store.store import SqlStore
from tests.support.stores import (
    BUDGET,
    born,
    cancel,
    claim_all,
    ended,
    flow_status,
    in_flight,
    look,
    new_flow,
    one_claimed,
    step_status,
    went_on,
)

pytestmark = pytest.mark.slow
Stores = tuple[SqlStore, SqlStore]


def final(steps: list[StepRow]) -> bytes:
    return b'{"steps":%d}' % len(steps)


@asynccontextmanager
async def locked(store: SqlStore, step_id: int) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Hold the row of a step; yields a wait until so many others stand in line. The line is served at the end."""
    holder = await asyncpg.connect(store.dsn)
    watcher = await asyncpg.connect(store.dsn)

    async def line(length: int) -> None:
        sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        async with asyncio.timeout(20):
            while await watcher.fetchval(sql) < length:
                pass

    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("select 1 from dwarf_steps where step_id = $1 for update", step_id)
        yield line
        await transaction.rollback()
    finally:
        await holder.close()
        await watcher.close()


async def test_no_step_is_claimed_twice(pg_stores: Stores) -> None:
    """X1."""
    flows = [new_flow() for _ in range(400)]
    await pg_stores[0].steps.create(flows, BUDGET)
    taken: list[int] = []

    async def claim(store: SqlStore) -> None:
        while rows := await claim_all(store, 7, BUDGET):
            taken.extend(row.step_id for row in rows)

    await asyncio.gather(*map(claim, pg_stores))
    assert sorted(taken) == sorted(new.step_id for new in flows)


async def test_rows_another_replica_holds_are_passed_over_not_waited_for(pg_stores: Stores) -> None:
    held, free = new_flow(), new_flow()
    await pg_stores[0].steps.create([held, free], BUDGET)
    async with locked(pg_stores[0], held.step_id):
        assert [row.step_id for row in await claim_all(pg_stores[1], 5, BUDGET)] == [free.step_id]
    assert [row.step_id for row in await claim_all(pg_stores[1], 5, BUDGET)] == [held.step_id]


async def test_a_step_recovered_by_another_replica_is_fenced_from_the_first(pg_stores: Stores) -> None:
    """B2, X1."""
    one, two = pg_stores
    step = await one_claimed(one)
    await look(two, "update dwarf_replicas set seen_at = 1 where replica_id = $1", one.replicas.replica_id)
    assert await two.replicas.reclaim_expired_leases(10_000) == 1
    again = in_flight((await claim_all(two, 1, BUDGET))[0])
    assert (await one.steps.settle([ended(step, {"by": "one"})], BUDGET)).applied == {}
    assert len((await two.steps.settle([ended(again, {"by": "two"})], BUDGET)).applied) == 1
    row = await two.flows.by_id(step.flow.flow_id)
    assert row is not None
    assert row.final_state == '{"by":"two"}'


async def test_recovery_does_not_wait_for_a_replica_that_stands_still_in_a_transaction(pg_stores: Stores) -> None:
    """B2: what it has locked is left for the next time, the rest of what it held is given back."""
    one, two = pg_stores
    free, held = await one_claimed(one), await one_claimed(one)
    await look(two, "update dwarf_replicas set seen_at = 1 where replica_id = $1", one.replicas.replica_id)
    async with locked(one, held.step_id), asyncio.timeout(20):
        assert await two.replicas.reclaim_expired_leases(10_000) == 1
        assert await step_status(two, free.step_id) == "pending"
    assert await two.replicas.reclaim_expired_leases(10_000) == 1
    assert await step_status(two, held.step_id) == "pending"


async def test_a_replica_that_stands_still_in_a_transaction_loses_it(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for its locks for ever; it learns that its database is away, as in any outage (B6)."""
    monkeypatch.setitem(postgres.SESSION_SETTINGS, "idle_in_transaction_session_timeout", "100")
    monkeypatch.setitem(postgres.HOT_SETTINGS, "idle_in_transaction_session_timeout", "100")
    still, other = [SqlStore(1, pg_dsn, pool=1, clock=SystemClock()) for _ in range(2)]
    for store in (still, other):
        await store.open("a replica", migrated=True)
    assert isinstance(still.database, postgres.Postgres)
    step = await one_claimed(still)
    lock = "update dwarf_steps set updated_at = 1 where step_id = $1"

    async def standstill(on: Any) -> None:
        await on.fetch(lock, step.step_id)
        await look(other, lock, step.step_id)  # returns once the lock is free
        await on.fetch(lock, step.step_id)

    async def settling(connection: Any) -> None:
        async with connection.transaction():
            await standstill(connection)

    with pytest.raises(Unavailable):
        await still.database.transact(standstill)
    with pytest.raises(Unavailable):
        await still.database._on_hot_connection(settling)
    await look(still, lock, step.step_id)
    for store in (still, other):
        await store.close()


class Unlucky:
    """A connection on which every statement meets a deadlock."""

    def __init__(self) -> None:
        self.tries = 0

    def is_closed(self) -> bool:
        return False

    async def execute(self, *_: Any) -> None:
        """What plans there are is not looked at."""

    async def fetch(self, *_: Any) -> list[Any]:
        self.tries += 1
        raise asyncpg.DeadlockDetectedError("deadlock detected")


async def test_a_group_that_meets_lock_conflicts_again_and_again_is_tried_later_not_failed(pg_stores: Stores) -> None:
    """X10, B6: what the database refuses for reasons of its own is no fault of a step."""
    one, _ = pg_stores
    step = await one_claimed(one)
    unlucky = Unlucky()
    assert isinstance(one.database, postgres.Postgres)
    hot, one.database._hot = one.database._hot, unlucky
    with pytest.raises(Unavailable, match="deadlock detected"):
        await one.steps.settle([ended(step)], BUDGET)
    assert unlucky.tries > 1
    one.database._hot = hot
    assert len((await one.steps.settle([ended(step)], BUDGET)).applied) == 1


async def test_one_idempotency_key_at_two_replicas_makes_one_flow(pg_stores: Stores) -> None:
    """O1."""
    for n in range(20):
        made = await asyncio.gather(*(s.steps.create([new_flow(idempotency_key=f"k{n}")], BUDGET) for s in pg_stores))
        assert sorted(map(len, made)) == [0, 1]
    assert await pg_stores[0].flows.size() == (20, 20)


async def test_one_start_wins(pg_stores: Stores) -> None:
    """O2."""
    new = new_flow(start=False)
    await pg_stores[0].steps.create([new], BUDGET)
    results = await asyncio.gather(
        *(store.control.start(new.flow.flow_id, "") for store in pg_stores), return_exceptions=True
    )
    assert sorted(type(result) for result in results if isinstance(result, Exception)) == [Conflict]


@pytest.mark.parametrize("running", [True, False])
async def test_a_cancel_that_waits_for_a_settlement_takes_its_successor_along(pg_stores: Stores, running: bool) -> None:
    """O10: the successor is born while cancel waits; whoever executes it is told."""
    one, two = pg_stores
    step = await one_claimed(one)
    settlement = went_on(step, eager=running)
    assert settlement.successor is not None
    async with locked(one, step.step_id) as line:
        settling = asyncio.create_task(one.steps.settle([settlement], BUDGET))
        await line(1)
        cancelling = asyncio.create_task(cancel(two, step.flow.flow_id, "", final))
        await line(2)
    assert len((await settling).applied) == 1
    following = settlement.successor
    assert (await cancelling).running == ([StepRef(following.step_id, following.token)] if running else [])
    row = await one.flows.by_id(step.flow.flow_id)
    assert row is not None
    assert (row.status, row.final_state) == ("cancelled", '{"steps":2}')
    assert await step_status(one, following.step_id) == "cancelled"
    assert await claim_all(one, 5, BUDGET) == []


async def test_a_settlement_that_waits_for_a_cancel_is_dropped(pg_stores: Stores) -> None:
    """O10, X1."""
    one, two = pg_stores
    step = await one_claimed(one)
    async with locked(one, step.step_id) as line:
        cancelling = asyncio.create_task(cancel(two, step.flow.flow_id, "", final))
        await line(1)
        settling = asyncio.create_task(one.steps.settle([went_on(step)], BUDGET))
        await line(2)
    assert (await cancelling).running == [StepRef(step.step_id, step.token)]
    assert (await settling).applied == {}
    assert len(await one.flows.steps([step.flow.flow_id])) == 1


async def test_a_cancel_that_waits_for_a_claim_tells_the_one_who_claimed(pg_stores: Stores) -> None:
    """O10."""
    one, two = pg_stores
    new = new_flow()
    await one.steps.create([new], BUDGET)
    holder = await asyncpg.connect(one.dsn)
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("update dwarf_steps set status = 'running', lease_seq = 1, claimed_by = 1")
        cancelling = asyncio.create_task(cancel(two, new.flow.flow_id, "", final))
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        async with asyncio.timeout(20):
            while not (await look(one, waiting))[0][0]:
                pass
        await transaction.commit()
        assert (await cancelling).running == [StepRef(new.step_id, new.step_token)]
    finally:
        await holder.close()


async def test_cancel_start_settle_and_delete_at_once_leave_no_half_done_flow(pg_stores: Stores) -> None:
    """X10: locks are taken in one order, so nothing deadlocks, whoever wins."""
    one, two = pg_stores
    running = [new_flow(eager=True) for _ in range(60)]
    created = [new_flow(start=False) for _ in range(60)]
    await one.steps.create([*running, *created], BUDGET)

    async def attempt(work: Awaitable[Any]) -> None:
        try:
            await work
        except (Conflict, NotFound):
            pass

    jobs = [
        attempt(one.steps.settle([went_on(born(new), eager=True) for new in running[n : n + 6]], BUDGET))
        for n in range(0, 60, 6)
    ]
    jobs += [attempt(cancel(two, new.flow.flow_id, "", final)) for new in [*reversed(running), *created]]
    jobs += [
        attempt(store.control.start(new.flow.flow_id, "")) for new, store in zip(created, pg_stores * 30, strict=True)
    ]
    jobs += [attempt(one.control.delete(new.flow.flow_id)) for new in created]
    await asyncio.gather(*jobs)
    for new in running:
        assert await flow_status(one, new.flow.flow_id) == "cancelled"
        assert {step.status for step in await one.flows.steps([new.flow.flow_id])} <= {"cancelled", "completed"}
    orphans = "select count(*) from dwarf_steps where flow_id not in (select flow_id from dwarf_flows)"
    assert await look(one, orphans) == [(0,)]
    odd = (
        "select count(*) from dwarf_flows f join dwarf_steps s using (flow_id) where f.status = 'cancelled'"
        " and s.status in ('created', 'pending', 'running')"
    )
    assert await look(one, odd) == [(0,)]
