"""Conditions that would hold up a replica are not evaluated; those people write are (G6, G9)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.workflow.condition_cost import BUDGET, profile
from dwarf_nats.workflow.conditions import evaluate, problem_of
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.state import state_from

ORDERS = [{"id": n, "total": 1.5 * n, "items": [{"sku": f"s{i}", "n": i} for i in range(10)]} for n in range(300)]
BIG = list(range(100_000))


@pytest.mark.parametrize(
    ("source", "state"),
    [
        ("total > 100 && country == 'DE'", {"total": 101, "country": "DE"}),
        ("size(items) == 100000", {"items": BIG}),
        ("items.all(x, x >= 0)", {"items": BIG}),
        ("items.exists(x, x == wanted)", {"items": BIG, "wanted": 99_999}),
        ("items.exists_one(x, x == 5 || x == -1)", {"items": BIG}),
        ("items.filter(x, x > 1000).size() == 999", {"items": BIG[:2_000]}),
        ("items.map(x, x * 2).exists(x, x == 10)", {"items": BIG[:1_000]}),
        ("orders.exists(o, o.items.exists(i, i.sku == 's9' && i.n > 8))", {"orders": ORDERS}),
        ("orders.all(o, o.id in known)", {"orders": ORDERS[:50], "known": BIG[:300]}),
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
        ("a.all(x, 'a'.matches('(a{100}){100}'))", {"a": BIG}),
        ("a.all(x, 'a'.matches(p))", {"a": BIG, "p": "(a{100}){100}"}),
        ("s" + "+s" * 450 + " == ''", {"s": "x" * 1_000_000}),
        # Neither quotes nor comments hide a macro.
        ("a.all(x, ')' == ')' && a . exists ( y, y == x ) )", {"a": BIG}),
        ("a.all(x, r'\\' == ')' || a.exists(y, y == x))", {"a": BIG}),
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


@pytest.mark.parametrize(
    "source",
    [
        "['a']" + ".map(x, x + x)" * 15 + " == ['a']",
        "[1]" + ".map(x, [x, x])" * 15 + " == [1]",
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
    one, two, three = (
        profile("a.all(x, " * depth + "true" + ")" * depth).cost({"a": 1_000}, 1_000) for depth in (1, 2, 3)
    )
    assert one < BUDGET < three
    assert one * 100 < two < three / 100
