"""D1: how a graph is drawn."""

from __future__ import annotations

import pytest

from dwarf_nats.render.graph import graph_mermaid
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import (
    Action,
    AskPerson,
    Compensation,
    PublishMessage,
    RunWorkflow,
    SendRequest,
    SetFields,
    Sleep,
    WaitForEvent,
    url_of,
)
from tests.render.diagrams import Diagram, Edge, read


def drawn(graph: Graph) -> Diagram:
    return read(graph_mermaid(graph))


def between(**edge: object) -> Edge:
    """The edge a → b of a graph with nothing else."""
    graph = Graph("g")
    graph.add_transition("a", "b", **edge)  # type: ignore[arg-type]
    return drawn(graph).edge("a", "b")


def test_d1_start_leads_to_the_entry_point_and_end_is_drawn() -> None:
    graph = Graph("acme.order")
    graph.add_chain("reserve", "charge", END)
    graph.set_entry_point("charge")
    diagram = drawn(graph)
    assert diagram.pairs() == [("START", "charge"), ("reserve", "charge"), ("charge", "END")]
    assert diagram.labels[diagram.node("START")] == ["START", "acme.order"]
    assert diagram.looks[diagram.node("START")] == diagram.looks[diagram.node("END")] == "terminal"


def test_n8_nodes_without_a_service_say_what_the_engine_does() -> None:
    graph = Graph("order")
    actions: list[tuple[str, Action]] = [
        ("note", SetFields({"total": "=quote.total", "seen": True})),
        ("ship", RunWorkflow("shipping", {})),
        ("stock", SendRequest(subject="='stock.' + sku", payload={})),
        ("tell", PublishMessage(subject="orders.shipped", stream=True)),
        ("paid", WaitForEvent(event="payment.settled", timeout_ms=90_000)),
        ("approve", AskPerson(payload="?", timeout_ms=None)),
        ("pause", Sleep(ms=5_000)),
        ("later", Sleep(until="=due")),
    ]
    graph.add_chain("plain", *(name for name, _ in actions), END)
    for name, action in actions:
        node = graph.nodes[name]
        node.action, node.url = action, url_of(action)
    graph.nodes["plain"].compensate = Compensation(url="undo")
    graph.nodes["stock"].compensate = Compensation(action=SendRequest(subject="stock.release"))
    graph.annotate("pause", "a moment")
    diagram = drawn(graph)
    shown = {name: (diagram.labels[at][1:], diagram.shapes[at]) for name in graph.nodes for at in [diagram.node(name)]}
    assert shown == {
        "plain": (["compensated by undo"], "box"),
        "note": (["set total, seen"], "box"),
        "ship": (["workflow shipping"], "framed"),
        "stock": (["request ='stock.' + sku", "compensated by request stock.release"], "box"),
        "tell": (["publish orders.shipped to a stream"], "flag"),
        "paid": (["wait for payment.settled, at most 1 min 30 s"], "hexagon"),
        "approve": (["ask a person"], "slanted"),
        "pause": (["sleep 5.0 s", "a moment"], "hexagon"),
        "later": (["sleep until =due"], "hexagon"),
    }
    assert {diagram.looks[diagram.node(name)] for name, _ in actions} == {"engine"}
    assert diagram.looks[diagram.node("plain")] == "task"


def test_d1_every_kind_of_edge_has_a_label_and_a_look_of_its_own() -> None:
    kinds = {
        "plain": between(),
        "when": between(when="total > 5"),
        "switch": between(switch=True, when="total > 5"),
        "for_each": between(for_each="items", as_="part"),
        "goto": between(goto=True),
        "on_error": between(on_error=True),
    }
    assert {kind: (edge.text, edge.line) for kind, edge in kinds.items()} == {
        "plain": ("", "solid"),
        "when": ("if total > 5", "solid"),
        "switch": ("1: total > 5", "solid"),
        "for_each": ("each part in items", "thick"),
        "goto": ("goto", "dotted"),
        "on_error": ("on error", "dotted"),
    }
    assert len({edge.style for kind, edge in kinds.items() if kind not in ("plain", "when")}) == 4
    assert kinds["plain"].style == kinds["when"].style == ""


