"""Conditions that would hold up a replica are not evaluated; those people write are (G6, G9)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.condition_cost import BUDGET, cost
from dwarf_nats.workflow.conditions import Condition, compiled, evaluate, problem_of
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.state import state_from

ORDERS = [{"id": n, "total": 1.5 * n, "items": [{"sku": f"s{i}", "n": i} for i in range(10)]} for n in range(300)]
BIG = list(range(100_000))


@pytest.mark.parametrize(
    ("source", "state"),
    [
        ("total > 100 && country == 'DE'", {"total": 101, "country": "DE"}),
        ("size(items) == 100000", {"items": BIG}),
        ("items.all(x, x >= 0)", {"items": BIG[:9_999]}),
        ("items.exists(x, x == wanted)", {"items": BIG[:9_999], "wanted": 9_998}),
        ("items.exists_one(x, x == 5 || x == -1)", {"items": BIG[:9_999]}),
        ("99999 in items", {"items": BIG}),
        ("items.filter(x, x > 100).size() == 399", {"items": BIG[:500]}),
        ("items.map(x, x * 2).exists(x, x == 10)", {"items": BIG[:500]}),
        ("orders.exists(o, o.items.exists(i, i.sku == 's9' && i.n > 8))", {"orders": ORDERS}),
        ("orders.all(o, o.id in known)", {"orders": ORDERS[:50], "known": BIG[:300]}),
        ("orders.all(o, size(known) > o.id)", {"orders": ORDERS, "known": BIG[:400]}),
        ("orders.exists(o, o.items[9].sku.matches('^s[0-9]$'))", {"orders": ORDERS}),
        ("state.flag && state.items.size() > 5", {"flag": True, "items": BIG[:10], "other": BIG}),
        ("orders.exists(o, o.id in [7, 8, 9])", {"orders": ORDERS}),
        ("name.matches('^[a-z]+$')", {"name": "ada"}),
        ("name.matches('^[a-z]{1,8}$') && code.matches('[0-9]{5}')", {"name": "ada", "code": "12345"}),
        ("a + b + c + d == 10", {"a": 1, "b": 2, "c": 3, "d": 4}),
        ("state.items.all(x, x < 10)", {"items": BIG[:10]}),
        ("text.contains('needle')", {"text": "x" * 1_000_000 + "needle"}),
        ("first + ' ' + last == 'ada lovelace'", {"first": "ada", "last": "lovelace"}),
        ("status in ['new', 'open', 'held'] && !(country in ['DE', 'AT'])", {"status": "new", "country": "CH"}),
    ],
)
def test_what_people_write_is_evaluated(source: str, state: dict[str, Any]) -> None:
    assert evaluate(source, state_from(state)) == (True, "")


@pytest.mark.parametrize(
    ("source", "state"),
    [
        ("a.map(x, x).size() == 1", {"a": BIG}),
        ("a.filter(x, true).size() == 1", {"a": BIG}),
        ("a" + ".map(x, a)" * 15 + ".size() == 1", {"a": BIG[:600]}),
        ("a.map(x, a).map(y, a.map(z, y)).map(u, a.map(w, u)).size() == 1", {"a": BIG[:60]}),
        ("a.all(x, a.exists(y, y == x))", {"a": BIG}),
        ("a.all(x, x in b)", {"a": BIG, "b": BIG}),
        ("a.all(x, b == b)", {"a": BIG, "b": BIG}),
        ("a.all(x, [b, b, b].size() > 1)", {"a": BIG[:1_000], "b": BIG}),
        ("a.all(x, {'k': b}.k.size() > 1)", {"a": BIG[:1_000], "b": BIG}),
        ("state.a.all(x, state.a.exists(y, y == x))", {"a": BIG}),
        ("a.all(x, x.all(y, x.all(z, z < y)))", {"a": [BIG]}),
        ("a.all(x, 'a'.matches('a{1000}'))", {"a": BIG}),
        ("a.all(x, 'a'.matches(p))", {"a": BIG, "p": "a{1000}"}),
        ("s" + "+s" * 25 + " == ''", {"s": "x" * 1_000_000}),
        ("s.contains(t)", {"s": "a" * 1_000_000, "t": "a" * 500_000 + "b"}),
        ("a.all(x, s.contains('needle'))", {"a": BIG[:1_000], "s": "x" * 1_000_000}),
        ("a.all(x, size(s) > 1)", {"a": BIG[:1_000], "s": "x" * 1_000_000}),
        ("state == state", {"a": BIG * 2}),
        # Neither quotes nor comments hide a macro.
        ("a.all(x, ')' == ')' && a . exists ( y, y == x ) )", {"a": BIG}),
        ("a.all(x, r'\\)' == ')' || a.exists(y, y == x))", {"a": BIG}),
        ("a.all(x, '''it's)''' == '' || a.exists(y, y == x))", {"a": BIG}),
        ("a.all(x, // '\n a.exists(y, y == x))", {"a": BIG}),
        ('a.all(x, "\\")" == \'\' || a.exists(y, y == x))', {"a": BIG}),
    ],
)
def test_what_would_take_too_long_counts_as_not_taken(source: str, state: dict[str, Any]) -> None:
    """G9: it cannot be evaluated on this state, and on a small one it can."""
    verdict = evaluate(source, state_from(state))
    assert (verdict.taken, verdict.problem[:14]) == (False, "takes too long")
    small = {name: value[:2] if len(value) > 1 else [value[0][:2]] for name, value in state.items()}
    assert "too long" not in evaluate(source, state_from(small)).problem


@pytest.mark.parametrize("source", ["a.all(x, x >= 0)", "a.exists(x, false)", "a.exists_one(x, x == 1)"])
def test_an_array_of_ten_thousand_elements_cannot_be_searched_and_says_so(source: str) -> None:
    """G9."""
    verdict = evaluate(source, state_from({"a": BIG[:10_000]}))
    assert not verdict.taken
    assert "10,000 elements" in verdict.problem


@pytest.mark.parametrize(
    "pattern",
    [
        "x" * 120_000,
        "a{1000}" * 140,
        "\\pL" * 300,
        "\\pL{1000}",
        "[^a]{1000}" * 20,
        "[\\pL\\pN]{90}",
        "(" * 8_000 + ")" * 8_000,
        "((.{10}){10}){9}" * 3,
        "(?i)[a-z\u00e0-\uffff]{900}",
        "\\x{10ffff}{1000}" * 3,
    ],
)
def test_a_pattern_that_takes_long_to_compile_is_not_used_wherever_it_comes_from(pattern: str) -> None:
    """G9 for one of the state, G6 for one that is written out (as far as a condition may be that long)."""
    verdict = evaluate("s.matches(p)", state_from({"s": "a", "p": pattern}))
    assert "takes too long to compile" in verdict.problem
    assert (
        "takes too long to compile"
        in evaluate("a.exists(x, s.matches(x))", state_from({"s": "a", "a": [pattern]})).problem
    )
    source = f"s.matches(r'{pattern}')"
    assert ("compile" in problem_of(source)) == (len(source) <= 1_000)


@pytest.mark.parametrize("pattern", ["(a?){999}b", "(a|b)*a(a|b){30}c", "(.*)(.*)(.*)(.*)x", ".*a.{300}b"])
def test_a_pattern_that_is_slow_on_a_long_text_is_not_used_on_one(pattern: str) -> None:
    """G9: the product of both is bounded, over all uses in one evaluation."""
    assert evaluate("s.matches(p)", state_from({"s": "ab" * 20, "p": pattern})).problem == ""
    long = state_from({"s": "ab" * 200_000, "p": pattern, "a": [1] * 1_000, "t": "ab" * 500})
    assert "take too long (on texts of this size)" in evaluate("s.matches(p)", long).problem
    assert (
        "take too long (on texts of this size)" in evaluate("a.exists(x, t.matches(p) ? false : false)", long).problem
    )


@pytest.mark.parametrize(
    "pattern", ["^[A-Z]{2}$", "(?i)time-?out", "^\\d{4}-\\d{2}-\\d{2}", "\\p{Lu}\\p{Ll}+ [[:digit:]]+", "[^@]+@[^@]+"]
)
def test_patterns_people_write_are_used(pattern: str) -> None:
    assert evaluate("s.matches(p) || true", state_from({"s": "x" * 10_000, "p": pattern})) == (True, "")
    assert evaluate("!s.matches(p)", state_from({"s": "-" * 5_000, "p": pattern})) == (True, "")


@pytest.mark.parametrize(
    "source",
    [
        "['a']" + ".map(x, x + x)" * 15 + " == ['a']",
        "['a']" + ".map(x, x + x)" * 25 + ".exists(x, size(x) == 1)",
        "[1,2,3,4,5,6,7,8,9,10]" + ".exists(x, [1,2,3,4,5,6,7,8,9,10]" * 12 + ".exists(x, x == 0)" + ")" * 12,
    ],
)
def test_what_takes_too_long_on_any_state_is_refused_with_the_graph(source: str) -> None:
    """G6."""
    assert problem_of(source).startswith("it takes too long on any state")
    graph = Graph("g")
    graph.add_when("a", END, source)
    with pytest.raises(Exception, match="takes too long on any state"):
        graph.validate()


def test_the_bound_grows_with_nesting() -> None:
    def bound(depth: int) -> float:
        condition = compiled("".join(f"a.all(x{n}, " for n in range(depth)) + "a == a" + ")" * depth)
        assert isinstance(condition, Condition)
        return cost(condition.tree, {"a": 100}, 100)

    assert bound(1) < BUDGET < bound(2) < bound(3)
    assert bound(1) * 50 < bound(2)


def test_the_conditions_of_a_graph_are_bounded_together() -> None:
    """G6: compiling them takes time, and a graph has room for many."""
    graph = Graph("g")
    for n in range(120):
        graph.add_transition_switch("a", END, f"x == {n}" + " || x == 1" * 90)
    with pytest.raises(
        BadRequest, match="conditions and templates have .* characters of expressions together: keep them within 100000"
    ):
        graph.validate()


def test_the_regular_expressions_of_a_condition_are_bounded_together() -> None:
    """G6."""
    assert "take too long" in problem_of(" || ".join(f"s.matches(r'\\pL{{2}}{n}')" for n in range(30)))
