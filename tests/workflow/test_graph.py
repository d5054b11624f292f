"""The builder and the validation of graphs: G1-G6, G10."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.graph import END, Graph, ReducerKind, Transition


def line(*names: str) -> Graph:
    graph = Graph("orders")
    graph.add_chain(*(names or ("a", "b")), END)
    return graph


def test_g1_url_defaults_to_the_name_and_the_first_node_is_the_entry_point() -> None:
    graph = Graph("g")
    assert graph.entry_point == ""
    graph.add_task("first")
    graph.add_task("second", "billing.charge")
    assert graph.nodes["first"].url == "first"
    assert graph.nodes["second"].url == "billing.charge"
    assert graph.entry_point == "first"
    graph.set_entry_point("second")
    assert graph.entry_point == "second"


def test_g1_adding_a_known_name_again_changes_nothing() -> None:
    graph = Graph("g")
    graph.add_task("a", "one")
    graph.add_task("a", "two")
    assert list(graph.nodes) == ["a"]
    assert graph.nodes["a"].url == "one"


def test_g2_unknown_names_become_nodes_and_an_unambiguous_url_stands_for_its_node() -> None:
    graph = Graph("g")
    graph.add_task("charge", "billing.charge")
    graph.add_transition("billing.charge", "ship")
    assert graph.transitions == [Transition("charge", "ship")]
    graph.add_task("charge2", "billing.charge")
    graph.add_transition("ship", "billing.charge")
    assert graph.transitions[-1].target == "billing.charge"
    assert "billing.charge" in graph.nodes


def test_g2_a_name_wins_over_the_url_of_another_node() -> None:
    graph = Graph("g")
    graph.add_task("x", "y")
    graph.add_task("y")
    graph.add_transition("x", "y")
    assert graph.transitions == [Transition("x", "y")]


def test_g2_every_kind_of_edge_is_kept_in_order_of_registration() -> None:
    graph = Graph("g")
    graph.add_transition_when("a", "b", "x > 1")
    graph.add_transition_switch("a", "c", "true")
    graph.add_transition_goto("a", "d")
    graph.add_transition_for_each("a", "e", "rows")
    graph.add_transition_for_each("a", "f", "rows", as_="row")
    graph.add_transition_on_error("a", "g")
    assert (
        graph.leaving("a")
        == graph.transitions
        == [
            Transition("a", "b", when="x > 1"),
            Transition("a", "c", when="true", switch=True),
            Transition("a", "d", goto=True),
            Transition("a", "e", for_each="rows", as_="item"),
            Transition("a", "f", for_each="rows", as_="row"),
            Transition("a", "g", on_error=True),
        ]
    )


def test_g2_conveniences_add_plain_edges() -> None:
    graph = Graph("g")
    graph.add_chain("a", "b", "c")
    graph.add_fan_out("c", "d", "e")
    assert graph.transitions == [
        Transition("a", "b"),
        Transition("b", "c"),
        Transition("c", "d"),
        Transition("c", "e"),
    ]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda g: g.add_transition("a", "b"), False),
        (lambda g: g.add_fan_out("a", "b", "c"), True),
        (lambda g: (g.add_transition("a", "b"), g.add_transition_when("a", "c", "x")), True),
        (lambda g: g.add_transition_for_each("a", "b", "rows"), True),
        (lambda g: (g.add_transition("a", "b"), g.add_transition_goto("a", "c")), False),
        (lambda g: (g.add_transition("a", "b"), g.add_transition_on_error("a", "c")), False),
        (lambda g: (g.add_transition_switch("a", "b", "x"), g.add_transition_switch("a", "c", "true")), False),
    ],
)
def test_g3_only_plain_when_and_for_each_edges_make_a_fan_out(build: Callable[[Graph], object], expected: bool) -> None:
    graph = Graph("g")
    build(graph)
    assert graph.is_fan_out("a") is expected


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda g: g.add_transition("a", "b"), "b"),
        (lambda g: g.add_transition("a", END), END),
        (lambda g: (g.add_transition("a", "b"), g.add_on_error("a", "c"), g.add_goto("a", "d")), "b"),
        (lambda g: g.add_goto("a", "b"), ""),
        (lambda g: None, ""),
        (lambda g: g.add_when("a", "b", "n > 1"), ""),
        (lambda g: g.add_switch("a", "b", "true"), ""),
        (lambda g: g.add_for_each("a", "b", "items"), ""),
        (lambda g: g.add_fan_out("a", "b", "c"), ""),
        (lambda g: (g.add_transition("a", "b"), g.add_when("a", "c", "n > 1")), ""),
        (lambda g: (g.add_transition("a", "b"), g.set_fan_in("b")), ""),
    ],
)
def test_a_node_goes_straight_where_nothing_decides_what_follows(
    build: Callable[[Graph], object], expected: str
) -> None:
    """Without a condition, a branch or a fan-in, the same follows whatever the state is (X7)."""
    graph = Graph("straight")
    graph.add_task("a")
    build(graph)
    assert graph.straight("a") == expected
    assert graph.straight("a") == expected


def test_a_node_does_not_go_straight_any_more_once_more_is_built() -> None:
    graph = Graph("straight")
    graph.add_transition("a", "b")
    assert graph.straight("a") == "b"
    graph.set_fan_in("b")
    assert graph.straight("a") == ""
    graph.add_transition("c", "d")
    assert graph.straight("c") == "d"
    graph.add_transition("c", "e")
    assert graph.straight("c") == ""


def test_g4_fan_in_may_be_marked_before_the_node_is_added() -> None:
    graph = Graph("g")
    graph.set_fan_in("join")
    graph.add_fan_out("a", "b", "c")
    graph.add_transition("b", "join")
    graph.add_transition("c", "join")
    graph.add_transition("join", END)
    assert graph.nodes["join"].fan_in
    graph.validate()


def test_g5_reducers_and_annotations() -> None:
    graph = line()
    graph.set_reducer("total", "add")
    graph.set_reducer("rows", ReducerKind.APPEND)
    graph.annotate("a", "the start")
    graph.validate()
    assert graph.reducers == {"total": ReducerKind.ADD, "rows": ReducerKind.APPEND}
    assert graph.annotations == {"a": "the start"}


def test_g5_a_corrected_reducer_is_no_longer_refused() -> None:
    graph = line()
    graph.set_reducer("total", "addd")
    with pytest.raises(BadRequest, match="'add'"):
        graph.validate()
    graph.set_reducer("total", "add")
    graph.validate()


def broken(name: str = "g") -> Graph:
    graph = Graph(name)
    graph.add_chain("a", "b", END)
    return graph


def changed(*calls: Callable[[Graph], object], name: str = "g") -> Graph:
    graph = broken(name)
    for call in calls:
        call(graph)
    return graph


def loop_of_plain_edges() -> Graph:
    graph = Graph("g")
    graph.add_chain("a", "b", "c", "b")
    return graph


def loop_with_an_end_elsewhere() -> Graph:
    graph = Graph("g")
    graph.add_transition_switch("a", END, "done")
    graph.add_transition_switch("a", "b", "true")
    graph.add_chain("b", "c", "b")
    return graph


def for_each(graph: Graph, **options: bool | str) -> None:
    graph.add_transition("b", "c", for_each="rows", **options)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Graph, list[str]]] = {
    "empty name": (changed(name=""), ["name"]),
    "name with a space": (changed(name="my orders"), ["my orders", "A-Z"]),
    "name with a wildcard": (changed(name="orders.*"), ["orders.*"]),
    "no nodes": (Graph("g"), ["no nodes"]),
    "entry point unknown": (changed(lambda g: g.set_entry_point("aa")), ["entry point", "'aa'", "'a'"]),
    "fan-in on an unknown node": (changed(lambda g: g.set_fan_in("join")), ["'join'"]),
    "fan-in on END": (changed(lambda g: g.set_fan_in(END)), ["fan-in", "END"]),
    "annotation on an unknown node": (changed(lambda g: g.annotate("z", "text")), ["'z'"]),
    "an edge out of END": (changed(lambda g: g.add_transition(END, "a")), ["'END' -> 'a'"]),
    "END as a task": (changed(lambda g: g.add_task(END)), ["END"]),
    "no edge to END": (loop_of_plain_edges(), ["END"]),
    "a plain cycle that cannot be left": (loop_with_an_end_elsewhere(), ["'b', 'c'", "cycle"]),
    "unreachable node": (changed(lambda g: g.add_transition("z", END)), ["'z'", "entry point 'a'"]),
    "for_each with goto": (changed(lambda g: for_each(g, goto=True)), ["'b' -> 'c'", "goto"]),
    "as without for_each": (changed(lambda g: g.add_transition("b", "c", as_="row")), ["'b' -> 'c'", "'row'"]),
    "for_each over no field": (changed(lambda g: g.add_transition_for_each("a", "b", "")), ["'a' -> 'b'", "field"]),
    "on_error with for_each": (changed(lambda g: for_each(g, on_error=True)), ["'b' -> 'c'", "on_error", "for_each"]),
    "on_error with goto": (
        changed(lambda g: g.add_transition("b", "c", on_error=True, goto=True)),
        ["'b' -> 'c'", "on_error", "goto"],
    ),
    "on_error to itself": (changed(lambda g: g.add_transition_on_error("b", "b")), ["'b' -> 'b'", "retry"]),
    "switch with for_each": (changed(lambda g: for_each(g, switch=True, when="x")), ["'b' -> 'c'", "switch"]),
    "switch with goto": (
        changed(lambda g: g.add_transition("b", "c", switch=True, goto=True, when="x")),
        ["'b' -> 'c'", "switch", "goto"],
    ),
    "switch with on_error": (
        changed(lambda g: g.add_transition("b", "c", switch=True, on_error=True, when="x")),
        ["'b' -> 'c'", "switch", "on_error"],
    ),
    "switch without a condition": (changed(lambda g: g.add_transition_switch("c", "b", "")), ["'c' -> 'b'", '"true"']),
    "switch mixed with plain": (changed(lambda g: g.add_transition_switch("b", "a", "x")), ["'b'", "switch", "plain"]),
    "when without a condition": (changed(lambda g: g.add_transition_when("a", "b", "")), ["'a' -> 'b'"]),
    "an invalid condition": (changed(lambda g: g.add_transition_when("a", "b", "x >")), ["'a' -> 'b'", "x >"]),
    "a condition with an unknown function": (
        changed(lambda g: g.add_transition_when("a", "b", "sise(x) > 1")),
        ["'a' -> 'b'", "'sise'", "'size'"],
    ),
    "an illegal task url": (changed(lambda g: g.add_task("c", "task.>")), ["'c'", "task.>", "A-Z"]),
    "a name that cannot be its own url": (changed(lambda g: g.add_task("my task")), ["'my task'"]),
    "an empty url": (changed(lambda g: g.add_task("c", "")), ["'c'"]),
    "an unknown reducer": (changed(lambda g: g.set_reducer("total", "sum")), ["'sum'", "'total'", "append"]),
    "an empty node name": (changed(lambda g: g.add_task("", "url")), ["empty name", "'url'"]),
    "a long node name": (changed(lambda g: g.add_task("n" * 257, "url")), ["257"]),
    "a control character in a node name": (changed(lambda g: g.add_task("a\nb", "url")), ["control"]),
    "a lone surrogate in a node name": (changed(lambda g: g.add_task("a\ud800", "url")), ["control"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_g6_refuses_and_names_the_graph_the_nodes_and_the_remedy(case: str) -> None:
    graph, words = REFUSED[case]
    with pytest.raises(BadRequest) as refusal:
        graph.validate()
    message = refusal.value.message
    assert message.startswith("graph ")
    assert "\n" not in message
    for word in [repr(graph.name), *words]:
        assert word in message


def test_g6_refuses_edges_of_unknown_nodes_made_by_hand() -> None:
    graph = broken()
    graph.transitions.append(Transition("b", "zz"))
    with pytest.raises(BadRequest, match="unknown node 'zz'"):
        graph.validate()


def test_g6_a_node_name_may_be_any_printable_text_of_256_characters() -> None:
    graph = Graph("g")
    name = "é " * 128
    graph.add_task(name, "task")
    graph.add_transition(name, END)
    graph.validate()


def test_g6_a_loop_with_a_way_out_is_allowed() -> None:
    graph = Graph("g")
    graph.add_chain("a", "b")
    graph.add_transition_switch("b", "a", "again")
    graph.add_transition_switch("b", END, "true")
    graph.validate()
    asks = Graph("g")
    asks.add_chain("a", "b", "a")
    asks.add_transition_goto("b", END)
    asks.validate()


def test_g10_the_digest_tells_graphs_apart_and_not_the_order_of_their_fields() -> None:
    one, two = line(), line()
    one.set_reducer("a", "add")
    one.set_reducer("b", "max")
    two.set_reducer("b", "max")
    two.set_reducer("a", "add")
    assert one == two
    assert one.digest() == two.digest()
    two.nodes["b"].url = "other"
    assert one != two
    assert one.digest() != two.digest()
    assert len(one.digest()) == 64
