"""References to large fields of a state: a field is stored once, however many steps carry it (S2).

A step's row holds its input. A field of `LARGE_FIELD_BYTES` or more that an earlier step of the flow holds already, as a change
it made or in an input of its own, is not written again: the row has `null` in its place and a *reference*, the id of the step
that holds the value. That step holds the value itself, so looking it up takes one read, never a chain. It is always an ancestor
in the execution DAG: whatever removes it removes the steps that refer to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from dwarf_nats.workflow.state import NULL, Raw, State, decode_state, encode_state, merge

LARGE_FIELD_BYTES = 2048
"""Bytes of JSON text from which on a field is referred to. PostgreSQL moves rows of about that size out of line."""
Refs = Mapping[str, int]
"""Field → id of the step that holds its value."""
NO_REFS: Refs = MappingProxyType({})
_decode = msgspec.json.Decoder(dict[str, int]).decode
_encode = msgspec.json.Encoder().encode


class DanglingRef(LookupError):
    """The step that a reference names is not there: it was removed, and the step that referred to it as well."""


def refs_to(step_id: int, handed_on: State, state: State, changes: State, *, refs: Refs = NO_REFS) -> Refs:
    """References to the large fields of `handed_on`, the state that the step with the input `state` and its `changes` hands on.

    `refs`: the references of its own input, which go on to the steps they name.
    """
    found = {}
    for name, value in handed_on.items():
        if len(value) >= LARGE_FIELD_BYTES:
            if changes.get(name) is value:
                found[name] = step_id
            elif state.get(name) is value:
                found[name] = refs.get(name, step_id)
    return found


def strip(state: State, refs: Refs) -> State:
    """The state as it is written: `null` in place of a field that is referred to."""
    return {**state, **dict.fromkeys(refs, NULL)} if refs else state


def bytes_saved(state: State, refs: Refs) -> int:
    """Bytes of JSON text that `strip` leaves out."""
    return sum(len(state[name]) - 4 for name in refs)


def stored(refs: Refs) -> str | None:
    """References as a column has them; `None` if there are none."""
    return _encode(refs).decode() if refs else None


def read(text: str | None) -> Refs:
    """References from a column."""
    return NO_REFS if text is None else _decode(text)


def override(state: str, refs: str | None, overrides: State) -> tuple[str, str | None]:
    """Replace fields of a stored state with its references, both as stored; a null removes a field."""
    if not overrides:
        return state, refs
    kept = {name: step_id for name, step_id in read(refs).items() if name not in overrides}
    return encode_state(merge(decode_state(state), overrides)).decode(), stored(kept)


class RefSource:
    """The fields that steps hold, from rows `(step id, state, changes)` as stored; each is split when first asked for."""

    def __init__(self, rows: Iterable[Sequence[Any]] = ()) -> None:
        self._texts: dict[int, tuple[str, str]] = {step_id: (state, changes) for step_id, state, changes in rows}
        self._fields: dict[int, State] = {}

    def field(self, step_id: int, name: str) -> Raw:
        """The value of a field that this step holds. Raises `DanglingRef`."""
        fields = self._fields.get(step_id)
        if fields is None:
            if step_id not in self._texts:
                raise DanglingRef(f"step {step_id}, which holds field {name!r}, is gone")
            state, changes = self._texts[step_id]
            fields = self._fields[step_id] = {**decode_state(state), **decode_state(changes)}
        return fields[name]

    def resolve(self, state: str, refs: str | None) -> State:
        """A stored state with the values it refers to. Raises `DanglingRef`."""
        fields = decode_state(state)
        for name, step_id in read(refs).items():
            fields[name] = self.field(step_id, name)
        return fields
