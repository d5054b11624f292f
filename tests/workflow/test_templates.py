"""Templates: what an expression becomes in JSON, and how one that has no value is told (semantics: templates)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import templates
from dwarf_nats.workflow.state import Raw, state_from

STATE = state_from(
    {
        "n": 5,
        "f": 1.5,
        "big": 9007199254740993,
        "text": "a",
        "list": [1, {"k": None}],
        "obj": {"b": 2, "a": [1.0]},
        "no": None,
        "order id": 7,
    }
)


def rendered(template: Any, **extra: Any) -> Any:
    more = {name: Raw(json.dumps(value).encode()) for name, value in extra.items()}
    return json.loads(bytes(templates.render(template, STATE, where="node 'a', set", extra=more)))


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("==n", "=n"),
        ("=", None),
        ("=n + 1", 6),
        ("=f * 2.0", 3.0),
        ("=n > 4 && text == 'a'", True),
        ("='x.' + text", "x.a"),
        ("=list", [1, {"k": None}]),
        ("=missing", None),
        ("=no", None),
        ("=obj.a[0]", 1.0),
        ("=[n, 1u, {'k': text}]", [5, 1, {"k": "a"}]),
        ("=state['order id']", 7),
        ("=list.map(x, x)", [1, {"k": None}]),
        ("=timestamp('2026-12-01T09:00:00+01:00')", "2026-12-01T08:00:00Z"),
        ("=timestamp('2026-12-01T09:00:00.25Z')", "2026-12-01T09:00:00.250000Z"),
        ("=duration('90m')", "5400s"),
        ("=duration('1500ms')", "1.5s"),
        ({"a": "=n", "=n": ["==", "=text", 1, None, True]}, {"a": 5, "=n": ["=", "a", 1, None, True]}),
        ([], []),
        ({}, {}),
        (3.25, 3.25),
    ],
)
def test_values(template: Any, value: Any) -> None:
    if template == "=":
        with pytest.raises(BadRequest, match="it is empty"):
            rendered(template)
    else:
        assert json.dumps(rendered(template), sort_keys=True) == json.dumps(value, sort_keys=True)


def test_a_field_is_copied_digit_for_digit() -> None:
    state = {"x": Raw(b"[1.10, 9007199254740993, 1e2]"), "y": Raw(b"9223372036854775807")}
    assert bytes(templates.render({"a": "=x", "b": "=y"}, state, where="w")) == (
        b'{"a":[1.10, 9007199254740993, 1e2],"b":9223372036854775807}'
    )
    assert rendered("=big") == 9007199254740993
    assert rendered("=big + 1") == 9007199254740994


def test_a_value_inside_a_field_is_copied_digit_for_digit() -> None:
    """A price keeps its digits wherever it stands; names that are no identifiers are written in brackets."""
    state = {"quote": Raw(b'{"total": 10.10, "tax rate": {"x": 1e2}, "n": 9007199254740993}')}
    template = ["=quote.total", "=state.quote.total", "=quote['tax rate'].x", "=state['quote'].n"]
    assert bytes(templates.render(template, state, where="w")) == b"[10.10,10.10,1e2,9007199254740993]"
    assert templates.render_text("=quote.total", state, where="w") == "10.10"
    assert bytes(templates.render("=has(quote.total)", state, where="w")) == b"true"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("obj.none", "no such field 'none'"),
        ("state.none", "no such field 'none'"),
        ("missing.x", "'x' of a value that is no object"),
        ("text.x", "'x' of a value that is no object"),
        ("list.x", "'x' of a value that is no object"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(source: str, problem: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        rendered("=" + source)
    assert refusal.value.message.startswith(f"node 'a', set: the expression {source!r} cannot be evaluated: {problem}")


def test_variables_beside_the_state() -> None:
    """N9: `changes`."""
    assert rendered({"receipt": "=changes.receipt", "n": "=n"}, changes={"receipt": "R1"}) == {"receipt": "R1", "n": 5}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (
            {"a": {"b": ["=n", "=obj.none"]}},
            r"node 'a', set\.a\.b\[1\]: the expression 'obj\.none' cannot be evaluated",
        ),
        ("=1 +", "the expression '1 \\+' cannot be evaluated"),
        ("=b'xy'", "has bytes in it, which JSON cannot say"),
        ("=type(n)", "has a type in it"),
        ("=1.0 / 0.0", "its value is inf"),
        ("={1: 2}", "has the key 1"),
        ("=18446744073709551615u", "beyond|range|64"),
        ("=text + 1", "cannot be evaluated"),
    ],
)
def test_what_has_no_value_is_told_with_place_and_expression(template: Any, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        rendered(template)


def test_an_expression_that_takes_too_long_is_refused() -> None:
    """Its cost is bounded as that of a condition."""
    state = state_from({"xs": list(range(5_000))})
    with pytest.raises(BadRequest, match="takes too long"):
        templates.render("=xs.map(x, xs.filter(y, y == x))", state, where="w")


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("=[" + ",".join(["text"] * 190) + "]", id="a result far larger than the state"),
        pytest.param("=list.map(x, list)", id="a result that grows by the square"),
        pytest.param(["=size(list.filter(x, x > 3))"] * 300, id="many expressions that are each within the bound"),
        pytest.param(["=1 + 1"] * 5_000, id="very many small expressions"),
        pytest.param({"a": ["=text"] * 5_000}, id="copies of a large field"),
    ],
)
def test_the_expressions_of_a_template_are_bounded_together(template: Any) -> None:
    """However small each of them is: nothing can stop the event loop for long."""
    state = state_from({"text": "x" * 500_000, "list": list(range(5_000))})
    with pytest.raises(BadRequest, match=r"^w.*: the expression .* takes too long on a state of this size"):
        templates.render(template, state, where="w")


@pytest.mark.parametrize("template", [["=n + 1"] * 500, {"lines": "=list", "again": ["=list"] * 100}])
def test_templates_of_an_ordinary_size_are_within_the_bound(template: Any) -> None:
    state = state_from({"n": 1, "list": [{"sku": "K1", "quantity": 2}] * 1000})
    templates.render(template, state, where="w")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("stock.x", "stock.x"),
        ("='stock.' + text", "stock.a"),
        ("=n", "5"),
        ("=f", "1.5"),
        ("=n > 1", "true"),
        ("==x", "=x"),
    ],
)
def test_texts(template: str, text: str) -> None:
    assert templates.render_text(template, STATE, where="w") == text


@pytest.mark.parametrize("template", ["=missing", "=list", "=obj"])
def test_a_text_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(BadRequest, match=rf"w: the expression '{template[1:]}' must give a text, and gives"):
        templates.render_text(template, STATE, where="w")


def test_problems_name_their_places() -> None:
    found = list(templates.problems({"a": ["=n +", "fine"], "b c": "=nope(1)"}, "node 'x', request.payload"))
    assert [one.split(": ")[0] for one in found] == [
        "node 'x', request.payload.a[0]",
        "node 'x', request.payload['b c']",
    ]
