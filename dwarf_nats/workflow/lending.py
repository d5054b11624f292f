"""Large fields of a state are stored once, however many steps carry them (S2).

A step's row holds its input. A field of `LARGE` bytes or more that an earlier step of the flow holds already, as a change it
made or in an input of its own, is not written again: the row has `null` in its place and names the *lender*, the step that
holds it. A lender holds the value itself, so looking it up is one step, never a chain. It is always an ancestor in the
execution DAG: whatever removes it removes whoever borrowed from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dwarf_nats.workflow.state import NULL, Raw, State, decode_state, encode_state, merge

LARGE = 2048
"""Bytes of JSON text from which on a field is borrowed. PostgreSQL moves rows of about that size out of line."""
Lenders = Mapping[str, int]
"""Field → id of the step that holds its value."""
NONE: Lenders = {}
_read = msgspec.json.Decoder(dict[str, int]).decode
_write = msgspec.json.Encoder().encode


class Gone(LookupError):
    """A lender is not there: it was removed, and the borrower with it."""


def lenders_of(step_id: int, state: State, changes: State, lenders: Lenders, merged: State) -> Lenders:
    """Who holds the large fields of `merged`, what the step of input `state` and `changes` hands on."""
    found = {}
    for name, value in merged.items():
        if len(value) >= LARGE:
            if changes.get(name) is value:
                found[name] = step_id
            elif state.get(name) is value:
                found[name] = lenders.get(name, step_id)
    return found


def slim(state: State, lenders: Lenders) -> State:
    """The state as it is written: `null` where a field is borrowed."""
    return {**state, **dict.fromkeys(lenders, NULL)} if lenders else state


def spared(state: State, lenders: Lenders) -> int:
    """Bytes that are not written."""
    return sum(len(state[name]) - 4 for name in lenders)


def stored(lenders: Lenders) -> str | None:
    """As a column has it; nothing if nothing is borrowed."""
    return _write(lenders).decode() if lenders else None


def read(text: str | None) -> Lenders:
    """From a column."""
    return NONE if text is None else _read(text)


def overridden(state: str, borrowed: str | None, overrides: State) -> tuple[str, str | None]:
    """A stored state and what it borrows, with fields replaced; a null removes one."""
    if not overrides:
        return state, borrowed
    kept = {name: lender for name, lender in read(borrowed).items() if name not in overrides}
    return encode_state(merge(decode_state(state), overrides)).decode(), stored(kept)


class Held:
    """What steps hold, by their ids: `(id, state, changes)` as stored, each split into fields when first asked for."""

    def __init__(self, rows: Iterable[Sequence[Any]] = ()) -> None:
        self._texts: dict[int, tuple[str, str]] = {row[0]: (row[1], row[2]) for row in rows}
        self._fields: dict[int, State] = {}

    def field(self, step_id: int, name: str) -> Raw:
        """The value of a field that this step lends. Raises `Gone`."""
        fields = self._fields.get(step_id)
        if fields is None:
            if step_id not in self._texts:
                raise Gone(f"step {step_id}, which holds field {name!r}, is gone")
            state, changes = self._texts[step_id]
            fields = self._fields[step_id] = {**decode_state(state), **decode_state(changes)}
        return fields[name]

    def whole(self, state: str, borrowed: str | None) -> State:
        """A stored state with what it borrows. Raises `Gone`."""
        fields = decode_state(state)
        for name, lender in read(borrowed).items():
            fields[name] = self.field(lender, name)
        return fields
