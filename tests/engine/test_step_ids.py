"""Ids of steps that run short while the database is away (B6)."""

from __future__ import annotations

import pytest

from dwarf_nats.errors import Unavailable
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status


async def test_b6_a_fan_out_that_runs_out_of_ids_during_an_outage_is_held_not_failed(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Graph("wide")
    graph.add_for_each("split", "work", "items")
    graph.add_transition("work", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    graph.set_reducer("total", "add")
    proxy = TaskProxy()
    proxy.handle_task("work", lambda item: {"total": item})
    proxy.handle_task("join", lambda: None)
    async with workflow_engine(dsn, proxy=proxy) as (engine, _):
        shard = engine.shards[1]
        ask = shard.store.next_ids
        refused = 0

        async def away(kind: str) -> tuple[int, int]:
            nonlocal refused
            if kind == "step" and refused < 2:
                refused += 1
                raise Unavailable("the database is away")
            return await ask(kind)

        def split() -> None:
            while shard.step_ids.left > 3:
                shard.step_ids.take()
            monkeypatch.setattr(shard.store, "next_ids", away)

        proxy.handle_task("split", split)
        outcome = await engine.run(graph, {"items": list(range(10))}, timeout=30)
    assert refused == 2
    assert outcome.status is Status.COMPLETED
    assert outcome.state["total"] == 45
    assert proxy.calls["split"] == 1
