"""Graphs that no flow and no registry entry uses are removed, and never one that a flow still needs (G10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.statements import graphs
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, line, maintenance_of, rows
from tests.support.graph_plans import explained

pytestmark = pytest.mark.slow


async def digests(engine: Engine) -> set[str]:
    return {digest for (digest,) in await rows(engine, "select digest from dwarf_graphs")}


async def sweep(engine: Engine) -> None:
    """Two sweeps, as they come when the time of the last save is over."""
    await rows(engine, "update dwarf_graphs set kept_until = 0")
    engine.replica.graphs._saved.clear()
    for _ in range(2):
        await maintenance_of(engine).graph_pruner.run_once()
        maintenance_of(engine).graph_pruner.cursor = ""


async def test_a_graph_is_removed_with_its_last_flow(engine: Engine) -> None:
    """G10: of many inline graphs none is left; what flows or the registry use stays, and the flows run on."""
    await engine.put_graph(line("registered", "add"))
    kept = await engine.create(line("kept", "add"), {"n": 1})
    made = [await engine.create(line(f"inline{n}", "add"), {"n": n}) for n in range(20)]
    assert len(await digests(engine)) == 22
    await sweep(engine)
    assert len(await digests(engine)) == 22
    for key in made[:5]:
        await engine.delete(key)
    assert await engine.purge(Query(status=Status.CREATED, workflow="inline7")) == 1
    await sweep(engine)
    assert len(await digests(engine)) == 16
    await engine.start(kept)
    assert (await engine.await_(kept, SOON)).state == {"n": 2}
    assert (await engine.run("registered", {"n": 1}, timeout=SOON)).state == {"n": 2}
    second = await engine.continue_(kept, {"n": 5}, start=True)
    await engine.delete(kept)
    await sweep(engine)
    assert (await engine.await_(second, SOON)).state == {"n": 6}
    await engine.purge(Query(status=Status.CREATED))
    await engine.purge(Query(status=Status.COMPLETED))
    await engine.delete_graph("registered")
    await sweep(engine)
    assert await digests(engine) == set()
    assert (await engine.run(line("kept", "add"), {"n": 1}, timeout=SOON)).state == {"n": 2}
    assert len(await digests(engine)) == 1


async def test_a_graph_just_saved_is_kept_for_the_flow_to_come(engine: Engine) -> None:
    graph = line("coming", "add")
    await engine.replica.graphs.save(1, graph)
    for _ in range(3):
        await maintenance_of(engine).graph_pruner.run_once()
        maintenance_of(engine).graph_pruner.cursor = ""
    assert await digests(engine) == {graph.digest()}


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_flow_created_long_after_its_graph_was_saved_has_a_graph(engine: Engine, keyed: bool) -> None:
    """G10: the replica believes the graph to be there, and it is gone: the graph is saved again."""
    graph = line("late", "add")
    await engine.delete(await engine.create(graph, {"n": 1}))
    believed = dict(engine.replica.graphs._saved)
    await sweep(engine)
    assert await digests(engine) == set()
    now = engine.clock.now()
    engine.replica.graphs._saved.update(dict.fromkeys(believed, (now - graphs.KEPT_US // 2 + 200000, 1)))
    options = FlowOptions(idempotency_key="late") if keyed else None
    outcome = await engine.run(graph, {"n": 1}, options, SOON)
    assert outcome.state == {"n": 2}
    assert await digests(engine) == {graph.digest()}


async def test_a_child_whose_graph_was_removed_while_its_caller_waited_has_a_graph(
    engine: Engine, proxy: TaskProxy
) -> None:
    """P1, B6: between the save and the commit the database may be away for long."""
    child = line("child", "add")
    proxy.handle_graph(child)
    proxy.handle_task("call", lambda flow: {"n": flow.subgraph("child", {"n": 1})["n"]})
    store: Any = engine.shards[1].store
    settle = store.steps.settle

    async def late(group: Any, *args: Any) -> Any:
        if any(one.child is not None for one in group):
            await rows(engine, "delete from dwarf_graphs where digest = $1", child.digest())
        return await settle(group, *args)

    store.steps.settle = late
    assert (await engine.run(line("parent", "call"), timeout=SOON)).state == {"n": 2}
    assert child.digest() in await digests(engine)


@pytest.fixture
async def two(pg_dsn: str, proxy: TaskProxy) -> AsyncIterator[tuple[Engine, Engine]]:
    settings = EngineSettings(drain_ms=0)
    one, other = (open_engine(pg_dsn, tasks=proxy, graphs=proxy, settings=settings) for _ in range(2))
    async with one, other:
        yield one, other


@pytest.mark.slow
async def test_no_flow_loses_its_graph_to_a_removal_at_that_moment(two: tuple[Engine, Engine]) -> None:
    """G10: flows of the same few graphs are created, run and deleted at two replicas while both sweep."""
    one = two[0]
    made = [line(f"g{n}", "add") for n in range(4)]

    async def lives(engine: Engine, graph: Graph) -> None:
        for n in range(12):
            key = (await engine.run(graph, {"n": n}, timeout=SOON)).flow_key
            assert (await engine.snapshot(key)).state == {"n": n + 1}
            await engine.delete(key)

    living = asyncio.gather(*(lives(engine, graph) for engine in two for graph in made))
    while not living.done():
        await rows(one, "update dwarf_graphs set kept_until = least(kept_until, $1)", one.clock.now() + 900_000)
        for engine in two:
            await maintenance_of(engine).graph_pruner.run_once()
            maintenance_of(engine).graph_pruner.cursor = ""
        await asyncio.sleep(0)
    await living
    missing = "select 1 from dwarf_flows f left join dwarf_graphs g on g.digest = f.graph_digest where g.digest is null"
    assert await rows(one, missing) == []


@pytest.mark.slow
async def test_a_mark_waits_for_the_transactions_that_ran_when_it_was_made(two: tuple[Engine, Engine]) -> None:
    """G10: a flow that is being inserted when its graph is marked is seen before the graph is removed."""
    one, _ = two
    graph = line("inserted", "add")
    key = await one.create(graph, {"n": 1})
    database = one.shards[1].store.database  # type: ignore[attr-defined]
    async with database.transaction() as tx:
        await tx.fetch("update dwarf_flows set graph_digest = graph_digest where flow_id = $1", int(key.split("-")[1]))
        await rows(one, "insert into dwarf_graphs (digest, body) values ('unused', '{}')")
        await one.shards[1].store.graphs.prune("", 100)
        await one.shards[1].store.graphs.prune("", 100)
        assert "unused" in await digests(one)
    await one.shards[1].store.graphs.prune("", 100)
    assert "unused" not in await digests(one)


@pytest.mark.slow
async def test_a_sweep_reads_by_index_whatever_the_tables_are_like(pg_dsn: str) -> None:
    """C4: bounded by the number of graphs it looks at, not by the number of flows."""
    for sql, args in (
        (graphs.MARK_UNUSED, ("''", "'x'")),
        (graphs.REMOVE_MARKED, ("100",)),
        (graphs.UNMARK_USED, ("100",)),
        (graphs.LAST_OF_PAGE, ("''", "100")),
    ):
        plan = await explained(pg_dsn, sql, args)
        assert "dwarf_flows f" not in plan or "dwarf_flows_graph on dwarf_flows f" in plan, plan
        assert "Seq Scan on dwarf_flows" not in plan, plan
        assert "Seq Scan on dwarf_graphs" not in plan, plan


async def test_flows_that_are_created_at_once_have_their_graph_saved_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them would change the same row of the database, one after the other."""
    store = engine.shards[1].store
    saved: list[str] = []
    save = store.graphs.save

    async def counted(digest: str, body: bytes) -> int:
        saved.append(digest)
        return await save(digest, body)

    monkeypatch.setattr(store.graphs, "save", counted)
    graph = line("popular", "add")
    await asyncio.gather(*(engine.create(graph, {"n": n}) for n in range(50)))
    assert saved == [graph.digest()]
    assert not engine.replica.graphs._saving
