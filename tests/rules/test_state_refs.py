"""Who holds a large field (S2)."""

from __future__ import annotations

import pytest

from dwarf_nats.rules import state_refs
from dwarf_nats.rules.state_refs import LARGE_FIELD_BYTES, DanglingRef, RefSource, override, refs_to, strip
from dwarf_nats.workflow.state import decode_state, encode_state, merge, state_from

BIG = "x" * LARGE_FIELD_BYTES
STATE = state_from({"small": 1, "mine": BIG, "theirs": BIG + "1", "changed": BIG + "2", "gone": BIG})
CHANGES = state_from({"changed": BIG + "3", "new": BIG + "4", "tiny": 2, "gone": None})


def test_a_large_field_is_lent_by_who_holds_it_itself() -> None:
    """A field that was borrowed goes on from its lender: never a chain."""
    merged = merge(STATE, CHANGES)
    assert refs_to(7, merged, STATE, CHANGES, refs={"theirs": 3, "changed": 3, "gone": 3}) == {
        "mine": 7, "theirs": 3, "changed": 7, "new": 7,
    }  # fmt: skip


def test_what_is_a_byte_short_is_not_lent() -> None:
    state = state_from({"short": "x" * (LARGE_FIELD_BYTES - 3), "long": "x" * (LARGE_FIELD_BYTES - 2)})
    assert refs_to(7, state, state, {}) == {"long": 7}


def test_a_value_that_is_in_neither_is_not_lent() -> None:
    """The element of a for_each is in an array, not a field of its own."""
    assert refs_to(7, state_from({"item": BIG}), STATE, CHANGES) == {}


def test_what_was_written_is_put_together_again() -> None:
    merged = merge(STATE, CHANGES)
    refs = refs_to(7, merged, STATE, CHANGES, refs={"theirs": 3})
    text = encode_state(strip(merged, refs)).decode()
    assert len(text) < 200
    held = RefSource(
        [(7, encode_state(STATE).decode(), encode_state(CHANGES).decode()), (3, encode_state(STATE).decode(), "{}")]
    )
    assert held.resolve(text, state_refs.stored(refs)) == merged
    assert list(held.resolve(text, state_refs.stored(refs))) == list(merged)
    assert state_refs.bytes_saved(merged, refs) == len(encode_state(merged)) - len(text)
    with pytest.raises(DanglingRef, match="step 3"):
        RefSource([(7, encode_state(STATE).decode(), encode_state(CHANGES).decode())]).resolve(
            text, state_refs.stored(refs)
        )


def test_nothing_borrowed_is_nothing_stored() -> None:
    assert state_refs.stored({}) is None
    assert RefSource().resolve('{"a": 1}', None) == state_from({"a": 1})


@pytest.mark.parametrize(
    ("overrides", "state", "borrowed"),
    [
        ({}, {"a": 1, "big": None}, {"big": 3}),
        ({"a": 2}, {"a": 2, "big": None}, {"big": 3}),
        ({"big": "short"}, {"a": 1, "big": "short"}, {}),
        ({"big": None}, {"a": 1}, {}),
        ({"a": None, "b": 1}, {"big": None, "b": 1}, {"big": 3}),
    ],
)
def test_what_is_overridden_is_borrowed_no_more(
    overrides: dict[str, object], state: dict[str, object], borrowed: dict[str, int]
) -> None:
    found = override('{"a":1,"big":null}', '{"big":3}', state_from(overrides))
    assert (decode_state(found[0]), state_refs.read(found[1])) == (state_from(state), borrowed)
