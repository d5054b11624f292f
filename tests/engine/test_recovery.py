"""Drain, crashes and outages (B2, B3, B6, X11)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.engine import Engine
from dwarf_nats.engine.maintenance.duty import HEARTBEAT_SHARE
from dwarf_nats.engine.maintenance.waiter_poll import WAITER_POLL_SECONDS
from dwarf_nats.errors import Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.ports import BusAway
from dwarf_nats.rules.rows import HeartbeatReply
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, Gate, crash, line, maintenance_of, replica, shard_of


@pytest.fixture
def gate(proxy: TaskProxy) -> Gate:
    made = Gate({"gated": 1})
    proxy.handle_task("gate", made)
    proxy.handle_graph(line("gated", "gate", "add"))
    return made


async def begun(engine: Engine, gate: Gate, count: int = 1) -> list[str]:
    """So many flows whose first task is under way."""
    keys = [await engine.create("gated", {"n": n}, start=True) for n in range(count)]
    async with asyncio.timeout(SOON):
        while gate.entered < count:
            gate.again()
            await gate.began()
    return keys


# -- drain (B3)


async def test_a_drain_waits_for_steps_in_hand_and_begins_no_more(dsn: str, proxy: TaskProxy, gate: Gate) -> None:
    engine = replica(dsn, proxy, drain_ms=20_000)
    await engine.startup()
    keys = await begun(engine, gate, 3)
    stopping = asyncio.create_task(engine.shutdown())
    while engine.ready:
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="not running"):
        await engine.create("gated", start=True)
    gate.open()
    await stopping
    assert (gate.finished, gate.cancelled, proxy.calls) == (3, 0, {"gate": 3})
    async with replica(dsn, proxy) as following:
        outcomes = [await following.await_(key, SOON) for key in keys]
        assert [outcome.state for outcome in outcomes] == [{"n": n + 1, "gated": 1} for n in range(3)]
    assert proxy.calls == {"gate": 3, "add": 3}


async def test_steps_over_the_limit_are_given_back_and_completed_by_the_next_engine(
    dsn: str, proxy: TaskProxy, gate: Gate
) -> None:
    engine = replica(dsn, proxy, drain_ms=0)
    await engine.startup()
    keys = await begun(engine, gate, 3)
    await engine.shutdown()
    assert gate.cancelled == 3
    gate.open()
    async with replica(dsn, proxy) as following:
        for key in keys:
            outcome = await following.await_(key, SOON)
            assert outcome.status is Status.COMPLETED
            first, *_ = await following.history(key)
            assert first.attempt == 0  # X5: attempt counts retries only
    assert proxy.calls == {"gate": 6, "add": 3}


async def test_a_drain_does_not_wait_for_a_bus_that_is_away(dsn: str, proxy: TaskProxy) -> None:
    """B3: a step that is held for it is in nobody's hands, and given back at once."""
    held = asyncio.Event()

    class Away(TaskProxy):
        async def execute(self, call: TaskCall) -> Answer:  # noqa: ARG002
            raise BusAway("NATS is away")

        async def ready(self) -> None:
            held.set()
            await asyncio.Event().wait()

    away = Away()
    engine = open_engine(dsn, tasks=away, graphs=proxy, settings=EngineSettings(drain_ms=600_000))
    await engine.startup()
    key = await engine.create("line", {"n": 1}, start=True)
    async with asyncio.timeout(SOON):
        await held.wait()
        await engine.shutdown()
    async with replica(dsn, proxy) as following:
        assert (await following.await_(key, SOON)).state == {"n": 4}


async def test_a_stopped_engine_can_be_started_again(dsn: str, proxy: TaskProxy) -> None:
    engine = replica(dsn, proxy, drain_ms=0)
    for n in range(2):
        async with engine:
            assert (await engine.run("line", {"n": n}, timeout=SOON)).state == {"n": (n + 1) * 2}
        await engine.shutdown()
        assert not engine.ready


# -- crashes (B2)


