"""Pipelined flows: the next task is asked while the step before it is being written; the state stays exactly once
(semantics: pipelined-flows)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.engine.execution import pipeline
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, crash, quiet, replica

NODES = ("a", "b", "c", "d")


def pipelined(name: str, *nodes: str) -> Graph:
    graph = Graph(name)
    graph.add_chain(*nodes, END)
    graph.set_durability("pipelined")
    return graph


class Writes:
    """The writes of settlements of shard 1, which can be held up."""

    def __init__(self, engine: Engine) -> None:
        self.sizes: list[int] = []
        self.held = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self.errors: list[Exception] = []
        self._written = asyncio.Event()
        steps = engine.shards[1].store.steps
        settle = steps.settle

        async def write(group: Any, *rest: Any) -> Any:
            self.held.set()
            await self.free.wait()
            if self.errors:
                raise self.errors.pop()
            self.sizes.append(sum(1 for one in group for _ in one.chain()))
            self._written.set()
            return await settle(group, *rest)

        steps.settle = write  # type: ignore[method-assign]

    async def until(self, steps: int) -> None:
        """Wait for the results of so many steps to be on their way."""
        async with asyncio.timeout(SOON):
            while sum(self.sizes) < steps:
                self._written.clear()
                await self._written.wait()

    def hold_up(self) -> None:
        self.held.clear()
        self.free.clear()


class Noted:
    """Tasks that note that they were asked."""

    def __init__(self, proxy: TaskProxy) -> None:
        self.asked: Counter[str] = Counter()
        self.order: list[str] = []
        self._changed = asyncio.Event()
        for name in NODES:
            proxy.handle_task(name, self._task(name))

    def _task(self, name: str) -> Callable[..., Any]:
        def task(n: int = 0) -> dict[str, Any]:
            self.asked[name] += 1
            self.order.append(name)
            self._changed.set()
            return {"n": n + 1}

        return task

    async def until(self, **counts: int) -> None:
        async with asyncio.timeout(SOON):
            while not all(self.asked[name] >= count for name, count in counts.items()):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def noted(proxy: TaskProxy) -> Noted:
    proxy.handle_graph(pipelined("ahead", *NODES))
    plain = Graph("plain")
    plain.add_chain(*NODES, END)
    proxy.handle_graph(plain)
    return Noted(proxy)


@asynccontextmanager
async def served(dsn: str, proxy: TaskProxy, **settings: Any) -> AsyncIterator[tuple[Engine, Writes]]:
    """An engine that ends with free worker slots, nothing in flight and nothing kept of what went ahead."""
    engine = open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0, **settings))
    async with engine:
        writes = Writes(engine)
        try:
            yield engine, writes
        finally:
            writes.free.set()
        async with asyncio.timeout(SOON):
            await engine.replica.slots.idle.wait()
        shard = engine.shards[1]
        assert engine.replica.slots.in_use == 0
        assert shard.in_flight.steps == []
        pipeline = shard.executor.pipeline
        assert (pipeline._waiting, pipeline._linked, pipeline._dropped) == ({}, {}, set())


async def history(engine: Engine, key: str) -> list[tuple[str, Status]]:
    return [(step.task, step.status) for step in await engine.history(key)]


DONE = [(name, Status.COMPLETED) for name in NODES]


async def test_tasks_are_asked_while_the_first_result_is_written(
    dsn: str, proxy: TaskProxy, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_KEPT_SECONDS", 0)
    async with served(dsn, proxy) as (engine, writes):
        writes.hold_up()
        key = await engine.create("ahead", {"n": 1}, start=True)
        await noted.until(d=1)
        assert noted.order == list(NODES)
        assert writes.sizes == [], "nothing is written yet"
        writes.free.set()
        outcome = await engine.await_(key, SOON)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": 5})
        assert writes.sizes == [1, 3], "what went ahead is written by one transaction"
        assert await history(engine, key) == DONE
        steps = [await engine.step(one.step_key) for one in await engine.history(key)]
        assert [step.changes_json for step in steps] == [b'{"n":%d}' % n for n in (2, 3, 4, 5)]


async def test_results_are_kept_back_while_their_flow_goes_ahead(
    dsn: str, proxy: TaskProxy, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_KEPT_SECONDS", 3600)
    async with served(dsn, proxy) as (engine, writes):
        outcomes = [await engine.run("ahead", {"n": n}, None, SOON) for n in (1, 2)]
        assert [outcome.state for outcome in outcomes] == [{"n": 5}, {"n": 6}]
        assert writes.sizes == [4, 4], "one transaction, when nothing is ahead any more"
    assert noted.asked == dict.fromkeys(NODES, 2)


async def test_results_are_written_in_a_moment_if_a_task_takes_long(dsn: str, proxy: TaskProxy, noted: Noted) -> None:
    """So that a crash repeats no more than what followed in that moment."""
    entered, end = asyncio.Event(), asyncio.Event()

    async def slow(n: int) -> dict[str, Any]:
        entered.set()
        await end.wait()
        return {"n": n + 1}

    proxy.handle_task("c", slow)
    async with served(dsn, proxy) as (engine, writes):
        key = await engine.create("ahead", {"n": 1}, start=True)
        await asyncio.wait_for(entered.wait(), SOON)
        await writes.until(2)
        await quiet(engine)
        assert sum(writes.sizes) == 2
        assert (await history(engine, key))[:2] == DONE[:2]
        end.set()
        assert (await engine.await_(key, SOON)).state == {"n": 5}
    assert noted.order == ["a", "b", "d"]


async def test_a_drain_writes_what_is_kept_back(
    sqlite_dsn: str, proxy: TaskProxy, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B3: the step that is ahead is given back, those before it are done."""
    monkeypatch.setattr(pipeline, "MAX_KEPT_SECONDS", 3600)
    entered, free = asyncio.Event(), asyncio.Event()

    async def slow(n: int) -> dict[str, Any]:
        entered.set()
        await free.wait()
        return {"n": n + 1}

    proxy.handle_task("c", slow)
    async with served(sqlite_dsn, proxy) as (engine, writes):
        key = await engine.create("ahead", {"n": 1}, start=True)
        await asyncio.wait_for(entered.wait(), SOON)
        assert writes.sizes == []
        await engine.shutdown()
        assert sum(writes.sizes) == 3
        free.set()
    async with served(sqlite_dsn, proxy) as (engine, _):
        assert (await engine.await_(key, SOON)).state == {"n": 5}
    assert [noted.asked[name] for name in "abd"] == [1, 1, 1]