@pytest.mark.parametrize(
    ("edge", "text"),
    [
        ({"goto": True}, "goto if n > 1"),
        ({"on_error": True}, "on error if n > 1"),
        ({"for_each": "items"}, "each item in items if n > 1"),
    ],
)
def test_d1_a_condition_that_gates_an_edge_follows_its_label(edge: dict[str, object], text: str) -> None:
    """G9."""
    assert between(when="n > 1", **edge).text == text


def test_d1_the_branches_of_a_switch_are_numbered_in_the_order_they_are_asked() -> None:
    """G2: the first match wins, so the order is part of the meaning."""
    graph = Graph("g")
    graph.add_switch("a", "b", "n < 1")
    graph.add_switch("z", "b", "n < 9")
    graph.add_switch("a", "c", "n < 5")
    graph.add_switch("a", "d", "true")
    diagram = drawn(graph)
    assert [diagram.edge("a", one).text for one in "bcd"] == ["1: n < 1", "2: n < 5", "3: else"]
    assert diagram.edge("z", "b").text == "1: n < 9"


def test_d1_a_fan_in_is_a_funnel_and_shows_what_it_is_called() -> None:
    graph = Graph("g")
    graph.add_fan_out("a", "b", "c")
    graph.add_chain("b", "meet", END)
    graph.add_chain("c", "meet")
    graph.set_fan_in("meet")
    graph.validate()
    diagram = drawn(graph)
    assert {name: diagram.shapes[diagram.node(name)] for name in ("a", "b", "c", "meet")} == {
        "a": "box", "b": "box", "c": "box", "meet": "funnel",
    }  # fmt: skip


def test_g5_annotations_stand_under_the_node_below_its_task_where_that_has_another_name() -> None:
    graph = Graph("g")
    graph.add_task("charge", "billing.charge")
    graph.add_task("ship")
    graph.annotate("charge", "once per order;\nkeyed by the step")
    graph.annotate("ship", "by truck")
    diagram = drawn(graph)
    assert diagram.labels[diagram.node("charge")] == [
        "charge", "(billing.charge)", "once per order;", "keyed by the step",
    ]  # fmt: skip
    assert diagram.labels[diagram.node("ship")] == ["ship", "by truck"]


def test_d1_the_same_graph_gives_the_same_diagram() -> None:
    graph = Graph("g")
    graph.add_chain("a", "b", END)
    graph.add_goto("b", "a")
    assert graph_mermaid(graph) == graph_mermaid(Graph.from_json(graph.to_json()))


def test_d1_a_graph_that_is_not_sound_is_drawn_all_the_same() -> None:
    """G6: a picture is how its author finds out."""
    assert drawn(Graph("")).pairs() == []
    graph = Graph("g")
    graph.add_task("alone")
    graph.add_transition(END, "b")
    graph.add_transition("b", "b", on_error=True)
    graph.set_entry_point("absent")
    assert drawn(graph).pairs() == [("END", "b"), ("b", "b")]
    assert "alone" in [lines[0] for lines in drawn(graph).labels.values()]


@pytest.mark.parametrize("name", ["step", "\U0001f600" * 50])
def test_d1_a_graph_beyond_what_mermaid_draws_is_cut_and_says_by_how_much(name: str) -> None:
    """The reader asserts the limits."""
    graph = Graph("g")
    graph.add_fan_out("split", *(f"{name}{at}" for at in range(3000)))
    diagram = drawn(graph)
    said = next(lines[0] for lines in diagram.labels.values() if lines[0].startswith("… "))
    left = 3000 - (len(diagram.edges) - 1)
    assert said == f"… {left:,} more edges, {left:,} more nodes"


def test_d1_so_is_a_graph_of_nodes_without_edges() -> None:
    graph = Graph("g")
    for at in range(3000):
        graph.add_task(f"{at}", "\U0001f600" * 50)
    diagram = drawn(graph)
    assert [f"… {3000 - (len(diagram.labels) - 2):,} more nodes"] in diagram.labels.values()
