"""Templates: JSON values in which a text that begins with `=` is a CEL expression over the state (semantics: templates).

The value of the expression replaces the text. Two `=` at the start stand for one that belongs to the text. Keys of objects
are never expressions. An expression that is nothing but a field copies the JSON text of that field, digit for digit.

| value of an expression | JSON |
|---|---|
| null, boolean, text, list, map with texts as keys | as it is |
| whole number within 64 bits, signed; finite `double` | the number |
| timestamp | a text in RFC 3339, UTC: `2026-12-01T08:00:00Z` |
| duration | a text in seconds: `5400.5s` |
| anything else | an error |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import conditions
from dwarf_nats.workflow.conditions import CannotEvaluate
from dwarf_nats.workflow.shapes import place
from dwarf_nats.workflow.state import MAX_DEPTH, Raw, State, check_json, json_type

_SHOWN = 200
"""Characters of an expression that an error shows."""


def expression_of(text: str) -> str | None:
    """The expression that a text of a template is; `None` for a text that stands for itself."""
    return text[1:] if text.startswith("=") and not text.startswith("==") else None


def literal(text: str) -> str:
    """What a text that is no expression stands for."""
    return text[1:] if text.startswith("==") else text


def expressions(template: Any, where: str) -> Iterator[tuple[str, str]]:
    """The expressions of a template, each with its place: `node 'quote', request.payload.lines[0]`."""
    if isinstance(template, str):
        source = expression_of(template)
        if source is not None:
            yield where, source
    elif isinstance(template, Mapping):
        for key, value in template.items():
            yield from expressions(value, place(where, key))
    elif isinstance(template, list):
        for at, value in enumerate(template):
            yield from expressions(value, place(where, at))


def problems(template: Any, where: str) -> Iterator[str]:
    """What is wrong with the expressions of a template, a sentence each (G6)."""
    for at, source in expressions(template, where):
        problem = conditions.problem_of(source)
        if problem:
            yield f"{at}: the expression {source[:_SHOWN]!r} is invalid: {problem}"


def render(
    template: Any, state: State, *, where: str, extra: Mapping[str, Raw] | None = None, max_depth: int = MAX_DEPTH
) -> Raw:
    """The JSON text of a template's value on a state. `extra`: variables beside the state, such as `changes`.

    Raises `BadRequest` with the place, the expression and the reason.
    """
    text = _text(template, {**state, **extra} if extra else state, where)
    check_json(text, where, max_depth)
    return Raw(text)


def render_text(template: str, state: State, *, where: str, extra: Mapping[str, Raw] | None = None) -> str:
    """The text of a template whose value is one; numbers and booleans are written out.

    Raises `BadRequest` as `render`, and for a value that is null, an array or an object.
    """
    source = expression_of(template)
    if source is None:
        return literal(template)
    value = _value(source, {**state, **extra} if extra else state, where)
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, list | dict):
        raise BadRequest(
            f"{where}: the expression {source[:_SHOWN]!r} must give a text, and gives {json_type(value)}: see whether"
            " the field is there"
        )
    return orjson.dumps(value).decode()


def _text(template: Any, state: State, where: str) -> bytes:
    if isinstance(template, str):
        source = expression_of(template)
        if source is None:
            return _dumped(literal(template), where)
        field = conditions.field_read_whole(source)
        if field:
            return bytes(state[field]) if field in state else b"null"
        return _dumped(_value(source, state, where), where)
    if isinstance(template, Mapping):
        members = (
            _dumped(key, where) + b":" + _text(value, state, place(where, key)) for key, value in template.items()
        )
        return b"{%b}" % b",".join(members)
    if isinstance(template, list):
        return b"[%b]" % b",".join(_text(value, state, place(where, at)) for at, value in enumerate(template))
    return _dumped(template, where)


def _value(source: str, state: State, where: str) -> Any:
    """The value of an expression, as JSON has it."""
    try:
        return _plain(conditions.value_of(source, state))
    except CannotEvaluate as error:
        raise BadRequest(f"{where}: the expression {source[:_SHOWN]!r} cannot be evaluated: {error}") from None


def _plain(value: Any) -> Any:
    """A value of the CEL library as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if value - value != 0:  # infinite, or no number
            raise CannotEvaluate(f"its value is {value}, which JSON cannot say")
        return value
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise CannotEvaluate(f"a map in its value has the key {key!r}: keys of JSON objects are texts")
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():f}".rstrip("0").rstrip(".") + "s"
    kind = "bytes" if isinstance(value, bytes | bytearray) else "a type"
    raise CannotEvaluate(f"its value has {kind} in it, which JSON cannot say: use string(…)")


def _dumped(value: Any, where: str) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:  # a lone surrogate, or an integer beyond 64 bits
        raise BadRequest(f"{where}: the value cannot be written as JSON: {error}") from None
