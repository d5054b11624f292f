"""Reducers: merge the values of a state field at a fan-in, and in continue (S3-S5).

Values stay JSON text unless they are computed with, so numbers keep their digits. All reducers take time linear in their input,
however many branches there are (F6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.claims import is_claim
from dwarf_nats.workflow.state import NULL, Raw, State, decode_value, json_type

T = TypeVar("T")


class ReducerKind(StrEnum):
    """The kinds of reducers (S4); a field without a reducer is replaced."""

    REPLACE = "replace"
    APPEND = "append"
    ADD = "add"
    MIN = "min"
    MAX = "max"
    UNION = "union"
    MERGE = "merge"
    AND = "and"
    OR = "or"
    CONCAT = "concat"


def reduce(kind: ReducerKind, field: str, left: Raw | None, right: Raw | None) -> Raw:
    """Merge two values of `field`. `None` and null are the identity, and the result if there is no other value.

    Raises `BadRequest` for a value of the wrong type, and for a sum out of range (S4).
    """
    return fold(kind, field, (left, right))


def fold(kind: ReducerKind, field: str, values: Iterable[Raw | None]) -> Raw:
    """Merge any number of values of `field` in their order, with the result of `reduce` from left to right.

    A single value is checked as well, and a `union` removes its duplicates, so that the result does not depend on the number of
    missing values. Raises `BadRequest` as `reduce` does.
    """
    present = [value for value in values if value is not None and bytes(value) != b"null"]
    if not present:
        return NULL
    if kind is ReducerKind.REPLACE:
        return present[-1]
    rule = _RULES[kind]
    alone = len(present) == 1 and kind is not ReducerKind.UNION
    if alone and bytes(memoryview(present[0])[:1]) in _BEGINNINGS[rule.wanted]:
        return present[0]  # without parsing it, since it may be large
    parsed = [_parsed(kind, field, value, rule) for value in present]
    return present[0] if alone else rule.merge(field, present, parsed)


def combine(reducers: Mapping[str, ReducerKind], state: State, deltas: Iterable[State]) -> State:
    """Merge `deltas` into `state` in their order; fields with a reducer go through it (F3, O15).

    That includes fields that no delta has. A null is ignored for a field with a reducer, and deletes any other field
    (S3). Raises `BadRequest` as `fold` does.
    """
    merged = dict(state)
    gathered: dict[str, list[Raw | None]] = {
        field: [state[field]] for field, kind in reducers.items() if kind is not ReducerKind.REPLACE and field in state
    }
    for delta in deltas:
        for field, value in delta.items():
            if reducers.get(field, ReducerKind.REPLACE) is not ReducerKind.REPLACE:
                gathered.setdefault(field, []).append(value)
            elif bytes(value) == b"null":
                merged.pop(field, None)
            else:
                merged[field] = value
    for field, values in gathered.items():
        if field in state or any(bytes(value) != b"null" for value in values if value is not None):
            merged[field] = fold(reducers[field], field, values)
    return merged


@dataclass(slots=True, frozen=True)
class _Rule:
    """The rule of one reducer: the type of its values, and the function that merges them.

    `fits` checks a parsed value, `wanted` names the type in messages. `merge` takes the name of the field, the JSON texts and
    the parsed values.
    """

    fits: Callable[[Any], bool]
    wanted: str
    merge: Callable[[str, list[Raw], list[Any]], Raw]


def _parsed(kind: ReducerKind, field: str, value: Raw, rule: _Rule) -> Any:
    parsed = decode_value(value)
    if not rule.fits(parsed):
        raise BadRequest(f"`{kind}` reducer on field `{field}` requires {rule.wanted}, got {json_type(parsed)}")
    return parsed


_BEGINNINGS = {
    "an array": (b"[",),
    "an object": (b"{",),
    "a string": (b'"',),
    "a boolean": (b"t", b"f"),
    "a number": tuple(bytes([one]) for one in b"-0123456789"),
}
"""The first bytes of JSON text, by type."""
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def _add(field: str, _: list[Raw], parsed: list[Any]) -> Raw:
    # From the left, so that an integer sum stays exact until the first fraction.
    total = parsed[0]
    for value in parsed[1:]:
        total += value
    if isinstance(total, float):
        if not math.isfinite(total):
            raise BadRequest(f"`add` reducer on field `{field}`: the sum is beyond the range of a double")
    elif not -(2**63) <= total < 2**63:
        raise BadRequest(f"`add` reducer on field `{field}`: the sum is beyond signed 64 bits")
    return Raw(_encode(total))


def _best(better: Callable[[Any, Any], bool]) -> Callable[[str, list[Raw], list[Any]], Raw]:
    def pick(_: str, texts: list[Raw], parsed: list[Any]) -> Raw:
        best = 0
        for at in range(1, len(parsed)):
            if better(parsed[at], parsed[best]):
                best = at
        return texts[best]

    return pick


def _append(_: str, texts: list[Raw], __: list[Any]) -> Raw:
    return Raw(_encode([element for text in texts for element in _elements(text)]))


def _union(_: str, texts: list[Raw], parsed: list[Any]) -> Raw:
    keys = [[_identity(value) for value in values] for values in parsed]
    if len(texts) == 1 and len(set(keys[0])) == len(keys[0]):
        return texts[0]  # the same object, so that the value is not stored a second time
    seen: dict[Hashable, Raw] = {}
    for text, identities in zip(texts, keys, strict=True):
        for element, identity in zip(_elements(text), identities, strict=True):
            seen.setdefault(identity, element)
    return Raw(_encode(list(seen.values())))


def _identity(value: Any) -> Hashable:
    """A key that is equal for equal JSON values: for 1 and 1.0, not for 1 and true, whatever the order of keys."""
    kind = type(value)
    if kind is str or kind is int or kind is float or value is None:
        scalar: Hashable = value
        return scalar
    if kind is dict:
        return ("object", frozenset((name, _identity(one)) for name, one in value.items()))
    if kind is list:
        return ("array", tuple(_identity(one) for one in value))
    return ("boolean", value)


def _is_open_object(value: Any) -> bool:
    """True for an object whose fields are here: not for a claim, which stands for a value elsewhere (B10)."""
    return isinstance(value, dict) and not is_claim(value)


def _merge(_: str, texts: list[Raw], __: list[Any]) -> Raw:
    merged: dict[str, Raw] = {}
    for text in texts:
        merged.update(_members(text))
    return Raw(_encode(merged))


def _join(_: str, __: list[Raw], parsed: list[Any]) -> Raw:
    return Raw(_encode("".join(parsed)))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_RULES = {
    ReducerKind.APPEND: _Rule(_is(list), "an array", _append),
    ReducerKind.UNION: _Rule(_is(list), "an array", _union),
    ReducerKind.ADD: _Rule(_number, "a number", _add),
    ReducerKind.MIN: _Rule(_number, "a number", _best(lambda new, best: new < best)),
    ReducerKind.MAX: _Rule(_number, "a number", _best(lambda new, best: new > best)),
    ReducerKind.MERGE: _Rule(_is_open_object, "an object", _merge),
    ReducerKind.AND: _Rule(_is(bool), "a boolean", lambda _, __, parsed: Raw(b"true" if all(parsed) else b"false")),
    ReducerKind.OR: _Rule(_is(bool), "a boolean", lambda _, __, parsed: Raw(b"true" if any(parsed) else b"false")),
    ReducerKind.CONCAT: _Rule(_is(str), "a string", _join),
}
