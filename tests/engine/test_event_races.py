"""An event and the deadline of its wait at the same moment: exactly one counts, the other leaves no trace (E1-E3).

Over two shards; on PostgreSQL with two replicas, which time out and signal the same steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.dialect import POSTGRES
from dwarf_nats.store.statements import deadlines, events
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.records import EventReceipt
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import WaitTimeout
from tests.support.engines import SOON, Dsns, line, quiet, rows, until_rows

SHARDS = 2
HOUR = 3_600
SEED = 20_261_130
PASS = (
    "update dwarf_steps set wait_until = {now} where parked = 3 and wait_key = $1 and wait_until is not null"
    " returning step_id"
)
WAITERS = "select count(*) from dwarf_steps where parked = 3"


@pytest.fixture
def waits() -> TaskProxy:
    """Workflow `wait`: waits for `paid` with the key of its state, for an hour or as long as it says."""

    def wait(flow: Flow) -> None:
        try:
            flow.set("got", flow.wait_for("paid", flow.get("key"), flow.get("timeout", HOUR)))
        except WaitTimeout:
            flow.set("late", True)

    proxy = TaskProxy()
    proxy.handle_graph(line("wait", "wait"))
    proxy.handle_task("wait", wait)
    return proxy


@pytest.fixture
async def replicas(dsns: Dsns, waits: TaskProxy) -> AsyncIterator[list[Engine]]:
    """The replicas of a deployment with two shards: two on PostgreSQL, one on SQLite. None hears the signals of the other."""
    given = dsns(SHARDS)
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for _ in range(1 if given[0].startswith("sqlite") else 2):
            engine = open_engine(given, tasks=waits, graphs=waits, settings=EngineSettings(drain_ms=0))
            opened.append(await stack.enter_async_context(engine))
        yield opened


async def waiting(engine: Engine, key: str, shard: int | None = None, **state: Any) -> str:
    """A flow whose step waits with this key; on a shard, if one is named."""
    while True:
        flow = await engine.create("wait", {"key": key, **state})
        if shard is None or flow.startswith(f"{shard}-"):
            await engine.start(flow)
            break
    step = "select count(*) from dwarf_steps where parked = 3 and flow_id = $1"
    number, flow_id, _ = flow.split("-")
    await until_rows(engine, [(1,)], step, int(flow_id), shard=int(number))
    return flow


async def pass_deadline(engine: Engine, flow: str, key: str) -> None:
    """Let the deadline of a wait pass now, and the timer of this replica know."""
    number = int(flow.split("-")[0])
    await rows(engine, PASS, key, shard=number)
    engine.shards[number].deadlines.note(0)


async def end_of(engine: Engine, flow: str) -> dict[str, Any]:
    outcome = await engine.await_(flow, SOON)
    assert outcome.status is Status.COMPLETED
    return {name: value for name, value in outcome.state.items() if name in ("got", "late")}


async def until_no_event_is_left(engine: Engine) -> None:
    """Wait until every event is gone: a step may have ended before its event's home knows that it was handed over."""
    for number in engine.shards:
        await until_rows(engine, [], "select key, state from dwarf_events", shard=number)


async def check(engine: Engine, key: str, end: dict[str, Any], receipt: EventReceipt) -> None:
    """One of both counted. An event that did not is kept for the next step, once; one that did is gone."""
    assert (receipt.delivered, receipt.kept) in ((1, False), (0, True))
    assert end == ({"got": key} if receipt.delivered else {"late": True})
    following = await engine.create("wait", {"key": key}, start=True)
    if receipt.kept:
        assert await end_of(engine, following) == {"got": key}
    else:
        await quiet(engine)
        assert (await engine.snapshot(following)).status is Status.RUNNING
        await engine.cancel(following)


@pytest.mark.parametrize("shard", range(1, SHARDS + 1))
@pytest.mark.parametrize("key", ["a", "b", "c"])  # so that the home of the event is either shard
async def test_the_deadline_passes_just_before_the_event(replicas: Sequence[Engine], shard: int, key: str) -> None:
    """E3: the timeout counts, and the event is kept."""
    one, other = replicas[0], replicas[-1]
    flow = await waiting(one, key, shard)
    await pass_deadline(one, flow, key)
    await until_rows(one, [(0,)], WAITERS, shard=shard)
    receipt = await other.signal("paid", key, key)
    assert (receipt.delivered, receipt.kept) == (0, True)
    assert await end_of(one, flow) == {"late": True}
    await check(one, key, {"late": True}, receipt)
    await until_no_event_is_left(one)


@pytest.mark.parametrize("shard", range(1, SHARDS + 1))
@pytest.mark.parametrize("key", ["a", "b", "c"])
async def test_the_event_comes_just_before_the_deadline(replicas: Sequence[Engine], shard: int, key: str) -> None:
    """E3: the event counts, and nothing times out."""
    one, other = replicas[0], replicas[-1]
    await waiting(one, key, shard)
    for engine in replicas:
        engine.stop_claiming()
    receipt = await other.signal("paid", key, key)
    assert (receipt.delivered, receipt.kept) == (1, False)
    for engine in replicas:
        result = await engine.shards[shard].store.control.time_out_waits(10)
        assert (result.count, result.next_in) == (0, None)
    await until_no_event_is_left(one)
    found = await rows(one, "select status, wait_until from dwarf_steps where wait_key = $1", key, shard=shard)
    assert found == [("pending", None)]