async def test_what_a_dead_replica_held_on_sqlite_runs_again_at_once(
    sqlite_dsn: str, proxy: TaskProxy, gate: Gate
) -> None:
    """Only one replica can hold the file: whoever opens it next knows the others are dead."""
    engine = replica(sqlite_dsn, proxy)
    await engine.startup()
    keys = await begun(engine, gate, 3)
    created = await engine.create("line", {"n": 1})
    await crash(engine)
    gate.open()
    async with replica(sqlite_dsn, proxy) as following:
        outcomes = [await following.await_(key, SOON) for key in keys]
        assert [outcome.state for outcome in outcomes] == [{"n": n + 1, "gated": 1} for n in range(3)]
        assert (await following.snapshot(created)).status is Status.CREATED
        assert following.replica.counters.recovered.total() == 3
    assert proxy.calls == {"gate": 6, "add": 3}


async def test_a_replica_whose_upkeep_is_held_up_goes_on_saying_that_it_lives(
    timed: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2: whatever its sweeps wait for, a lock or a slow database, the others do not take it for dead."""
    store = shard_of(timed).store
    heartbeat = store.replicas.heartbeat
    held_up, beaten = asyncio.Event(), asyncio.Event()

    async def reclaim_expired_leases(_timeout_ms: int) -> int:
        held_up.set()
        await asyncio.Event().wait()
        return 0

    async def counted(name: str) -> HeartbeatReply:
        pulse = await heartbeat(name)
        beaten.set()
        return pulse

    monkeypatch.setattr(store.replicas, "reclaim_expired_leases", reclaim_expired_leases)
    monkeypatch.setattr(store.replicas, "heartbeat", counted)

    async def until(event: asyncio.Event) -> None:
        async with asyncio.timeout(SOON):
            while not event.is_set():
                clock.advance(1)
                await asyncio.sleep(0)

    await until(held_up)
    for _ in range(3):
        beaten.clear()
        await until(beaten)


@pytest.mark.slow
async def test_a_wait_ends_soon_though_nobody_told_that_the_flow_stopped(
    pg_dsn: str, proxy: TaskProxy, gate: Gate
) -> None:
    """B1, O4: the database is asked about all flows that are waited for, here by a replica that hears no signals."""
    clock = ManualClock()
    async with replica(pg_dsn, proxy) as other, replica(pg_dsn, proxy, clock=clock) as deaf:
        keys = await begun(other, gate, 3)
        waits = [asyncio.create_task(deaf.await_(key, None)) for key in keys]
        while len(shard_of(deaf).waiters.waited_for()) < len(keys):
            await asyncio.sleep(0)
        gate.open()
        for key in keys:
            await other.await_(key, SOON)
        async with asyncio.timeout(SOON):
            while not all(wait.done() for wait in waits):
                clock.advance(WAITER_POLL_SECONDS)
                await asyncio.sleep(0)
        assert [(await wait).state["gated"] for wait in waits] == [1, 1, 1]
        assert not shard_of(deaf).waiters.some.is_set()


@pytest.mark.slow
async def test_work_nobody_told_of_is_found_with_the_next_beat(pg_dsn: str, proxy: TaskProxy) -> None:
    """B1, C5: a step left pending by a replica that then says nothing, and one that comes due later."""
    clock = ManualClock()
    async with replica(pg_dsn, proxy) as quiet, replica(pg_dsn, proxy, clock=clock) as deaf:
        quiet.stop_claiming()
        for _ in range(2):
            key = await quiet.create("line", {"n": 1}, start=True)
            clock.advance(deaf.settings.replica_timeout_ms / 1000 * HEARTBEAT_SHARE)
            assert (await deaf.await_(key, SOON)).state == {"n": 4}


@pytest.mark.slow
async def test_another_replica_takes_over_after_the_timeout(pg_dsn: str, proxy: TaskProxy, gate: Gate) -> None:
    """B2, X11: the step key stays the same."""
    dead = replica(pg_dsn, proxy, replica_timeout_ms=400)
    await dead.startup()
    async with replica(pg_dsn, proxy, replica_timeout_ms=400) as living:
        keys = await begun(dead, gate, 3)
        before = [(await living.history(key))[0].step_key for key in keys]
        waits = [asyncio.create_task(living.await_(key, SOON)) for key in keys]
        await crash(dead)
        gate.open()
        outcomes = await asyncio.gather(*waits)
        assert [outcome.state for outcome in outcomes] == [{"n": n + 1, "gated": 1} for n in range(3)]
        assert [(await living.history(key))[0].step_key for key in keys] == before


@pytest.mark.slow
async def test_a_replica_taken_for_dead_writes_nothing_and_gets_no_answer_lost(pg_dsn: str, proxy: TaskProxy) -> None:
    """B2, X1: the late result is fenced; the flow reflects exactly one execution."""
    slow, quick = Gate({"by": "slow"}), Gate({"by": "quick"})
    other = TaskProxy()
    graph = line("gated", "gate")
    for one, gate in ((proxy, slow), (other, quick)):
        one.handle_graph(graph)
        one.handle_task("gate", gate)
    quick.open()
    async with replica(pg_dsn, proxy) as frozen:
        key = await frozen.create("gated", start=True)
        await slow.began()
        async with replica(pg_dsn, other) as living:
            await frozen.shards[1].store.database.fetch(
                "update dwarf_replicas set seen_at = 1 where name = $1", frozen.replica.name
            )
            await living.shards[1].store.database.fetch("update dwarf_steps set lease_expires = 1")
            await maintenance_of(living).lease_reaper.sweep()
            assert (await living.await_(key, SOON)).state == {"by": "quick"}
            slow.open()
            async with asyncio.timeout(SOON):
                while frozen.replica.slots.in_use:
                    await frozen.snapshot(key)
            assert frozen.replica.counters.fenced.total() == 1
            assert (await frozen.snapshot(key)).state == {"by": "quick"}
            assert len(await frozen.history(key)) == 1


@pytest.mark.slow
async def test_two_replicas_share_the_work_and_run_each_step_once(pg_dsn: str) -> None:
    """X1, B1: without any signal between them."""
    runs: dict[str, int] = {}
    proxies = []
    for _ in range(2):
        proxy = TaskProxy()
        proxy.handle_graph(line("line", "note", "note2"))

        async def note(flow: Flow) -> None:
            runs[flow.step_key] = runs.get(flow.step_key, 0) + 1

        for url in ("note", "note2"):
            proxy.handle_task(url, note)
        proxies.append(proxy)
    async with replica(pg_dsn, proxies[0], workers=4) as one, replica(pg_dsn, proxies[1], workers=4) as two:
        keys = [await (one, two)[n % 2].create("line", start=True) for n in range(60)]
        async with asyncio.timeout(SOON):
            while any([(await one.snapshot(key)).status is not Status.COMPLETED for key in keys]):
                pass
    assert len(runs) == 120
    assert set(runs.values()) == {1}


# -- outages (B6)


@pytest.fixture
async def own_postgres() -> AsyncIterator[PostgresServer]:
    """A PostgreSQL of this test's own, to be stopped and started."""
    async with PostgresServer() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["immediate", "fast"])
