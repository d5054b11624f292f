"""The engine as a library: its keywords, and what stands behind them."""

from __future__ import annotations

import inspect

import dwarf_nats.embedding
from dwarf_nats import library
from dwarf_nats.engine.ports import Ports
from dwarf_nats.library import FurtherArguments, engine_on, open_engine
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.telemetry.providers import Telemetry
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status

DOCUMENTED = {
    "tasks",
    "graphs",
    "notices",
    "signals",
    "clock",
    "settings",
    "meter_provider",
    "tracer_provider",
    "logger",
}
"""The keywords in the table of `docs/library.md`."""


def adding() -> TaskProxy:
    """A proxy with a workflow `sum` of one task."""
    proxy = TaskProxy()
    graph = Graph("sum")
    graph.add_chain("add", END)
    proxy.handle_graph(graph)
    proxy.handle_task("add", lambda a, b: {"c": a + b})
    return proxy


def test_the_documented_keywords_are_there() -> None:
    keywords = {
        name
        for name, one in inspect.signature(open_engine).parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert keywords | set(FurtherArguments.__annotations__) >= DOCUMENTED


def test_the_former_name_of_the_module_gives_the_same_functions() -> None:
    for name in dwarf_nats.embedding.__all__:
        assert getattr(dwarf_nats.embedding, name) is getattr(library, name)


async def test_an_engine_takes_its_ports_and_its_telemetry_as_values() -> None:
    proxy, counters = adding(), Counters()
    ports = Ports(tasks=proxy, graphs=proxy)
    async with engine_on(["sqlite://"], ports, telemetry=Telemetry(counters=counters)) as engine:
        outcome = await engine.run("sum", {"a": 2, "b": 3}, timeout=30)
        assert (outcome.status, outcome.state["c"]) == (Status.COMPLETED, 5)
    assert dict(counters.flows_started) == {("sum",): 1}
    assert dict(counters.executed) == {("add", "completed"): 1}


async def test_engines_of_one_description_share_nothing() -> None:
    ports = Ports(tasks=(proxy := adding()), graphs=proxy)
    async with engine_on(["sqlite://"], ports) as one, engine_on(["sqlite://"], ports) as other:
        key = await one.create("sum", {"a": 1, "b": 1})
        assert (await one.snapshot(key)).status is Status.CREATED
        assert (await other.list())[0] == []
        assert one.replica is not other.replica
