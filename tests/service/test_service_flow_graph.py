"""The graph that a flow runs, over NATS and on both databases."""

from __future__ import annotations

from tests.support.caller import Caller, line


async def test_a_flow_tells_the_graph_of_its_creation_whatever_is_registered_now(either: Caller) -> None:
    """O18, G10: also after its name stands for another graph, or for none."""
    first = line("order", "reserve", "ship")
    digest = (await either.ok("graph.put", **first))["digest"]
    key = (await either.ok("flow.create", workflow="order"))["flowKey"]
    assert (await either.ok("graph.put", **line("order", "pay")))["digest"] != digest
    for _ in range(2):
        told = await either.ok("flow.graph", flowKey=key)
        assert [task["name"] for task in told["graph"]["tasks"]] == ["reserve", "ship"]
        assert told["digest"] == digest
        await either.raw("graph.delete", {"name": "order"})


async def test_an_inline_graph_and_a_single_task_are_graphs_of_their_flows(either: Caller) -> None:
    """O18, O1."""
    key = (await either.ok("flow.create", graph=line("here", "reserve")))["flowKey"]
    assert (await either.ok("flow.graph", flowKey=key))["graph"]["name"] == "here"
    key = (await either.ok("flow.create_task", task="greet"))["flowKey"]
    assert (await either.ok("flow.graph", flowKey=key))["graph"]["entryPoint"] == "greet"


async def test_the_graph_of_a_flow_that_is_gone_is_a_404(either: Caller) -> None:
    """O18, O9."""
    key = (await either.ok("flow.create", graph=line("here", "reserve")))["flowKey"]
    await either.ok("flow.delete", flowKey=key)
    assert await either.code("flow.graph", flowKey=key) == 404
    assert await either.code("flow.graph", flowKey="nonsense") == 400
