"""State: S1-S3; and the names and keys of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.keys import MAX_ID, Key, Tokens, parse_key
from dwarf_nats.workflow.names import check_subject_name, closest, is_subject_name
from dwarf_nats.workflow.state import (
    Raw,
    check_json,
    check_state,
    decode_state,
    decode_value,
    encode_state,
    json_type,
    merge,
    state_from,
    to_values,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
STATES = st.dictionaries(TEXT, VALUES, max_size=4)


@given(STATES)
@settings(max_examples=100, deadline=None)
def test_s1_a_state_round_trips(values: dict[str, Any]) -> None:
    state = state_from(values)
    assert to_values(state) == values
    assert to_values(decode_state(encode_state(state))) == values


@pytest.mark.parametrize(
    "text",
    [
        b'{"n":9223372036854775807,"m":-9223372036854775808}',
        b'{"n":1.10,"m":1e2,"o":0.1000000000000000055511151231257827}',
        b'{"s":"\\u00e9\\u0000","t":"0123456789012345678901234567890"}',
        b'{"x":[{"deep":[1.0]}]}',
    ],
)
def test_s1_text_passes_through_digit_for_digit(text: bytes) -> None:
    assert encode_state(check_state(text)) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b'{"a":"\\ud800"}', "not valid JSON"),
        (b'{"\\udc00":1}', "not valid JSON"),
        (b'{"a":1e400}', "not valid JSON"),
        (b'{"a":9223372036854775808}', "64 bits"),
        (b'{"a":[{"b":-9223372036854775809}]}', "64 bits"),
        (b'{"a":100000000000000000000000000}', "64 bits"),
        (b"[]", "array"),
        (b'"x"', "string"),
        (b"1", "number"),
        (b"true", "boolean"),
        (b"null", "null"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "64 levels"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "depth"),
    ],
)
def test_s1_what_cannot_be_stored_is_refused(text: bytes, word: str) -> None:
    with pytest.raises(BadRequest, match=word) as refusal:
        check_state(text, "initial state")
    assert refusal.value.message.startswith("initial state")


def test_s1_nesting_up_to_the_limit_counts_the_state_as_the_first_level() -> None:
    check_state(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}")
    check_state(b'{"a":[' + b"{}," * 100 + b"{}]}", max_depth=3)
    with pytest.raises(BadRequest):
        check_state(b'{"a":[[1]]}', max_depth=2)


def test_s1_of_a_name_given_twice_the_last_counts() -> None:
    assert to_values(check_state(b'{"a":1,"a":2}')) == {"a": 2}


@dataclass
class Point:
    x: float
    y: int | None = None


class Box(msgspec.Struct):
    at: Point


def test_s1_python_values_become_json() -> None:
    state = state_from({"p": Point(1.5, 2), "b": Box(Point(0.5)), "s": {1}, "t": (1, 2), "r": Raw(b"1.10")})
    assert encode_state(state) == b'{"p":{"x":1.5,"y":2},"b":{"at":{"x":0.5,"y":null}},"s":[1],"t":[1,2],"r":1.10}'
    assert state_from(None) == {}
    assert to_values(state_from(b'{"a":1}')) == {"a": 1}


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": (-float("inf"),)},
        Point(float("nan")),
        Box(Point(float("inf"))),
        2**64,
        2**63,
        "\ud800",
        {1: 2},
        object(),
    ],
)
def test_s1_python_values_that_json_cannot_hold_are_refused(value: Any) -> None:
    with pytest.raises(BadRequest):
        state_from({"a": value})


@given(STATES, STATES)
@settings(max_examples=80, deadline=None)
def test_s2_s3_changes_win_and_a_null_removes(state: dict[str, Any], changes: dict[str, Any]) -> None:
    before = state_from(state)
    text = encode_state(before)
    merged = to_values(merge(before, state_from(changes)))
    expected = {name: value for name, value in {**state, **changes}.items() if changes.get(name, 0) is not None}
    assert merged == expected
    assert encode_state(before) == text


def test_s3_a_null_of_the_initial_state_stays() -> None:
    assert encode_state(merge(state_from({"a": None}), state_from({"b": 1}))) == b'{"a":null,"b":1}'


def test_json_values_are_checked_and_named() -> None:
    assert check_json(b"null", "payload") is None
    assert decode_value(Raw(b"9007199254740993")) == 9007199254740993
    assert [json_type(value) for value in (None, True, 1, 1.5, "", [], {})] == [
        "null",
        "boolean",
        "number",
        "number",
        "string",
        "array",
        "object",
    ]


KEY = "1-42-abcdefghijKLMN01"


def test_a_key_parses_and_shows_without_its_token() -> None:
    key = parse_key(KEY)
    assert key == Key(1, 42, "abcdefghijKLMN01")
    assert str(key) == KEY
    assert key.public_id == "1-42"
    assert parse_key(f"{MAX_ID}-{MAX_ID}-{'a' * 16}").id == MAX_ID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1-42",
        "0-42-abcdefghijKLMN01",
        "1-0-abcdefghijKLMN01",
        "01-42-abcdefghijKLMN01",
        "1-42-abcdefghijKLMN0",
        "1-42-abcdefghijKLMN012",
        "1-42-abcdefghijKLMN0_",
        "1-42-abcdefghijKLMN0é",
        " 1-42-abcdefghijKLMN01",
        "1-42-abcdefghijKLMN01\n",
        "-1-42-abcdefghijKLMN01",
        "1-9223372036854775808-abcdefghijKLMN01",
        "١-42-abcdefghijKLMN01",
    ],
)
def test_a_malformed_key_is_a_bad_request_and_is_not_repeated(text: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_key(text, "step")
    assert "step" in refusal.value.message
    assert not text.strip() or text not in refusal.value.message


def test_tokens_are_sixteen_letters_or_digits_and_never_the_same() -> None:
    tokens = Tokens()
    made = [tokens() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert all(len(token) == 16 and token.isascii() and token.isalnum() for token in made)
    assert len(set("".join(made))) == 62


@given(st.integers(1, MAX_ID), st.integers(1, MAX_ID), st.from_regex(r"[A-Za-z0-9]{16}", fullmatch=True))
@settings(max_examples=50, deadline=None)
def test_keys_round_trip(shard: int, number: int, token: str) -> None:
    assert parse_key(str(Key(shard, number, token))) == (shard, number, token)


@pytest.mark.parametrize("name", ["a", "billing.charge", "A-1_b.c", "x" * 256, "1-2-short", "a-1-2-a1B2c3D4e5F6g7H8"])
def test_subject_names(name: str) -> None:
    assert check_subject_name(name, "task") == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a/b", "é", "a\n", "x" * 257, "a\0"]
)
def test_names_that_are_no_subject_are_refused(name: str) -> None:
    assert not is_subject_name(name)
    with pytest.raises(BadRequest, match="invalid task"):
        check_subject_name(name, "task")


@pytest.mark.parametrize("name", ["1-42-a1B2c3D4e5F6g7H8", "done.1-42-a1B2c3D4e5F6g7H8", "1-42-a1B2c3D4e5F6g7H8.x"])
def test_a_key_is_no_part_of_a_subject(name: str) -> None:
    """Wire section 5: it is a capability, and subjects are read by many."""
    assert not is_subject_name(name)
    with pytest.raises(BadRequest, match="has the form of a flow or step key") as caught:
        check_subject_name(name, "notify target")
    assert "a1B2c3D4e5F6g7H8" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: closest("prise", ["price", "charge"]), "did you mean 'price'?"),
        (lambda: closest("xyz", ["price", "charge"]), "known are price, charge"),
        (lambda: closest("xyz", []), "there is none to choose from"),
        (lambda: closest("???", [f"n{at}" for at in range(14)]), "and 2 more"),
    ],
)
def test_the_nearest_known_name_is_offered(call: Callable[[], str], expected: str) -> None:
    assert expected in call()
