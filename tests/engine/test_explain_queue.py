"""Explanations of what only replicas know (Q2): no worker, a better priority, a rate, a drain, a bus that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.engine.ports import Ports
from dwarf_nats.errors import Unavailable
from dwarf_nats.library import engine_on, open_engine
from dwarf_nats.ports import BusAway
from dwarf_nats.rules.replica_facts import Question, ReplicaFacts
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.explanation import Because, Reason, Wait
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON, Dsns, Gate, replica, rows
from tests.support.explaining import leaves, only_wait


async def until_wait(engine: Engine, key: str, seen: Callable[[Wait], bool]) -> Wait:
    """The wait of a flow's only step once it is as wanted."""
    wait: Wait | None = None
    try:
        async with asyncio.timeout(SOON):
            while True:
                for wait in leaves((await engine.explain(key)).waits):
                    if seen(wait):
                        return wait
                await asyncio.sleep(0)
    except TimeoutError:
        raise AssertionError(f"not to be seen: {wait}") from None


def because(why: Because) -> Callable[[Wait], bool]:
    return lambda wait: wait.because is why


async def test_all_workers_are_busy(dsn: str, proxy: TaskProxy) -> None:
    """Q2, `queued` because of `workers`: since it was due."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    async with replica(dsn, proxy, workers=1, drain_ms=0) as engine:
        first = await engine.create_task("slow", start=True)
        await gate.began()
        second = await engine.create_task("slow", start=True)
        wait = await until_wait(engine, second, because(Because.WORKERS))
        assert wait.reason is Reason.QUEUED
        assert wait.text.startswith("Waits for a worker: all 1 are busy.")
        ((due,),) = await rows(engine, "select not_before from dwarf_steps where status = 'pending'")
        assert wait.since == due
        assert wait.until is None
        gate.open()
        await engine.await_(first, SOON)
        await engine.await_(second, SOON)


async def test_better_priorities_come_first(dsn: str, proxy: TaskProxy) -> None:
    """Q2, `queued` because of `priority`: that of the best band is not held back by it."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    async with replica(dsn, proxy, workers=1, drain_ms=0) as engine:
        await engine.create_task("slow", start=True)
        await gate.began()
        better = await engine.create_task("slow", options=FlowOptions(priority=10), start=True)
        worse = await engine.create_task("slow", options=FlowOptions(priority=20), start=True)
        wait = await until_wait(engine, worse, because(Because.PRIORITY))
        assert wait.text == "Waits behind steps of priority 10, which comes before its own, 20."
        assert wait.remedy == "dwarf-nats flow list --priority 10 --status running"
        assert (await only_wait(engine, better, "queued")).because is Because.WORKERS


async def test_a_task_has_its_share_of_the_workers(dsn: str, proxy: TaskProxy) -> None:
    """Q2, `queued` because of `limit`: C6."""
    slow, other = Gate(), Gate()
    proxy.handle_task("slow", slow)
    proxy.handle_task("other", other)
    async with replica(dsn, proxy, workers=4, drain_ms=0) as engine:
        await engine.create_task("other", start=True)
        await other.began()
        keys = [await engine.create_task("slow", start=True) for _ in range(4)]
        async with asyncio.timeout(SOON):
            while slow.entered < 3:
                await asyncio.sleep(0)
        waits = [next(leaves((await engine.explain(key)).waits)) for key in keys]
        (queued,) = [wait for wait in waits if wait.reason is Reason.QUEUED]
        assert queued.because is Because.LIMIT
        assert queued.remedy == "dwarf-nats tasks slow"


async def test_a_busy_task_is_asked_more_slowly(dsn: str, proxy: TaskProxy) -> None:
    """Q2, `queued` because of `rate`: until its valve opens (V1)."""

    def busy() -> None:
        raise TaskError("slow down", 429)

    proxy.handle_task("busy", busy)
    async with replica(dsn, proxy, drain_ms=0) as engine:
        key = await engine.create_task("busy", start=True)
        wait = await until_wait(engine, key, because(Because.RATE))
        assert wait.text == "Waits for its turn: the task busy said that it is busy, and is asked 1.0 times a second."
        assert wait.remedy == "dwarf-nats tasks busy"
        assert wait.until is not None


