"""Conditions: G9."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.workflow.condition_source import MAX_LENGTH, MAX_NESTING
from dwarf_nats.workflow.conditions import evaluate, holds, problem_of
from dwarf_nats.workflow.state import state_from

STATE: dict[str, Any] = {
    "total": 250,
    "price": 2.5,
    "country": "DE",
    "vip": True,
    "none": None,
    "tags": ["a", "b"],
    "customer": {"name": "ada", "age": 36},
    "rows": [{"n": 1}, {"n": 3}],
    "big": 2**63 - 1,
    "order id": 7,
    "state": "inner",
}


@pytest.mark.parametrize(
    "source",
    [
        "true",
        "total > 100 && country == 'DE'",
        "total > 2.5",
        "price * 2.0 == 5.0",
        "vip",
        "'a' in tags && size(tags) == 2",
        "customer.name.startsWith('ad')",
        "rows.exists(r, r.n > 2)",
        "rows.map(r, r.n) == [1, 3]",
        "big == 9223372036854775807",
        "state['order id'] == 7",
        "state.total == total",
        "state.state == 'inner'",
        "has(customer.age) && !has(customer.zip)",
        "country.matches('^[A-Z]{2}$')",
        "total == 250.0",
        "type(total) == int && type(country) == string",
        ".total == 250",
    ],
)
def test_g9_reads_the_merged_state(source: str) -> None:
    assert problem_of(source) == ""
    assert evaluate(source, state_from(STATE)) == (True, "")


@pytest.mark.parametrize(
    "source", ["missing == null", "none == null", "missing == none", "type == null", "optional == null", "list == null"]
)
def test_g9_an_absent_field_reads_as_null(source: str) -> None:
    assert holds(source, state_from({"none": None}))


def test_g9_a_field_may_have_the_name_of_a_type() -> None:
    assert holds("type == 'refund' && map.size() == 1", state_from({"type": "refund", "map": {"a": 1}}))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("country > 1", "overload"),
        ("missing > 1", "overload"),
        ("!missing", "overload"),
        ("customer.zip == 1", "no such field 'zip'"),
        ("state.missing == null", "no such field 'missing'"),
        ("tags[5] == 'a'", "out of bounds"),
        ("1 / (total - total) == 1", "division by zero"),
        ("big + 1 > 0", "overflow"),
        ("total", "number"),
        ("country", "string"),
        ("none", "null"),
    ],
)
def test_g9_what_cannot_be_evaluated_or_is_no_boolean_is_not_taken_and_says_why(source: str, why: str) -> None:
    assert problem_of(source) == ""
    taken, problem = evaluate(source, state_from(STATE))
    assert not taken
    assert why in problem
    assert "\n" not in problem


def test_g9_an_operand_that_decides_hides_an_error_in_the_other() -> None:
    assert holds("vip || missing > 1", state_from(STATE))
    assert evaluate("!vip && missing > 1", state_from(STATE)) == (False, "")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("", "empty"),
        (" // nothing", "empty"),
        ("total >", "Syntax error"),
        ("total = 1", "Syntax error"),
        ("import os; os", "reserved identifier"),
        ("__import__('os')", "no function '__import__'"),
        ("sise(tags) > 1", "'size'"),
        ("has(total)", "has()"),
        ("9999999999999999999 > 1", "int literal"),
        ("x" * (MAX_LENGTH + 1), str(MAX_LENGTH)),
        ("(" * (MAX_NESTING + 1) + "x" + ")" * (MAX_NESTING + 1), str(MAX_NESTING)),
        ("x == ')))))' && " + "(" * (MAX_NESTING + 1) + "y" + ")" * (MAX_NESTING + 1), str(MAX_NESTING)),
    ],
)
def test_g9_an_invalid_condition_is_told_in_one_line(source: str, word: str) -> None:
    problem = problem_of(source)
    assert word in problem
    assert "\n" not in problem


@pytest.mark.parametrize("char", ["\x1b[31m", "\x1d", "\u2028", "\u202e", "\x85", "\x7f"])
def test_g9_messages_have_no_control_characters_of_conditions_or_states(char: str) -> None:
    for problem in (problem_of(f"{char} == 1"), evaluate("m[k] == 1", state_from({"m": {}, "k": f"a{char}"})).problem):
        assert problem
        assert problem.isprintable()


def test_g9_brackets_in_strings_do_not_count() -> None:
    assert problem_of(f"x == '{'(' * 200}'") == ""


@pytest.mark.parametrize("unit", [".b", "[0]", "+a", "&&a", "||a", "==a", "?a:a", ".b()"])
def test_g9_the_longest_condition_of_any_shape_does_no_harm(unit: str) -> None:
    source = "a" + unit * ((MAX_LENGTH - 1) // len(unit))
    if not problem_of(source):
        evaluate(source, state_from({"a": True}))


@given(st.text(alphabet="ab1 .()[]{}'\"\\!&|=<>?:,+-*/%\n", max_size=30))
@settings(max_examples=150, deadline=None)
def test_g9_any_text_is_either_refused_or_evaluated(source: str) -> None:
    if problem_of(source):
        return
    verdict = evaluate(source, state_from({"a": 1, "b": {"a": [True]}}))
    assert isinstance(verdict.taken, bool)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=100, deadline=None)
def test_g9_integers_compare_exactly_over_the_whole_range(left: int, right: int) -> None:
    state = state_from({"left": left, "right": right})
    assert holds("left < right", state) is (left < right)
    assert holds("left == right", state) is (left == right)
    assert holds("left == left", state)
