"""Templates: JSON values in which a text that begins with `=` is a CEL expression over the state (semantics: templates).

The value of the expression replaces the text. Two `=` at the start stand for one that belongs to the text. Keys of objects
are never expressions. An expression that only names a value (`total`, `quote.total`) copies its JSON text, digit for digit.

| value of an expression | JSON |
|---|---|
| null, boolean, text, list, map with texts as keys | as it is |
| whole number within 64 bits, signed; finite `double` | the number |
| timestamp | a text in RFC 3339, UTC: `2026-12-01T08:00:00Z` |
| duration | a text in seconds: `5400.5s` |
| anything else | an error |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import conditions
from dwarf_nats.workflow.conditions import CannotEvaluate, Spending
from dwarf_nats.workflow.shapes import place
from dwarf_nats.workflow.state import (
    MAX_DEPTH,
    NULL,
    Raw,
    State,
    check_json,
    decode_state,
    decode_value,
    encode_state,
    json_type,
)

_SHOWN = 200
"""Characters of an expression that an error shows."""
_COPIED = 256
"""Bytes that are copied for one unit of the budget."""
_NAMED = 20
"""Cost of finding a value by its name, in units of the budget."""


def expression_of(text: str) -> str | None:
    """The expression that a text of a template is; `None` for a text that stands for itself."""
    return text[1:] if text.startswith("=") and not text.startswith("==") else None


def literal(text: str) -> str:
    """The text that a text without an expression stands for."""
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
    """The problems of the expressions of a template, a sentence each (G6)."""
    for at, source in expressions(template, where):
        problem = conditions.problem_of(source)
        if problem:
            yield f"{at}: the expression {source[:_SHOWN]!r} is invalid: {problem}"


def constant_problem(source: str) -> str:
    """Say why an expression that reads nothing has no value on any state; empty if it has one (a warning, G11)."""
    condition = conditions.compiled(source)
    if isinstance(condition, str) or condition.constant is None:
        return ""
    try:
        _dumped(_plain(conditions.value_of(source, {}, Spending())), "")
    except CannotEvaluate as error:
        return str(error)
    except BadRequest as error:
        return error.message.removeprefix(": ")
    return ""


def render(
    template: Any, state: State, *, where: str, extra: Mapping[str, Raw] | None = None, max_depth: int = MAX_DEPTH
) -> Raw:
    """The JSON text of a template's value on a state. `extra`: variables beside the state, such as `changes`.

    Raises `BadRequest` with the place, the expression and the reason.
    """
    text = _Rendering({**state, **extra} if extra else state).text(template, where)
    check_json(text, where, max_depth)
    return Raw(text)


def render_text(template: str, state: State, *, where: str, extra: Mapping[str, Raw] | None = None) -> str:
    """The text of a template whose value is one; numbers and booleans are written out.

    Raises `BadRequest` as `render`, and for a value that is null, an array or an object.
    """
    source = expression_of(template)
    if source is None:
        return literal(template)
    text = _Rendering({**state, **extra} if extra else state).value(source, where)
    value = decode_value(text)
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, list | dict):
        raise BadRequest(
            f"{where}: the expression {source[:_SHOWN]!r} must give a text, and gives {json_type(value)}: see whether"
            " the field is there"
        )
    return text.decode()


class _Rendering:
    """Renders one template on one state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._spending = Spending()

    def text(self, template: Any, where: str) -> bytes:
        """The JSON text of a template's value."""
        if isinstance(template, str):
            source = expression_of(template)
            return _dumped(literal(template), where) if source is None else self.value(source, where)
        if isinstance(template, Mapping):
            members = (
                _dumped(key, where) + b":" + self.text(value, place(where, key)) for key, value in template.items()
            )
            return b"{%b}" % b",".join(members)
        if isinstance(template, list):
            return b"[%b]" % b",".join(self.text(value, place(where, at)) for at, value in enumerate(template))
        return _dumped(template, where)

    def value(self, source: str, where: str) -> bytes:
        """The JSON text of an expression's value."""
        try:
            path = conditions.path_of(source)
            if path:
                text = bytes(_at(self._state, path))
                self._spending.take(_NAMED + len(text) // _COPIED)
                return text
            value = _plain(conditions.value_of(source, self._state, self._spending))
        except CannotEvaluate as error:
            raise BadRequest(f"{where}: the expression {source[:_SHOWN]!r} cannot be evaluated: {error}") from None
        return _dumped(value, where)


def _at(state: State, path: Sequence[str]) -> bytes:
    """The JSON text of the value at the end of a path. Raises `CannotEvaluate` as the expression would."""
    if path[0] != "state":
        value: bytes = state.get(path[0], NULL)
    elif len(path) == 1:
        return encode_state(state)
    else:
        path = path[1:]
        if path[0] not in state:
            raise CannotEvaluate(f"no such field {path[0]!r}")
        value = state[path[0]]
    for name in path[1:]:
        if bytes(value).lstrip()[:1] != b"{":
            raise CannotEvaluate(f"{name!r} of a value that is no object (null, text, number or list) is read")
        members = decode_state(bytes(value))
        if name not in members:
            raise CannotEvaluate(f"no such field {name!r}")
        value = members[name]
    return value


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
