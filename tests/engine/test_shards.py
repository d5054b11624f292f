"""Several databases as one engine (O1, O9, O16, O17, B6), SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.errors import BadRequest, Conflict, NotFound, Unavailable
from dwarf_nats.library import add_shard, open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.store.store import SqlStore
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, Dsns, line


async def test_o9_list_divides_its_limit_and_groups_by_shard(dsns: Dsns, proxy: TaskProxy) -> None:
    """O9: every flow once over the pages, newest first within a shard."""
    async with open_engine(dsns(3), tasks=proxy, graphs=proxy) as engine:
        keys = {await engine.create("line") for _ in range(61)}
        seen: list[str] = []
        cursor, pages = "", 0
        while cursor or not pages:
            flows, cursor = await engine.list(Query(limit=7), cursor)
            assert len(flows) <= 7
            shards = [int(flow.flow_key.split("-")[0]) for flow in flows]
            assert shards == sorted(shards)
            seen += [flow.flow_key for flow in flows]
            pages += 1
        assert (len(seen), set(seen)) == (61, keys)
        for number in (1, 2, 3):
            (only, _) = await engine.list(Query(shard=number))
            assert {flow.flow_key for flow in only} == {key for key in keys if key.startswith(f"{number}-")}
            assert [flow.created_at for flow in only] == sorted((flow.created_at for flow in only), reverse=True)
        one = seen[0]
        assert [flow.flow_key for flow in (await engine.list(Query(thread=one)))[0]] == [one]
        other = Query(thread=one, shard=int(one[0]) % 3 + 1)
        assert await engine.list(other) == ([], "")
        seen = []
        cursor = ""
        for _ in range(61):
            flows, cursor = await engine.list(Query(limit=1), cursor)
            seen += [flow.flow_key for flow in flows]
        assert (cursor, set(seen)) == ("", keys)
        with pytest.raises(BadRequest, match="there is no shard 4: this deployment has 1, 2, 3"):
            await engine.list(Query(shard=4))
        with pytest.raises(BadRequest, match="malformed cursor"):
            await engine.list(Query(), "eHl6")
        assert await engine.purge(Query(status=Status.CREATED)) == 61
        assert [(info.flows, info.steps, info.error) for info in await engine.shard_info()] == [(0, 0, "")] * 3


@pytest.mark.slow
async def test_one_shard_away_fails_what_needs_it_and_nothing_else(sqlite_dsn: str, proxy: TaskProxy) -> None:
    """B6, O16: a clear 503 that names it; everything on the other shard goes on, named workflows included."""
    server = PostgresServer()
    await server.start()
    try:
        dsn = await server.create_database("second")
        settings = EngineSettings(replica_timeout_ms=300)
        async with open_engine([dsn, sqlite_dsn], tasks=proxy, graphs=proxy, settings=settings) as engine:
            await engine.put_graph(line("registered", "add"))
            here: dict[str, str] = {}
            while len(here) < 2:
                key = await engine.create("line", {"n": 1})
                here[key.split("-")[0]] = key
            (before,) = [info.flows for info in await engine.shard_info() if info.shard == 2]
            await server.kill()
            with pytest.raises(Unavailable, match="PostgreSQL at .* away"):
                await engine.snapshot(here["1"])
            with pytest.raises(Unavailable):
                await engine.list()
            async with asyncio.timeout(SOON):
                while not engine.shards[1].availability.is_away:
                    await asyncio.sleep(0)
            for _ in range(8):
                outcome = await engine.run("registered", {"n": 1}, timeout=SOON)
                assert outcome.flow_key.startswith("2-")
            assert len((await engine.list(Query(shard=2)))[0]) == before + 8
            await engine.start(here["2"])
            assert (await engine.await_(here["2"], SOON)).state == {"n": 4}
            first, second = await engine.shard_info()
            assert "away" in first.error
            assert (second.error, second.flows) == ("", before + 8)
            await server.restart()
            async with asyncio.timeout(SOON):
                while engine.shards[1].availability.is_away:
                    await asyncio.sleep(0)
            await engine.start(here["1"])
            assert (await engine.await_(here["1"], SOON)).state == {"n": 4}
    finally:
        await server.stop("immediate")


@pytest.mark.slow
async def test_a_shard_away_at_the_start_is_taken_up_when_it_comes(sqlite_dsn: str, proxy: TaskProxy) -> None:
    server = PostgresServer()
    await server.start()
    dsn = await server.create_database("late")
    await server.kill()
    engine = open_engine([sqlite_dsn, dsn], tasks=proxy, graphs=proxy)
    with pytest.raises(Unavailable, match="PostgreSQL at"):
        await engine.startup()
    engine = open_engine([sqlite_dsn, dsn], tasks=proxy, graphs=proxy)
    try:
        await engine.startup(patient=True)
        outcome = await engine.run("line", {"n": 0}, timeout=SOON)
        assert outcome.flow_key.startswith("1-")
        with pytest.raises(Unavailable, match="PostgreSQL at .* cannot be migrated"):
            await engine.list(Query(shard=2))
        await server.restart()
        async with asyncio.timeout(SOON):
            while not (await engine.run("line", {"n": 0}, timeout=SOON)).flow_key.startswith("2-"):
                await asyncio.sleep(0)
    finally:
        await engine.shutdown()
        await server.stop("immediate")


async def test_o17_a_shard_is_added_while_running(dsns: Dsns, proxy: TaskProxy) -> None:
    """O17: new flows go there at once; registered graphs and idempotency keys of before hold."""
    first, second, third = dsns(3)
    async with open_engine(first, tasks=proxy, graphs=proxy) as engine:
        await engine.put_graph(line("registered", "add"))
        before = {n: await engine.create("line", {"n": n}, FlowOptions(idempotency_key=f"k{n}")) for n in range(12)}
        await add_shard(engine, second)
        await add_shard(engine, third)
        for n, key in before.items():
            assert await engine.create("line", {"n": n}, FlowOptions(idempotency_key=f"k{n}")) == key
            with pytest.raises(Conflict):
                await engine.create("line", {"n": -1}, FlowOptions(idempotency_key=f"k{n}"))
        outcomes = await asyncio.gather(*(engine.run("registered", {"n": n}, timeout=SOON) for n in range(40)))
        assert {outcome.flow_key.split("-")[0] for outcome in outcomes} == {"1", "2", "3"}
        with pytest.raises(BadRequest, match="the next shard is number 4, got 2"):
            await engine.add_shard(SqlStore(2, second, pool=1, clock=SystemClock()))
        await engine.delete_graph("registered")
        with pytest.raises(NotFound):
            await engine.get_graph("registered")


async def test_o17_the_pool_is_resized_while_running(dsns: Dsns, proxy: TaskProxy) -> None:
    async with open_engine(dsns(1), tasks=proxy, graphs=proxy) as engine:
        for size in (1, 6, 2):
            engine.configure(pool=size)
            assert (await engine.run("line", {"n": 0}, timeout=SOON)).state == {"n": 2}
            await asyncio.gather(*(engine.list() for _ in range(10)))
        with pytest.raises(BadRequest):
            engine.configure(pool=0)


async def test_subgraphs_stay_on_their_shard(dsns: Dsns, proxy: TaskProxy) -> None:
    """P1."""
    proxy.handle_graph(line("child", "add"))
    proxy.handle_task("call", lambda flow: {"n": flow.subgraph("child", {"n": 1})["n"]})
    async with open_engine(dsns(2), tasks=proxy, graphs=proxy) as engine:
        shards: set[str] = set()
        while len(shards) < 2:  # a flow is made on any of them
            outcome = await engine.run(line("parent", "call"), timeout=SOON)
            (step,) = await engine.history(outcome.flow_key)
            shards.add(outcome.flow_key.split("-")[0])
            assert step.sub_history[0].step_key.split("-")[0] == outcome.flow_key.split("-")[0]
