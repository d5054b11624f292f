"""The text of a progress (B7): whatever comes, it is read or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.wire import task_messages as t
from dwarf_nats.workflow.progress import MAX_PROGRESS_BYTES, Progress, progress_json, read_progress

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b'{"fraction":2}', "from 0 to 1"),
        (b'{"fraction":-0.1}', "from 0 to 1"),
        (b'{"fraction":"half"}', "fraction"),
        (b'{"text":5}', "text"),
        (b'{"percent":5}', "percent"),
        (b'{"data":' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
        (b'{"text":"' + b"x" * MAX_PROGRESS_BYTES + b'"}', "4096"),
    ],
)
def test_b7_a_malformed_progress_says_what_is_wrong(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read_progress(body, 0)


def test_b7_a_progress_of_null_data_has_none() -> None:
    assert read_progress(b'{"data":null}', 7) == Progress(at=7)


def test_b7_the_message_type_has_the_fields_that_are_read() -> None:
    """Wire: section 2; the schema and the reader are two types."""
    assert t.TaskProgress.__struct_encode_fields__ == ("fraction", "text", "data")


def test_b7_what_is_written_is_read_again() -> None:
    told = Progress(at=5, fraction=0.25, text="größer", data_json=b'{"page":[1,2.50]}')
    assert read_progress(progress_json(told), 5) == told
    with pytest.raises(TooLarge, match="4096"):
        progress_json(Progress(at=0, text="x" * MAX_PROGRESS_BYTES))
    with pytest.raises(BadRequest):
        progress_json(Progress(at=0, text="\ud800"))


@given(st.binary(max_size=200) | st.builds(lambda value: repr(value).encode("utf-8", "replace"), PLAIN))
def test_b7_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        read_progress(body, 0)
    except BadRequest:
        pass


@given(st.fixed_dictionaries({}, optional={"fraction": PLAIN, "text": PLAIN, "data": PLAIN, "more": PLAIN}))
def test_b7_any_object_is_read_or_refused_and_fits_when_it_is_stored(value: dict[str, object]) -> None:
    try:
        read = read_progress(json.dumps(value).encode("utf-8", "replace"), 0)
    except BadRequest:
        return
    assert read_progress(progress_json(read), 0) == read