class CutOff(TaskProxy):
    """Tasks behind a bus that is away until `back` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.back = asyncio.Event()

    async def execute(self, call: TaskCall) -> Answer:
        if not self.back.is_set():
            raise BusAway("NATS is away")
        return await super().execute(call)

    async def ready(self) -> None:
        await self.back.wait()


async def test_a_step_is_held_while_the_bus_is_away_and_what_comes_after_it_waits(dsn: str) -> None:
    """Q2, `bus_away`: of the step that a replica holds, and of one that is due."""
    proxy = CutOff()
    proxy.handle_task("a", lambda: {"n": 1})
    async with replica(dsn, proxy, workers=1, drain_ms=0) as engine:
        key = await engine.create_task("a", start=True)
        # Of a step that was not claimed yet when its row was read, no replica is told.
        wait = await until_wait(engine, key, lambda wait: wait.reason is Reason.BUS_AWAY and bool(wait.replica))
        assert wait.replica == engine.replica.name
        assert wait.remedy == "dwarf-nats health"
        assert wait.deadline is None
        second = await engine.create_task("a", start=True)
        wait = await only_wait(engine, second, "bus_away")
        assert wait.text.startswith("Waits for a connection to NATS")
        proxy.back.set()
        assert (await engine.await_(key, SOON)).state == {"n": 1}
        assert (await engine.await_(second, SOON)).state == {"n": 1}


async def test_a_step_of_a_dead_replica_is_given_back_soon(dsn: str, proxy: TaskProxy) -> None:
    """Q2, `running`: B2; the replica of the step has been silent for longer than the others wait."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    async with replica(dsn, proxy, drain_ms=0) as engine:
        key = await engine.create_task("slow", start=True)
        await gate.began()
        await rows(
            engine, "insert into dwarf_replicas (replica_id, name, seen_at) values (999, 'dead', {now} - 60000000)"
        )
        await rows(engine, "update dwarf_steps set claimed_by = 999")
        wait = await only_wait(engine, key, "running")
        assert wait.text == "Its replica has died or lost it: it is given back and runs again in a moment."
        assert (wait.replica, wait.deadline) == ("dead", None)


async def test_a_replica_that_stops_says_so(dsn: str, proxy: TaskProxy) -> None:
    """Q2: of the step that it still has, and of one that is due while nobody else is there (B3)."""
    gate = Gate()
    proxy.handle_task("slow", gate)
    async with replica(dsn, proxy, workers=1, drain_ms=0) as engine:
        key = await engine.create_task("slow", start=True)
        await gate.began()
        second = await engine.create_task("slow", start=True)
        engine.stop_claiming()
        wait = await only_wait(engine, key, "running")
        assert wait.text.endswith("Its replica stops, and gives it back if it is not done in time.")
        wait = await only_wait(engine, second, "queued")
        assert wait.text == "Waits for a replica: those that run are stopping and take no more steps."


async def test_a_flow_whose_database_is_away_is_refused_and_others_are_explained(dsns: Dsns, proxy: TaskProxy) -> None:
    """Q2, B6: a 503 that names the shard."""
    async with open_engine(dsns(2), tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0)) as engine:
        keys: dict[str, str] = {}
        async with asyncio.timeout(SOON):
            while len(keys) < 2:
                key = await engine.create("line", {})
                keys[key[0]] = key
        await engine.shards[2].store.close()
        assert (await only_wait(engine, keys["1"], "created")).text
        with pytest.raises(Unavailable):
            await engine.explain(keys["2"])


