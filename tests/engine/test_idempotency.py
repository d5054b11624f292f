"""Idempotent creation (O1)."""

from __future__ import annotations

import pytest

from dwarf_nats.errors import Conflict, NotFound
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions


async def test_o1_a_repeated_create_finds_its_flow_though_its_graph_is_gone(dsn: str) -> None:
    graph = Graph("short")
    graph.add_transition("a", END)
    proxy = TaskProxy()
    proxy.handle_task("a", lambda: {"done": True})
    once = FlowOptions(idempotency_key="order-1")
    async with workflow_engine(dsn, proxy=proxy) as (engine, _):
        await engine.put_graph(graph)
        key = await engine.create("short", {"n": 1}, once)
        await engine.delete_graph("short")
        assert await engine.create("short", {"n": 1}, once) == key
        with pytest.raises(Conflict, match="used before"):
            await engine.create("short", {"n": 2}, once)
        with pytest.raises(NotFound):
            await engine.create("short", {"n": 1}, FlowOptions(idempotency_key="order-2"))
        outcome = await engine.run("short", {"n": 1}, once, timeout=20)
    assert outcome.flow_key == key
    assert outcome.state == {"n": 1, "done": True}
