"""Reducers: S3, S4, S5."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.reducers import ReducerKind, combine, fold, reduce
from dwarf_nats.workflow.state import Raw, encode_state, state_from


def raw(value: Any) -> Raw:
    return Raw(value if isinstance(value, bytes) else json.dumps(value).encode())


def run(kind: str, left: Any, right: Any) -> Any:
    return json.loads(bytes(reduce(ReducerKind(kind), "f", raw(left), raw(right))))


@pytest.mark.parametrize(
    ("kind", "left", "right", "expected"),
    [
        ("replace", 1, "x", "x"),
        ("append", [1], [2, 1], [1, 2, 1]),
        ("append", [], [None], [None]),
        ("add", 2, 3, 5),
        ("add", 2, 0.5, 2.5),
        ("add", 9007199254740993, 1, 9007199254740994),
        ("min", 2, 1.5, 1.5),
        ("max", 9007199254740993, 9007199254740992.0, 9007199254740993),
        ("union", [1, 2, 1], [2, 3], [1, 2, 3]),
        ("union", [{"a": 1, "b": 2}], [{"b": 2, "a": 1}], [{"a": 1, "b": 2}]),
        ("union", [1], [1.0, True, "1"], [1, True, "1"]),
        ("union", [[1, {"a": 0}]], [[1.0, {"a": 0.0}], [1, {"a": False}]], [[1, {"a": 0}], [1, {"a": False}]]),
        ("merge", {"a": 1, "b": 1}, {"b": 2, "c": None}, {"a": 1, "b": 2, "c": None}),
        ("and", True, False, False),
        ("and", True, True, True),
        ("or", False, True, True),
        ("or", False, False, False),
        ("concat", "ab", "cé", "abcé"),
    ],
)
def test_s4_kinds(kind: str, left: Any, right: Any, expected: Any) -> None:
    result = run(kind, left, right)
    assert result == expected
    assert type(result) is type(expected)


def test_s4_numbers_that_are_not_computed_keep_their_digits() -> None:
    assert bytes(reduce(ReducerKind.MAX, "f", raw(b"1.10"), raw(b"1.0"))) == b"1.10"
    assert bytes(reduce(ReducerKind.APPEND, "f", raw(b"[1.10]"), raw(b"[1e2]"))) == b"[1.10,1e2]"
    assert bytes(reduce(ReducerKind.UNION, "f", raw(b"[1.10]"), raw(b"[1.1,2.50]"))) == b"[1.10,2.50]"
    assert bytes(reduce(ReducerKind.MERGE, "f", raw(b'{"a":1.10}'), raw(b'{"b":1e2}'))) == b'{"a":1.10,"b":1e2}'


WRONG = [
    ("append", "an array", {}, "object"),
    ("add", "a number", "x", "string"),
    ("add", "a number", True, "boolean"),
    ("min", "a number", [], "array"),
    ("max", "a number", False, "boolean"),
    ("union", "an array", "x", "string"),
    ("merge", "an object", [1], "array"),
    ("and", "a boolean", 1, "number"),
    ("or", "a boolean", "true", "string"),
    ("concat", "a string", 1, "number"),
]
GOOD: dict[str, Any] = {
    "append": [1],
    "add": 1,
    "min": 1,
    "max": 1,
    "union": [1],
    "merge": {},
    "and": True,
    "or": True,
    "concat": "x",
}


@pytest.mark.parametrize(("kind", "requires", "value", "got"), WRONG)
def test_s4_a_value_of_the_wrong_type_is_refused_in_these_words(kind: str, requires: str, value: Any, got: str) -> None:
    words = f"`{kind}` reducer on field `total` requires {requires}, got {got}"
    for left, right in ((raw(GOOD[kind]), raw(value)), (raw(value), raw(GOOD[kind])), (None, raw(value))):
        with pytest.raises(BadRequest) as refusal:
            reduce(ReducerKind(kind), "total", left, right)
        assert refusal.value.message == words


def test_s4_a_sum_out_of_range_is_refused() -> None:
    with pytest.raises(BadRequest, match="64 bits"):
        run("add", 2**63 - 1, 1)
    with pytest.raises(BadRequest, match="64 bits"):
        run("add", -(2**63), -1)
    with pytest.raises(BadRequest, match="double"):
        run("add", 1.7e308, 1.7e308)


@pytest.mark.parametrize("kind", list(ReducerKind))
def test_s4_a_missing_or_null_side_is_the_identity(kind: ReducerKind) -> None:
    value = raw(GOOD.get(kind, 1))
    for nothing in (None, raw(None)):
        assert bytes(reduce(kind, "f", value, nothing)) == bytes(value)
        assert bytes(reduce(kind, "f", nothing, value)) == bytes(value)
        assert bytes(reduce(kind, "f", nothing, None)) == b"null"


@pytest.mark.parametrize(
    ("base", "deltas", "expected"),
    [
        ([1, 1, True], [], [1, True]),
        ([1, 1.0], [None, None], [1]),
        (None, [[2, 2]], [2]),
        (None, [None, [{"a": 1, "b": 2}, {"b": 2, "a": 1}], None], [{"a": 1, "b": 2}]),
        ([3, 3], [[], []], [3]),
        ([], [], []),
    ],
)
def test_s4_a_union_has_no_duplicates_however_many_contribute(base: Any, deltas: list[Any], expected: Any) -> None:
    state = {} if base is None else {"f": raw(base)}
    given_ = [{} if delta is None else {"f": raw(delta)} for delta in deltas]
    assert json.loads(bytes(combine({"f": ReducerKind.UNION}, state, given_)["f"])) == expected
    assert json.loads(bytes(fold(ReducerKind.UNION, "f", [raw(base), *map(raw, deltas)]))) == expected


def test_s4_what_passes_a_reducer_alone_and_unchanged_is_the_same_text() -> None:
    """Large fields are stored once as long as they are the same value."""
    for kind, text in (("union", b"[1.10, 2]"), ("append", b"[1.0]"), ("add", b"1.50"), ("merge", b'{"a": 1}')):
        value = raw(text)
        assert combine({"f": ReducerKind(kind)}, {"f": value}, [{"g": raw(1)}])["f"] is value


@pytest.mark.parametrize(("kind", "requires", "value", "got"), WRONG)
def test_s4_a_wrong_type_is_refused_also_where_nothing_is_added_to_it(
    kind: str, requires: str, value: Any, got: str
) -> None:
    """A null and a missing side are the same, so the result cannot depend on which of them it is."""
    words = f"`{kind}` reducer on field `total` requires {requires}, got {got}"
    for delta in ({}, {"total": raw(None)}):
        with pytest.raises(BadRequest) as refusal:
            combine({"total": ReducerKind(kind)}, {"total": raw(value)}, [delta])
        assert refusal.value.message == words


INTS = st.integers(-(2**40), 2**40)
SCALARS = st.none() | st.booleans() | INTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "replace": JSON,
    "append": st.lists(JSON, max_size=3),
    "add": INTS,
    "min": INTS | st.floats(allow_nan=False, allow_infinity=False),
    "max": INTS | st.floats(allow_nan=False, allow_infinity=False),
    "union": st.lists(JSON, max_size=4),
    "merge": st.dictionaries(st.sampled_from("abcd"), JSON),
    "and": st.booleans(),
    "or": st.booleans(),
    "concat": st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
}


@pytest.mark.parametrize("kind", list(ReducerKind))
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_s4_folding_many_is_reducing_from_left_to_right_in_any_grouping(kind: ReducerKind, data: st.DataObject) -> None:
    values = [raw(value) for value in data.draw(st.lists(VALUES[kind], min_size=1, max_size=5))]
    cut = data.draw(st.integers(0, len(values)))
    whole = json.loads(bytes(fold(kind, "f", values)))
    stepwise: Raw | None = None
    for value in values:
        stepwise = reduce(kind, "f", stepwise, value)
    assert stepwise is not None
    assert json.loads(bytes(stepwise)) == whole
    halves = [fold(kind, "f", values[:cut]), fold(kind, "f", values[cut:])]
    assert json.loads(bytes(fold(kind, "f", halves))) == whole


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_s4_integer_sums_are_exact_or_refused(values: list[int]) -> None:
    total = sum(values)
    if -(2**63) <= total < 2**63:
        assert bytes(fold(ReducerKind.ADD, "f", map(raw, values))) == str(total).encode()
    else:
        with pytest.raises(BadRequest):
            fold(ReducerKind.ADD, "f", map(raw, values))


def test_s5_branches_write_deltas_onto_what_the_fan_out_left() -> None:
    merged = combine(
        {"total": ReducerKind.ADD, "rows": ReducerKind.APPEND},
        state_from({"total": 10, "name": "x", "old": 1}),
        [
            state_from({"total": 1, "rows": ["a"], "name": "y"}),
            state_from({"total": 2, "rows": ["b"], "old": None}),
        ],
    )
    assert encode_state(merged) == b'{"total":13,"name":"y","rows":["a","b"]}'


def test_s3_a_null_is_ignored_where_a_reducer_acts_and_deletes_elsewhere() -> None:
    merged = combine(
        {"total": ReducerKind.ADD, "same": ReducerKind.REPLACE, "new": ReducerKind.ADD},
        state_from({"total": 10, "name": "x", "same": 1}),
        [state_from({"total": None, "name": None, "same": None, "new": None})],
    )
    assert encode_state(merged) == b'{"total":10}'


def test_s5_the_state_combined_into_is_not_altered() -> None:
    state = state_from({"total": 10})
    combine({"total": ReducerKind.ADD}, state, [state_from({"total": 1, "x": 1})])
    assert encode_state(state) == b'{"total":10}'


def test_s4_ten_thousand_branches_fold_in_one_pass() -> None:
    deltas = [state_from({"rows": [at], "seen": [at % 7], "n": 1}) for at in range(10_000)]
    kinds = {"rows": ReducerKind.APPEND, "seen": ReducerKind.UNION, "n": ReducerKind.ADD}
    merged = combine(kinds, {}, deltas)
    assert json.loads(bytes(merged["rows"])) == list(range(10_000))
    assert json.loads(bytes(merged["seen"])) == list(range(7))
    assert bytes(merged["n"]) == b"10000"
