"""Declared fields where flows begin, go on and run again (G11)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.testing import workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status


def typed(name: str, *tasks: str) -> Graph:
    graph = Graph(name)
    graph.add_chain(*tasks, END)
    graph.declare_field("n", "integer", required=True)
    graph.declare_field("unit", "string", default="piece")
    return graph


async def test_g11_flows_begin_with_defaults_and_without_mistakes(dsn: str) -> None:
    async with workflow_engine(dsn) as (engine, proxy):
        proxy.handle_graph(typed("order", "a"))
        proxy.handle_task("a", lambda flow: flow.set("n", flow.get("n") + 1))
        with pytest.raises(BadRequest, match="graph 'order': the initial state lacks the field 'n'"):
            await engine.create("order", {})
        with pytest.raises(BadRequest, match="field 'n' must be an integer, got string"):
            await engine.run("order", {"n": "1"})
        outcome = await engine.run("order", {"n": 1})
        assert outcome.state == {"n": 2, "unit": "piece"}
        with pytest.raises(BadRequest, match="field 'unit' must be a string, got integer"):
            await engine.continue_(outcome.flow_key, {"unit": 5})
        with pytest.raises(BadRequest, match="the overrides: field 'n' must be an integer, got boolean"):
            await engine.restart(outcome.flow_key, {"n": True})
        (step,) = await engine.history(outcome.flow_key)
        for operation in (engine.restart_from, engine.fork):
            with pytest.raises(BadRequest, match="the overrides: field 'n' must be an integer"):
                await operation(step.step_key, {"n": "x"})


@pytest.mark.parametrize("value", ["x", 1.5, [1], True])
async def test_g11_a_change_of_a_wrong_type_is_an_error_of_the_step(dsn: str, value: Any) -> None:
    async with workflow_engine(dsn) as (engine, proxy):
        graph = typed("order", "a", "b")
        graph.add_on_error("a", "b", when="onErr.code == 502")
        proxy.handle_graph(graph)

        def change(flow: Flow) -> None:
            flow.set("n", value)

        proxy.handle_task("a", change)
        proxy.handle_task("b", lambda flow: None)
        outcome = await engine.run("order", {"n": 1})
        assert outcome.status is Status.COMPLETED
        assert outcome.state["n"] == 1
        assert "field 'n' must be an integer" in outcome.state["onErr"]["message"]


async def test_g11_the_input_of_a_child_is_checked(dsn: str) -> None:
    """P1: one that does not fit is an error of the calling step; defaults are filled in."""
    async with workflow_engine(dsn) as (engine, proxy):
        outer = Graph("outer")
        outer.add_chain("call", END)
        proxy.handle_graph(outer)
        proxy.handle_graph(typed("inner", "a"))
        proxy.handle_task("a", lambda flow: None)

        def call(flow: Flow) -> None:
            flow.set("got", flow.subgraph("inner", flow.get("given")))

        proxy.handle_task("call", call)
        good = await engine.run("outer", {"given": {"n": 1}})
        assert good.state["got"] == {"n": 1, "unit": "piece"}
        bad = await engine.run("outer", {"given": {"n": "1"}})
        assert bad.status is Status.FAILED
        assert bad.error is not None
        assert "field 'n' must be an integer, got string" in bad.error.message
