"""A flow runs the graph that its workflow has when it is created, though a replica does not ask for it each time (G10)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine import Engine, registry_look_ups
from dwarf_nats.errors import NotFound
from dwarf_nats.library import open_engine
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions
from tests.support.engines import SOON, Dsns, line

KEYED = pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])


class LookUps:
    """Counts how often an engine asks the registry of a shard for names."""

    def __init__(self, store: Any) -> None:
        self.count = 0
        self._ask = store.graphs.registered_digests
        store.graphs.registered_digests = self

    async def __call__(self, names: Any) -> Any:
        self.count += 1
        return await self._ask(names)


@pytest.fixture(autouse=True)
def always_assumed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """However slow the machine, a look-up does not get old."""
    if "timed" not in request.fixturenames:
        monkeypatch.setattr(registry_look_ups, "ASSUMED_US", 2**60)


def store_of(engine: Engine, shard: int = 1) -> Any:
    return engine.shards[shard].store


def counting(*nodes: str) -> Graph:
    """A graph of the name "counted" whose nodes all run the task that adds one."""
    graph = Graph("counted")
    for node in nodes:
        graph.add_task(node, url="add")
    graph.add_chain(*nodes, "END")
    return graph


async def put_elsewhere(store: Any, graph: Graph) -> None:
    """Register a graph as another replica does, behind the back of this one."""
    await store.graphs.save(graph.digest(), graph.to_json())
    await store.graphs.register(graph.name, graph.digest())


async def run(engine: Engine, number: int, keyed: bool) -> Any:
    options = FlowOptions(idempotency_key=f"key-{number}") if keyed else None
    return (await engine.run("counted", {"n": 0}, options, SOON)).state["n"]


@KEYED
async def test_the_registry_is_not_asked_for_each_flow(engine: Engine, keyed: bool) -> None:
    await engine.put_graph(line("counted", "add"))
    look_ups = LookUps(store_of(engine))
    assert [await run(engine, number, keyed) for number in range(5)] == [1] * 5
    assert look_ups.count == 1


@KEYED
async def test_the_first_flow_after_another_replica_put_a_graph_runs_it(engine: Engine, keyed: bool) -> None:
    await engine.put_graph(line("counted", "add"))
    look_ups = LookUps(store_of(engine))
    for number, nodes in enumerate((["add"], ["add", "add2"], ["add"], ["add", "add2", "add3"])):
        await put_elsewhere(store_of(engine), counting(*nodes))
        assert await run(engine, 2 * number, keyed) == len(nodes)
        assert await run(engine, 2 * number + 1, keyed) == len(nodes)
    assert look_ups.count == 4


@KEYED
async def test_the_first_flow_after_another_replica_deleted_a_graph_does_not_run_it(
    engine: Engine, proxy: TaskProxy, keyed: bool
) -> None:
    """It is looked for where graphs are that are not registered, as ever."""
    await engine.put_graph(line("counted", "add"))
    assert await run(engine, 0, keyed) == 1
    await store_of(engine).graphs.unregister("counted")
    with pytest.raises(NotFound, match="no workflow 'counted'"):
        await run(engine, 1, keyed)
    await engine.put_graph(line("counted", "add"))
    assert await run(engine, 2, keyed) == 1
    await store_of(engine).graphs.unregister("counted")
    proxy.handle_graph(counting("first", "second"))
    assert await run(engine, 3, keyed) == 2


async def test_a_group_of_flows_is_told_apart(engine: Engine) -> None:
    """One statement creates flows of a graph that was replaced and of one that was not; none is lost, none runs the old one."""
    await engine.put_graph(line("counted", "add"))
    await engine.put_graph(line("steady", "add"))
    for name in ("counted", "steady"):
        await engine.run(name, {"n": 0}, timeout=SOON)
    await put_elsewhere(store_of(engine), counting("first", "second"))
    names = ["counted", "steady"] * 20
    outcomes = await asyncio.gather(*(engine.run(name, {"n": 0}, timeout=SOON) for name in names))
    assert [outcome.state["n"] for outcome in outcomes] == [2, 1] * 20


async def test_a_repeated_create_finds_its_flow_though_the_graph_is_gone_since(engine: Engine) -> None:
    """O1: two requests with one key, at once; the later one finds the key taken when it inserts, and the workflow deleted."""
    await engine.put_graph(line("counted", "add"))
    options = FlowOptions(idempotency_key="key")
    first = await engine.create("counted", {"n": 0}, options)
    keys: Any = engine._operations.creator._keys
    find = keys.find_created

    async def too_early(_: Any) -> None:
        keys.find_created = find
        await store_of(engine).graphs.unregister("counted")

    keys.find_created = too_early
    assert await engine.create("counted", {"n": 0}, options) == first


@KEYED
async def test_a_shard_that_missed_a_change_creates_flows_all_the_same(
    dsns: Dsns, proxy: TaskProxy, keyed: bool
) -> None:
    """B6: its database was away when the graph was put. The registry is read from the first shard, which has it."""
    async with open_engine(dsns(2), tasks=proxy, graphs=proxy) as engine:
        await engine.put_graph(line("counted", "add"))
        assert await run(engine, 0, keyed) == 1
        await put_elsewhere(store_of(engine, 1), counting("first", "second"))
        engine.replica.graphs._look_ups._found.clear()
        assert {await run(engine, number, keyed) for number in range(1, 20)} == {2}


async def test_a_look_up_is_made_again_after_a_second(timed: Engine, clock: ManualClock) -> None:
    await timed.put_graph(line("counted", "add"))
    look_ups = LookUps(store_of(timed))
    for number, seconds in enumerate((0.0, 0.5, 0.4, 0.2, 0.9, 0.2)):
        clock.advance(seconds)
        assert await run(timed, number, False) == 1
    assert look_ups.count == 3


async def test_durability_of_a_flow_gives_it_a_graph_of_its_own(engine: Engine) -> None:
    """The registry does not have that graph: the flow is created without asking whether it has."""
    await engine.put_graph(line("counted", "add"))
    for _ in range(2):
        outcome = await engine.run("counted", {"n": 0}, FlowOptions(durability="pipelined"), SOON)
        assert outcome.state == {"n": 1}
        assert (await engine.run("counted", {"n": 0}, timeout=SOON)).state == {"n": 1}
