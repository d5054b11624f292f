"""The rules of tags: what they may be, how they change, and when two are equal (Q1)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.tags import (
    MAX_TAGS,
    changed,
    checked_changes,
    checked_tags,
    read,
    stored,
    tag_text,
    value_text,
)

VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=60),
)
TAGS = st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True), VALUES, max_size=6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4711, "4711"),
        ("4711", "4711"),
        (4711.0, "4711"),
        (2**63 - 1, "9223372036854775807"),
        ("9223372036854775807", "9223372036854775807"),
        (1, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (True, "true"),
        ("true", "true"),
        ("1.0", "1.0"),
        ("", ""),
        ("Zoë = 'x'", "Zoë = 'x'"),
    ],
)
def test_values_are_compared_as_they_are_written(value: Any, text: str) -> None:
    """Q1."""
    assert value_text(value) == text
    assert tag_text("customer", value) == f"customer={text}"


@given(TAGS)
def test_tags_are_stored_and_read_as_they_were(tags: dict[str, Any]) -> None:
    """Q1: with their types."""
    checked = checked_tags(tags, "tags")
    assert read(stored(checked)) == tags
    assert [type(one) for one in read(stored(checked)).values()] == [type(one) for one in tags.values()]
    assert stored({}) is None


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (None, "tags must be an object of names and values"),
        ([], "got array"),
        ("a=b", "got string"),
        ({"a.b": 1}, "tags has the name 'a.b': use A-Z"),
        ({"": 1}, "tags has the name ''"),
        ({"a b": 1}, "tags has the name 'a b'"),
        ({"x" * 257: 1}, "at most 256 characters"),
        ({"1-42-a1B2c3D4e5F6g7H8": 1}, "not the form of a key"),
        ({7: 1}, "tags has the name 7"),
        ({"a": None}, "tags.a is null: give it a text"),
        ({"a": []}, "tags.a must be a text, a number or a boolean, got array"),
        ({"a": {}}, "tags.a must be a text"),
        ({"a": "é" * 129}, "tags.a must be at most 256 bytes of UTF-8, got 258: keep"),
        ({"a": "x\0"}, "tags.a must not contain NUL"),
        ({"a": "\ud800"}, "tags.a must not contain NUL characters or lone surrogates"),
        ({"a": 2**63}, "tags.a is an integer beyond signed 64 bits: send it as a text"),
        ({"a": float("nan")}, "tags.a is nan"),
        ({f"t{number}": 1 for number in range(33)}, "tags has 33 names: a flow has at most 32 tags"),
    ],
)
def test_a_bad_tag_is_refused_with_place_and_remedy(tags: Any, message: str) -> None:
    """Q1."""
    with pytest.raises(BadRequest) as refused:
        checked_tags(tags, "tags")
    assert message in refused.value.message


def test_null_removes_a_tag_and_an_unknown_one_does_no_harm() -> None:
    """Q1."""
    changes = checked_changes({"a": None, "b": 2, "gone": None}, "tags")
    assert changed({"a": 1, "c": 3}, changes) == ({"c": 3, "b": 2}, [])


def test_there_is_room_for_so_many_after_the_removals_of_the_same_change() -> None:
    """Q1: and a tag that is there is replaced, however many there are."""
    full = {f"t{number}": 1 for number in range(MAX_TAGS)}
    after, left_out = changed(full, {"t0": 2, "new": 1, "newer": 1, "t1": None})
    assert left_out == ["newer"]
    assert after == {**{name: 1 for name in full if name != "t1"}, "t0": 2, "new": 1}