async def test_a_database_restarted_under_load_loses_nothing(own_postgres: PostgresServer, how: signal.Signals) -> None:
    """B6: results in hand are kept, operations answer 503 meanwhile, every flow that was confirmed completes."""
    proxy = TaskProxy()
    proxy.handle_graph(line("line", "one", "two", "three"))

    async def step(n: int = 0) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"n": n + 1}

    for url in ("one", "two", "three"):
        proxy.handle_task(url, step)
    dsn = await own_postgres.create_database("load")
    made: list[str] = []
    refused = 0
    stop = asyncio.Event()

    async def caller(engine: Engine) -> None:
        nonlocal refused
        while not stop.is_set():
            try:
                made.append(await engine.create("line", {"n": 0}, start=True))
            except Unavailable:
                refused += 1
                await asyncio.sleep(0)

    async with replica(dsn, proxy, workers=16, replica_timeout_ms=600) as engine:
        callers = [asyncio.create_task(caller(engine)) for _ in range(8)]
        await reached(lambda: len(made) >= 100)
        await own_postgres._child.end(how)
        await reached(lambda: refused >= 8)
        with pytest.raises(Unavailable, match=r"PostgreSQL at 127\.0\.0\.1:\d+/load"):
            await engine.snapshot(made[0])
        ((info),) = await engine.shard_info()
        assert "127.0.0.1" in info.error
        await own_postgres.start()
        seen = len(made)
        await reached(lambda: len(made) >= seen + 50)
        stop.set()
        await asyncio.gather(*callers)
        outcomes = await asyncio.gather(*(answered(engine, key) for key in made))
        assert {(outcome.status, outcome.state["n"]) for outcome in outcomes} == {(Status.COMPLETED, 3)}
        (info,) = await engine.shard_info()
        unfinished = "select count(*) from dwarf_flows where status <> 'completed'"
        async with asyncio.timeout(SOON):
            while (await shard_of(engine).store.database.fetch(unfinished))[0][0]:
                pass  # creations whose confirmation was lost complete as well
        assert engine.replica.slots.in_use == 0


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0)