class Others:
    """The port `Peers` to engines in this process. `asked`: the questions, and the replicas that were to answer."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.asked: list[tuple[Question, Collection[str]]] = []

    async def facts(self, question: Question, replicas: Collection[str]) -> list[ReplicaFacts]:
        self.asked.append((question, set(replicas)))
        return [engine.facts(question) for engine in self.engines if engine.replica.name in replicas]


def named(tasks: TaskProxy, dsn: str, peers: Others, name: str, **settings: Any) -> Engine:
    ports = Ports(tasks=tasks, graphs=tasks, peers=peers)
    return engine_on([dsn], ports, EngineSettings(drain_ms=0, **settings), name=name)


@pytest.mark.slow
async def test_the_replica_that_answers_asks_the_one_that_has_the_step(pg_dsn: str, proxy: TaskProxy) -> None:
    """Q2: what only the holder knows; if nobody answers, the database alone does."""
    cut_off, peers = CutOff(), Others()
    cut_off.handle_task("a", lambda: None)
    async with named(cut_off, pg_dsn, Others(), "holder") as holder:
        key = await holder.create_task("a", start=True)
        await only_wait(holder, key, "bus_away")
        async with named(proxy, pg_dsn, peers, "asker") as asker:
            wait = await only_wait(asker, key, "running")
            assert wait.replica == "holder"
            assert wait.deadline is not None
            (question, asked) = peers.asked[-1]
            assert asked == {"holder"}
            assert list(question.step_ids) == [wait.step_id]
            peers.engines.append(holder)
            assert (await only_wait(asker, key, "bus_away")).replica == "holder"
            flows, _ = await asker.list()
            assert flows[0].waits_for is not None
            assert flows[0].waits_for.reason is Reason.RUNNING  # a list asks nobody
        cut_off.back.set()
        await holder.await_(key, SOON)


@pytest.mark.slow
async def test_a_replica_that_cannot_be_asked_tells_by_its_heartbeat(pg_dsn: str, proxy: TaskProxy) -> None:
    """Q2, `bus_away`: its NATS is away, its database is not; once it is back, the next heartbeat says so, too."""
    cut_off = CutOff()
    gate = Gate()
    cut_off.handle_task("a", gate)
    async with (
        named(cut_off, pg_dsn, Others(), "holder", replica_timeout_ms=600) as holder,
        named(proxy, pg_dsn, Others(), "asker", replica_timeout_ms=600) as asker,
    ):
        asker.stop_claiming()
        key = await holder.create_task("a", start=True)
        wait = await only_wait(asker, key, "bus_away")
        assert wait.replica == "holder"
        ((away_since, claimed),) = await rows(
            asker,
            "select r.bus_away_since, s.updated_at from dwarf_steps s join dwarf_replicas r on r.replica_id = s.claimed_by",
        )
        assert wait.since == max(away_since, claimed)
        cut_off.back.set()
        await gate.began()
        assert (await only_wait(asker, key, "running")).deadline is not None
        gate.open()
        await holder.await_(key, SOON)


@pytest.mark.slow
async def test_a_step_that_is_due_is_explained_by_all_replicas(pg_dsn: str, proxy: TaskProxy) -> None:
    """Q2, `queued`: a replica without workers of its own to give counts those of all."""
    gate, peers = Gate(), Others()
    proxy.handle_task("slow", gate)
    async with (
        named(proxy, pg_dsn, peers, "one", workers=1) as one,
        named(proxy, pg_dsn, peers, "two", workers=1) as two,
    ):
        peers.engines += [one, two]
        keys = [await one.create_task("slow", start=True) for _ in range(3)]
        async with asyncio.timeout(SOON):
            while gate.entered < 2:
                await asyncio.sleep(0)
        for engine in (one, two):
            found = [next(leaves((await engine.explain(key)).waits)) for key in keys]
            (queued,) = [wait for wait in found if wait.reason is Reason.QUEUED]
            assert queued.text.startswith("Waits for a worker: all 2 of 2 replicas are busy.")
            assert sorted(wait.replica for wait in found if wait is not queued) == ["one", "two"]
        gate.open()
        for key in keys:
            await one.await_(key, SOON)
