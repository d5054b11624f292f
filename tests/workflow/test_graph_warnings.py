"""What looks like a mistake in a sound graph is told (G11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwarf_nats.cli.graph import read_graph
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.graph_warnings import MAX_WARNINGS
from dwarf_nats.workflow.reducers import ReducerKind

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("graphs/*.yaml"))


def _choice(*conditions: str) -> Graph:
    graph = Graph("g")
    for at, condition in enumerate(conditions):
        graph.add_transition_switch("a", f"b{at}", condition)
        graph.add_transition(f"b{at}", END)
    graph.add_transition_switch("a", END, "true")
    return graph


def test_g11_a_graph_without_mistakes_has_no_warnings() -> None:
    graph = _choice("total > 100", "total > 10 && country == 'DE'", "items.exists(i, i.n > 1)", "state.country == 'AT'")
    graph.validate()
    assert graph.warnings() == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_g11_the_examples_have_no_warnings(path: Path) -> None:
    assert read_graph(str(path)).warnings() == []


def test_g11_switches_of_which_none_may_hold() -> None:
    graph = Graph("g")
    graph.add_transition_switch("a", "b", "x > 1")
    graph.add_transition_switch("a", END, "x <= 1")
    graph.add_transition("b", END)
    (warning,) = graph.warnings()
    assert "node 'a'" in warning
    assert '"true"' in warning
    graph.add_transition_switch("a", END, "true")
    assert graph.warnings() == []


def test_g11_a_single_condition_without_a_default() -> None:
    graph = Graph("g")
    graph.add_transition_when("a", "b", "x > 1")
    graph.add_transition("b", END)
    (warning,) = graph.warnings()
    assert "node 'a': if the condition 'x > 1' does not hold, the flow ends there" in warning


def test_g11_several_conditions_are_a_fan_out_which_goes_on_at_its_fan_in() -> None:
    """F5."""
    graph = Graph("g")
    for name in ("b", "c"):
        graph.add_transition_when("a", name, f"x{name} > 1")
        graph.add_transition(name, "d")
    graph.set_fan_in("d")
    graph.add_transition("d", END)
    graph.validate()
    assert graph.warnings() == []


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("total > 100", "totl > 10", True),
        ("total > 100", "Total > 10", True),
        ("customer.name == 'x'", "custmer.name == 'y'", True),
        ("state.approved", "state.aproved == false", True),
        ("has(state.country)", "contry == 'DE'", True),
        ("'country' in state", "state['countri'] == 1", True),
        ("total > 100", "subtotal > 10", False),
        ("valid", "invalid", False),
        ("address1 == 'x'", "address2 == 'y'", False),
        ("min > 1", "max > 2", False),
        ("a.total > 1", "b.totl > 1", False),
    ],
)
def test_g11_a_field_whose_name_is_close_to_another_one(one: str, other: str, near: bool) -> None:
    warnings = _choice(one, other).warnings()
    assert len(warnings) == near
    assert all("did you mean" in warning and "'a' -> " in warning for warning in warnings)


def test_g11_a_name_of_a_loop_or_a_reducer_counts_as_known() -> None:
    graph = Graph("g")
    graph.add_transition_for_each("a", "b", "orders", "order", "size(ordres) > 1")
    graph.add_transition("b", "c")
    graph.add_transition_when(
        "c", "d", "orderCuont > 1 || onEr == null || orderIndex == 1 || onErr == null || totls > 1"
    )
    graph.add_transition("d", END)
    graph.set_fan_in("c")
    graph.set_reducer("totals", ReducerKind.ADD)
    told = [warning.split("did you mean ")[1] for warning in graph.warnings() if "did you mean" in warning]
    assert sorted(told) == ["'onErr'?", "'orderCount'?", "'orders'?", "'totals'?"]


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("1 + 1", "yields number, never a boolean"),
        ("size(items)", "yields number"),
        ("'yes'", "yields string"),
        ("size(items) == '3'", "compares (int, string) by `==`, which are never equal"),
        ("n > 1 && 1 in ['a', 'b']", "compares (int, list(string)) by `in`"),
        ("null != 0", "compares (null, int) by `!=`"),
        ("1 / 0 == 1", "division by zero"),
        ("timestamp('yesterday') > timestamp(0)", "cannot be evaluated"),
        ("duration('1 day') > duration('1h')", "cannot be evaluated"),
    ],
)
def test_g11_a_condition_that_never_holds(condition: str, why: str) -> None:
    """G9 has it that such a condition is not taken, so it is no error."""
    graph = _choice(condition)
    graph.validate()
    (warning,) = graph.warnings()
    assert "edge 'a' -> 'b0'" in warning
    assert why in warning


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1 / 0", "division by zero"),
        ("[1, 2].map(i, i / 0)", "division by zero"),
        ("int('seven')", ""),
        ("timestamp('tomorrow')", ""),
        ("[1, 2][3]", "index"),
        ("{1: 2}", "keys of JSON objects are texts"),
        ("b'x'", "has bytes in it"),
        ("1.0 / 0.0", "JSON cannot say"),
    ],
)
def test_g11_an_expression_that_reads_nothing_and_always_fails(expression: str, why: str) -> None:
    """G6 lets it pass: it is sound, and its step fails by it."""
    graph = Graph.from_values(
        {
            "name": "g",
            "entryPoint": "ask",
            "tasks": [
                {"name": "ask", "request": {"subject": "a", "payload": {"n": [f"={expression}"], "m": "=n / 0"}}},
                {"name": "then", "set": {"a": "=1 + 1", "b": "=timestamp(0)", "c": "=state.size()"}},
            ],
            "transitions": [{"from": "ask", "to": "then"}, {"from": "then", "to": "END"}],
        }
    )
    graph.validate()
    (warning,) = graph.warnings()
    assert warning.startswith(
        f"node 'ask', request.payload.n[0]: its expression {expression!r} cannot be evaluated on any"
    )
    assert why in warning


def test_g11_an_expression_of_a_compensation_that_always_fails() -> None:
    graph = Graph.from_values(
        {
            "name": "g",
            "tasks": [
                {"name": "a", "set": {"x": 1}, "compensate": {"publish": {"subject": "undo", "payload": "=1 % 0"}}}
            ],
            "transitions": [{"from": "a", "to": "END"}],
        }
    )
    (warning,) = graph.warnings()
    assert warning.startswith("node 'a', compensate.publish.payload: its expression '1 % 0'")


def test_g11_an_error_edge_into_a_fan_in_without_a_reducer() -> None:
    graph = Graph("g")
    graph.add_fan_out("a", "b", "c")
    for name in ("b", "c"):
        graph.add_transition(name, "d")
    graph.add_transition_on_error("b", "d")
    graph.add_transition("d", END)
    graph.set_fan_in("d")
    graph.validate()
    (warning,) = graph.warnings()
    assert "edge 'b' -> 'd' is an error edge into a fan-in" in warning
    graph.set_reducer("onErr", ReducerKind.MERGE)
    assert graph.warnings() == []


def test_g11_many_warnings_are_cut() -> None:
    graph = Graph("g")
    for n in range(50):
        graph.add_transition_switch(f"n{n}", f"n{n + 1}", "x > 1")
    graph.add_transition("n50", END)
    warnings = graph.warnings()
    assert len(warnings) == MAX_WARNINGS + 1
    assert warnings[-1] == f"and {50 - MAX_WARNINGS} more"