@pytest.mark.parametrize("first", ["event", "deadline"])
@pytest.mark.parametrize("shard", range(1, SHARDS + 1))
async def test_both_begin_in_one_turn_of_the_loop(tmp_path: Path, waits: TaskProxy, shard: int, first: str) -> None:
    """E3: the clock reaches the deadline to the microsecond, and the event is signalled in the same moment."""
    clock = ManualClock()
    given = [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(SHARDS)]
    async with open_engine(
        given, tasks=waits, graphs=waits, settings=EngineSettings(drain_ms=0), clock=clock
    ) as engine:
        for key in ("a", "b", "c", "d"):
            flow = await waiting(engine, key, shard, timeout=7)
            clock.advance(6.999999)
            await quiet(engine)
            if first == "deadline":
                clock.advance(0.000001)
            signalling = asyncio.create_task(engine.signal("paid", key, key))
            if first == "event":
                clock.advance(0.000001)
            receipt = await signalling
            await check(engine, key, await end_of(engine, flow), receipt)
        await until_no_event_is_left(engine)


# -- with open transactions, which only PostgreSQL has several of


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_an_event_waits_for_a_timeout_that_is_not_committed(pg_dsn: str, waits: TaskProxy, ends: str) -> None:
    """E3: it is kept if the timeout is committed, and delivered if that is rolled back."""
    async with open_engine(pg_dsn, tasks=waits, graphs=waits, settings=EngineSettings(drain_ms=0)) as engine:
        flow = await waiting(engine, "k")
        connection = await asyncpg.connect(pg_dsn)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(POSTGRES.text(PASS).replace("$1", "'k'"))
        steps = [row["step_id"] for row in await connection.fetch(POSTGRES.text(deadlines.LOCK_PASSED), 10)]
        assert len(await connection.fetch(POSTGRES.text(deadlines.TIME_OUT), steps)) == 1
        signalling = asyncio.create_task(engine.signal("paid", "k", "k"))
        await until_blocked(connection)
        await getattr(transaction, ends)()
        await connection.close()
        receipt = await signalling
        assert (receipt.delivered, receipt.kept) == ((0, True) if ends == "commit" else (1, False))
        await check(engine, "k", await end_of(engine, flow), receipt)


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_deadline_passes_over_a_step_whose_event_is_not_committed(
    pg_dsn: str, waits: TaskProxy, ends: str
) -> None:
    """E3: and times it out after all if that is rolled back."""
    async with open_engine(pg_dsn, tasks=waits, graphs=waits, settings=EngineSettings(drain_ms=0)) as engine:
        store = engine.shards[1].store
        flow = await waiting(engine, "k")
        await rows(engine, PASS, "k")
        connection = await asyncpg.connect(pg_dsn)
        transaction = connection.transaction()
        await transaction.start()
        woken = await connection.fetch(POSTGRES.text(events.WAKE_ALL), "paid", "k", '{"data":"k"}')
        assert len(woken) == 1
        result = await store.control.time_out_waits(10)
        assert result.count == 0
        assert result.next_in is not None
        assert result.next_in <= 0
        await getattr(transaction, ends)()
        await connection.close()
        engine.shards[1].deadlines.note(0)
        engine.shards[1].ready_queue.wake()
        assert await end_of(engine, flow) == ({"got": "k"} if ends == "commit" else {"late": True})


async def until_blocked(connection: asyncpg.Connection) -> None:
    """Wait until another transaction waits for a lock of this database."""
    async with asyncio.timeout(SOON):
        while not await connection.fetchval(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        ):
            await connection.execute("select pg_stat_clear_snapshot()")


# -- at random


async def test_of_many_at_random_each_has_one_end(replicas: Sequence[Engine]) -> None:
    """E1, E3: signals, deadlines and their repetitions, from either replica, in an order that the seed makes."""
    chance = random.Random(SEED)
    keys = [f"k{number}" for number in range(40)]
    flows = dict(zip(keys, [await waiting(chance.choice(replicas), key) for key in keys], strict=True))
    receipts: dict[str, list[EventReceipt]] = {key: [] for key in keys}

    async def signal(key: str) -> None:
        receipts[key].append(await chance.choice(replicas).signal("paid", key, key, event_id=f"id-{key}"))

    async def passes(key: str) -> None:
        await pass_deadline(chance.choice(replicas), flows[key], key)

    actions = [(action, key) for key in keys for action in (signal, signal, passes, passes)]
    chance.shuffle(actions)
    while actions:
        now, actions = actions[:8], actions[8:]
        await asyncio.gather(*(action(key) for action, key in now))
    for key in keys:
        first, second = receipts[key]
        assert first == second, key
        await check(replicas[0], key, await end_of(replicas[0], flows[key]), first)
    counted = [one.delivered for one, _ in receipts.values()]
    assert 0 < sum(counted) < len(keys)