async def answered(engine: Engine, key: str) -> Any:
    while True:
        try:
            return await engine.await_(key, SOON)
        except Unavailable:
            await asyncio.sleep(0)


@pytest.mark.slow
async def test_an_answer_in_hand_survives_an_outage_even_when_no_step_id_is_left(
    own_postgres: PostgresServer, proxy: TaskProxy, gate: Gate
) -> None:
    dsn = await own_postgres.create_database("ids")
    async with replica(dsn, proxy) as engine:
        (key,) = await begun(engine, gate)
        ids = shard_of(engine).step_ids
        while ids.left:
            ids.take()
        await own_postgres.kill()
        gate.open()
        with pytest.raises(Unavailable):
            await engine.snapshot(key)
        await own_postgres.start()
        assert (await answered(engine, key)).state == {"n": 1, "gated": 1}
    assert proxy.calls["gate"] == 1


@pytest.mark.slow
async def test_connections_that_die_are_replaced(pg_dsn: str, proxy: TaskProxy) -> None:
    """A failover or an administrator ends connections, not flows."""
    async with replica(pg_dsn, proxy) as engine:
        killer = await asyncpg.connect(pg_dsn)
        for n in range(3):
            assert (await answered_run(engine, n)).state == {"n": (n + 1) * 2}
            await killer.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'dwarf-nats'"
            )
        await killer.close()
        assert (await answered_run(engine, 1)).state == {"n": 4}


@pytest.mark.slow
async def test_a_database_closed_for_maintenance_is_away_and_fails_no_step(
    postgres: PostgresServer, pg_dsn: str, proxy: TaskProxy, gate: Gate
) -> None:
    name = pg_dsn.rsplit("/", 1)[1]
    async with replica(pg_dsn, proxy) as engine:
        (key,) = await begun(engine, gate)
        await postgres.execute(f"alter database {name} allow_connections false")
        await postgres.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
        await closed(engine, key)
        gate.open()
        await reached(lambda: shard_of(engine).committer.outages > 0)
        await postgres.execute(f"alter database {name} allow_connections true")
        assert (await answered(engine, key)).state == {"n": 1, "gated": 1}
    assert proxy.calls["gate"] == 1


async def closed(engine: Engine, key: str) -> None:
    """Asked until it says that the database takes no connections; one that it had may take a moment to read that it is gone."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                await engine.snapshot(key)
            except Unavailable as error:
                if "not currently accepting connections" in str(error):
                    return


async def answered_run(engine: Engine, n: int) -> Any:
    while True:
        try:
            key = await engine.create("line", {"n": n}, start=True)
            break
        except Unavailable:
            continue
    return await answered(engine, key)


async def test_an_engine_whose_database_is_not_there_says_which(tmp_path: Path, proxy: TaskProxy) -> None:
    for dsn, shown in (
        ("postgresql://user:secret@127.0.0.1:1/db", "127.0.0.1:1/db"),
        (f"sqlite:///{tmp_path}/none/x.db", "none/x.db"),
    ):
        engine = replica(dsn, proxy)
        with pytest.raises(Unavailable, match=shown) as refused:
            await engine.startup()
        assert "secret" not in str(refused.value)
        assert not engine.ready


# -- what leaves by itself (O1)


async def test_all_that_is_to_be_deleted_once_completed_leaves_however_much_it_is(
    timed: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O1: a minute or so after it has completed, more than one transaction of it."""
    monkeypatch.setattr("dwarf_nats.engine.maintenance.pruner.COMPLETED_BATCH_FLOWS", 2)
    store = shard_of(timed).store
    staying = await timed.run("line", timeout=SOON)
    for _ in range(5):
        await timed.run("line", options=FlowOptions(delete_on_completion=True), timeout=SOON)
    assert (await store.flows.size())[0] == 6
    async with asyncio.timeout(SOON):
        while (await store.flows.size())[0] > 1:
            clock.advance(1)
            await asyncio.sleep(0)
    assert (await timed.snapshot(staying.flow_key)).status is Status.COMPLETED
