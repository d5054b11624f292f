"""State: a JSON object, kept as its top-level fields with the JSON text of each value (S1-S3).

A value that is not changed is never parsed: its bytes go from the client to the database, to the tasks and back. So
numbers keep all their digits, and a large unchanged field costs one copy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.claims import is_claim
from dwarf_nats.workflow.typed_values import is_model

Raw = msgspec.Raw
State = dict[str, Raw]
"""The JSON text of each value, by the name of its field."""

MAX_DEPTH = 64
"""Deepest nesting of a value, where the value itself is level 1; a limit of the engine may be lower."""
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_parse_exact = msgspec.json.Decoder().decode
# A run of 19 digits may be an integer beyond 64 bits; everything else in a document orjson accepts is in range. Looked for
# with all digits made zeros: of 512 KB that takes 0.3 ms, a regular expression 5.5 ms.
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * 19
NULL = Raw(b"null")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def encode_state(state: State) -> bytes:
    """The JSON text of a state."""
    return _encode(state)


def decode_state(text: bytes | str) -> State:
    """Split JSON text into fields. The text must be known to be a sound object, such as one from the database."""
    return _decode(text)


def merge(state: State, changes: State) -> State:
    """The state with `changes` applied; a null deletes the field (S2, S3)."""
    if not changes:
        return state
    merged = {**state, **changes}
    for name, value in changes.items():
        if bytes(value) == b"null":
            del merged[name]
    return merged


def to_values(state: State) -> dict[str, Any]:
    """Convert a state to plain Python values; integers stay exact."""
    return {name: _parse_exact(value) for name, value in state.items()}


def decode_value(value: Raw | bytes) -> Any:
    """Convert JSON text to a Python value; integers stay exact."""
    return _parse_exact(value)


def check_json(text: bytes, what: str, max_depth: int = MAX_DEPTH) -> Any:
    """Parse untrusted JSON and return the value. `what` names it in messages.

    Raises `BadRequest` for invalid JSON or UTF-8, lone surrogates, numbers out of range and nesting beyond `max_depth`,
    where the value itself is level 1 (S1).
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{what} is not valid JSON: {error}") from None
    if _LONG in text.translate(_DIGITS):
        _check_integers(_parse_exact(text), what)
    if text.count(b"[") + text.count(b"{") > max_depth:
        _check_depth(value, what, max_depth)
    return value


def check_state(text: bytes, what: str = "state", max_depth: int = MAX_DEPTH) -> State:
    """Check untrusted JSON text and split it into fields. Raises `BadRequest` unless it is a sound object (S1)."""
    value = check_json(text, what, max_depth)
    if type(value) is not dict:
        raise BadRequest(f"{what} must be a JSON object, got {json_type(value)}")
    return _decode(text)


def state_from(values: Mapping[str, Any] | bytes | None, what: str = "state", max_depth: int = MAX_DEPTH) -> State:
    """Make a state of Python values or JSON text from a caller. Raises `BadRequest` as `check_state` does."""
    if values is None:
        return {}
    if isinstance(values, bytes):
        return check_state(values, what, max_depth)
    return check_state(encode_value(values, what), what, max_depth)


def encode_value(value: Any, what: str = "value") -> bytes:
    """Encode a Python value, also a dataclass, a struct or a pydantic model. Raises `BadRequest` if JSON cannot hold it."""
    try:
        text = orjson.dumps(value, default=_default, option=orjson.OPT_UTC_Z)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise BadRequest(f"{what} cannot be written as JSON: {error}") from None
    if b"null" in text:
        _check_finite(value, what)
    return text


def json_type(value: Any) -> str:
    """The JSON name of a parsed value's type, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list | tuple):
        return "array"
    return (
        "claim (its value is in the object store: name the field in `keep` of the claim checks)"
        if is_claim(value)
        else "object"
    )


def _default(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return orjson.Fragment(bytes(value))
    return _dumped(value) if is_model(value) else msgspec.to_builtins(value, enc_hook=_dumped)


def _dumped(value: Any) -> Any:
    """A pydantic model as values that JSON has, under the names by which it is read."""
    if not is_model(value):
        raise NotImplementedError
    return value.model_dump(mode="json", by_alias=True)


def _check_finite(value: Any, what: str) -> None:
    """Raise `BadRequest` for NaN and infinities: written as null, they would delete a field."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, float):
            if not math.isfinite(one):
                raise BadRequest(f"{what} has the number {one}, which JSON cannot hold: send null or a string")
        elif isinstance(one, Mapping):
            pending.extend(one.values())
        elif isinstance(one, list | tuple | set | frozenset):
            pending.extend(one)
        elif isinstance(one, msgspec.Struct):
            pending.extend(getattr(one, name) for name in one.__struct_fields__)
        elif dataclasses.is_dataclass(one) and not isinstance(one, type):
            pending.extend(getattr(one, field.name) for field in dataclasses.fields(one))
        elif is_model(one):
            pending.extend(vars(one).values())


def _check_integers(value: Any, what: str) -> None:
    pending = [value]
    while pending:
        one = pending.pop()
        if type(one) is int and not _INT_MIN <= one <= _INT_MAX:
            raise BadRequest(f"{what} has an integer beyond signed 64 bits: send it as a string")
        if type(one) is dict:
            pending.extend(one.values())
        elif type(one) is list:
            pending.extend(one)


def _check_depth(value: Any, what: str, max_depth: int) -> None:
    level = [value]
    depth = 0
    while level:
        depth += 1
        below: list[Any] = []
        nested = False
        for one in level:
            if type(one) is dict:
                nested = True
                below.extend(one.values())
            elif type(one) is list:
                nested = True
                below.extend(one)
        if nested and depth > max_depth:
            raise BadRequest(f"{what} is nested deeper than {max_depth} levels")
        level = below
