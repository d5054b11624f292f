"""The order of pauses among replicas (O11, P2)."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status
from tests.model.comparison import PeerBus
from tests.support.engines import Gate


@pytest.mark.slow
async def test_p2_the_pause_a_caller_has_seen_is_the_one_that_is_resumed(pg_dsn: str) -> None:
    """O11: a pause that another replica commits later does not come before one that shows already."""
    graph = Graph("pair")
    graph.add_fan_out("a", "b", "c")
    for name in "bc":
        graph.add_transition(name, "m")
    graph.set_fan_in("m")
    graph.add_transition("m", END)
    gates = {"b": Gate(), "c": Gate()}
    proxy = TaskProxy()
    proxy.handle_task("a", lambda: None)
    proxy.handle_task("m", lambda: None)

    async def ask(flow: Flow) -> None:
        await gates[flow.task]()
        flow.set(flow.task, flow.interrupt(flow.task))

    for name in "bc":
        proxy.handle_task(name, ask)
    pair: list[Engine] = []
    for at, workers in enumerate((1, 16)):
        pair.append(
            open_engine(
                pg_dsn, tasks=proxy, graphs=proxy, signals=PeerBus(pair, at), settings=EngineSettings(workers=workers)
            )
        )
    async with pair[0] as one, pair[1] as two:
        key = await one.create(graph, {}, start=True)
        for gate in gates.values():
            await gate.began()
        steps = {step.task: step for step in await one.history(key)}
        database = await asyncpg.connect(pg_dsn)
        async with asyncio.timeout(20):
            async with database.transaction():
                await database.execute("select 1 from dwarf_steps where step_id = $1 for update", steps["b"].step_id)
                gates["b"].open()
                while not await database.fetchval("select count(*) from pg_locks where not granted"):
                    await asyncio.sleep(0)
                gates["c"].open()
                seen = await two.await_(key)
                assert (seen.status, seen.interrupt_payload) == (Status.INTERRUPTED, "c")
            while len([1 for one in await two.history(key) if one.status is Status.INTERRUPTED]) < 2:
                await asyncio.sleep(0)
        await database.close()
        assert (await two.snapshot(key)).interrupt_payload == "c"
        await two.resume(key, "an answer to c")
        await two.resume(key, "an answer to b")
        outcome = await two.await_(key, 20)
        assert outcome.state == {"c": "an answer to c", "b": "an answer to b"}