async def test_without_it_the_next_task_waits_for_the_database(dsn: str, proxy: TaskProxy, noted: Noted) -> None:
    async with served(dsn, proxy) as (engine, writes):
        writes.hold_up()
        key = await engine.create("plain", {"n": 1}, start=True)
        await asyncio.wait_for(writes.held.wait(), SOON)
        await quiet(engine)
        assert noted.order == ["a"]
        writes.free.set()
        assert (await engine.await_(key, SOON)).state == {"n": 5}
        assert writes.sizes == [1, 1, 1, 1]


async def test_the_option_of_a_flow_overrules_its_graph_and_outlasts_a_restart(
    sqlite_dsn: str, proxy: TaskProxy, noted: Noted
) -> None:
    async with served(sqlite_dsn, proxy) as (engine, writes):
        key = await engine.create("plain", {"n": 1}, FlowOptions(durability="pipelined"))
    async with served(sqlite_dsn, proxy) as (engine, writes):
        writes.hold_up()
        await engine.start(key)
        await noted.until(d=1)
        writes.free.set()
        assert (await engine.await_(key, SOON)).state == {"n": 5}
        committed = await engine.run("ahead", {"n": 1}, FlowOptions(durability="committed"), SOON)
        assert committed.state == {"n": 5}
        assert writes.sizes[-4:] == [1, 1, 1, 1]
    with pytest.raises(BadRequest, match="durability must be 'committed' or 'pipelined', got 'fast'"):
        FlowOptions(durability="fast")


async def test_a_crash_repeats_the_step_with_what_followed_from_it(
    sqlite_dsn: str, proxy: TaskProxy, noted: Noted
) -> None:
    engine = replica(sqlite_dsn, proxy)
    await engine.startup()
    writes = Writes(engine)
    writes.hold_up()
    key = await engine.create("ahead", {"n": 1}, start=True)
    await noted.until(d=1)
    await crash(engine)
    async with replica(sqlite_dsn, proxy) as following:
        outcome = await following.await_(key, SOON)
        assert (outcome.status, outcome.state) == (Status.COMPLETED, {"n": 5})
        assert await history(following, key) == DONE
    assert noted.asked == dict.fromkeys(NODES, 2)


@pytest.mark.usefixtures("noted")
async def test_a_cancel_drops_what_went_ahead(dsn: str, proxy: TaskProxy) -> None:
    entered, never = asyncio.Event(), asyncio.Event()

    async def slow() -> dict[str, Any]:
        entered.set()
        await never.wait()
        return {}

    proxy.handle_task("d", slow)
    async with served(dsn, proxy) as (engine, writes):
        writes.hold_up()
        key = await engine.create("ahead", {"n": 1}, start=True)
        await asyncio.wait_for(entered.wait(), SOON)
        await engine.cancel(key)
        writes.free.set()
        outcome = await engine.await_(key, SOON)
        assert outcome.status is Status.CANCELLED
        async with asyncio.timeout(SOON):
            await engine.replica.slots.idle.wait()
        assert await history(engine, key) == [("a", Status.CANCELLED)]


async def test_a_breakpoint_set_meanwhile_stops_the_flow_where_it_is_set(
    dsn: str, proxy: TaskProxy, noted: Noted
) -> None:
    async with served(dsn, proxy) as (engine, writes):
        writes.hold_up()
        key = await engine.create("ahead", {"n": 1}, start=True)
        await noted.until(d=1)
        await engine.break_before(key, "c")
        writes.free.set()
        outcome = await engine.await_(key, SOON)
        assert outcome.status is Status.INTERRUPTED
        assert await history(engine, key) == [
            ("a", Status.COMPLETED),
            ("b", Status.COMPLETED),
            ("c", Status.INTERRUPTED),
        ]
        await engine.resume_break(key)
        assert (await engine.await_(key, SOON)).state == {"n": 5}
        assert noted.asked["a"] == 1, "what was written is not repeated"


async def test_an_outage_delays_the_results_and_loses_none(dsn: str, proxy: TaskProxy, noted: Noted) -> None:
    async with served(dsn, proxy) as (engine, writes):
        keys = [await engine.create("ahead", {"n": n}) for n in range(5)]
        writes.hold_up()  # which would hold up creations, too
        for key in keys:
            await engine.start(key)
        await noted.until(a=5)
        writes.errors = [Unavailable("away"), Unavailable("away")]
        writes.free.set()
        for n, key in enumerate(keys):
            assert (await engine.await_(key, SOON)).state == {"n": n + 4}
            assert await history(engine, key) == DONE
        assert noted.asked == dict.fromkeys(NODES, 5)


async def test_a_failure_ahead_is_written_after_what_came_before(dsn: str, proxy: TaskProxy, noted: Noted) -> None:
    def refuse() -> None:
        raise BadRequest("no")

    proxy.handle_task("c", refuse)
    async with served(dsn, proxy) as (engine, writes):
        writes.hold_up()
        key = await engine.create("ahead", {"n": 1}, start=True)
        await noted.until(b=1)
        writes.free.set()
        outcome = await engine.await_(key, SOON)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.message == "no"
        assert await history(engine, key) == [
            ("a", Status.COMPLETED),
            ("b", Status.COMPLETED),
            ("c", Status.FAILED),
        ]


@pytest.mark.usefixtures("noted")
async def test_a_value_that_cannot_be_stored_fails_its_own_step(pg_dsn: str, proxy: TaskProxy) -> None:
    """Those before it are written, and nothing that went ahead on it is."""
    proxy.handle_task("c", lambda: {"text": "a\x00b"})
    async with served(pg_dsn, proxy) as (engine, _):
        key = await engine.create("ahead", {"n": 1}, start=True)
        outcome = await engine.await_(key, SOON)
        found = await history(engine, key)
        assert found[:2] == [("a", Status.COMPLETED), ("b", Status.COMPLETED)]
        assert outcome.status in (Status.FAILED, Status.COMPLETED)
        assert [name for name, _ in found] == list(NODES)[: len(found)]


async def test_branches_and_nodes_of_the_engine_come_to_the_same(dsn: str, proxy: TaskProxy) -> None:
    """Steps of branches go ahead within their branch; what the engine carries out itself is linked as ever."""
    proxy.handle_task("split", lambda: {"items": list(range(20))})
    proxy.handle_task("gather", lambda totals: {"total": sum(totals)})
    found = []
    async with served(dsn, proxy) as (engine, _):
        for durability in ("committed", "pipelined"):
            graph = Graph(f"mixed-{durability}")
            graph.set_durability(durability)
            graph.add_task("split")
            graph.add_task("work", url="add")
            graph.add_task("more", url="double")
            graph.add_set("mark", {"totals": "=[n]"})
            graph.add_task("gather")
            graph.set_fan_in("gather")
            graph.set_reducer("totals", "append")
            graph.add_transition("split", "work", for_each="items", as_="n")
            graph.add_chain("work", "more", "mark", "gather", "work2", END)
            graph.nodes["work2"].url = "add"
            proxy.handle_graph(graph)
            outcome = await engine.run(graph.name, {}, None, SOON)
            found.append((outcome.status, outcome.state["total"], outcome.state.get("n")))
    assert found[0] == found[1]
    assert found[0][:2] == (Status.COMPLETED, sum(2 * (n + 1) for n in range(20)))


async def test_many_flows_side_by_side_leave_nothing_behind(dsn: str, proxy: TaskProxy, noted: Noted) -> None:
    """With fewer worker slots than flows, so that few steps start at once."""
    async with served(dsn, proxy, workers=4) as (engine, _):
        outcomes = await asyncio.gather(*(engine.run("ahead", {"n": n}, None, SOON) for n in range(60)))
        assert [outcome.state["n"] for outcome in outcomes] == [n + 4 for n in range(60)]
        assert noted.asked == dict.fromkeys(NODES, 60)


def test_the_graph_says_it_in_its_json_and_refuses_what_is_not_known() -> None:
    graph = pipelined("g", "a")
    assert graph.to_values()["durability"] == "pipelined"
    assert Graph.from_json(graph.to_json()) == graph
    graph.set_durability("committed")
    assert "durability" not in graph.to_values()
    with pytest.raises(BadRequest, match="durability must be 'committed' or 'pipelined', got 'fast'"):
        graph.set_durability("fast")
    with pytest.raises(BadRequest, match="graph 'g', durability: 'pipeline' is not known: did you mean 'pipelined'"):
        Graph.from_values({"name": "g", "tasks": [{"name": "a"}], "durability": "pipeline"})
