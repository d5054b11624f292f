"""Request bytes to messages, with refusals that name the field and the remedy."""

from __future__ import annotations

import re
import typing
from difflib import get_close_matches
from functools import lru_cache
from typing import TypeVar

import msgspec
import orjson

from dwarf_nats.errors import BadRequest

S = TypeVar("S", bound=msgspec.Struct)

EMPTY = b"{}"
_AT = re.compile(r" - at `([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$")
_EXPECTED = re.compile(r"Expected `([^`]*)`(.*?)(?:, got `([^`]*)`)?$")
_JSON_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "an array",
    "object": "an object",
    "datetime": "a time in RFC 3339 with a zone",
}


@lru_cache(maxsize=256)
def _decoder(kind: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(kind)


def decode(kind: type[S], payload: bytes, what: str = "the request") -> S:
    """Decode a request; an empty payload counts as `{}`. `what` names the request in messages.

    Raises `BadRequest` for text that is not JSON, and for fields that are unknown (naming the nearest known one), missing or of
    the wrong type.
    """
    try:
        message: S = _decoder(kind).decode(payload or EMPTY)
    except msgspec.ValidationError as error:
        raise BadRequest(explain(kind, str(error), what)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(_malformed(payload, what, error)) from None
    if b"\\u0000" in payload:
        _refuse_nul(message, "")
    return message


def _malformed(payload: bytes, what: str, error: Exception) -> str:
    if not payload.strip():
        return f"{what} is blank: send a JSON object or an empty payload"
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as better:
        return f"{what} is not valid JSON: {better}"
    return f"{what} is not valid JSON: {error}"


def _refuse_nul(message: msgspec.Struct, path: str) -> None:
    for field in msgspec.structs.fields(message):
        value = getattr(message, field.name)
        if isinstance(value, str) and "\0" in value:
            raise BadRequest(f"field `{path}{field.encode_name}` has a NUL character")
        if isinstance(value, msgspec.Struct):
            _refuse_nul(value, f"{path}{field.encode_name}.")


def explain(kind: type[msgspec.Struct], text: str, what: str) -> str:
    """Rewrite a validation error of msgspec in the field names of the wire. `what` names the message."""
    where = _AT.search(text)
    path = where[1].removeprefix("$").removeprefix(".") if where else ""
    text = text[: where.start()] if where else text
    inside = f" in `{path}`" if path else ""
    if unknown := _UNKNOWN.fullmatch(text):
        known = _fields_at(kind, path)
        near = get_close_matches(unknown[1], known, n=1, cutoff=0.0)
        hint = f"; did you mean `{near[0]}`?" if near else "; it takes no fields"
        return f"{what} has an unknown field `{unknown[1][:80]}`{inside}{hint}"
    if missing := _MISSING.fullmatch(text):
        return f"{what} lacks the field `{path + '.' if path else ''}{missing[1]}`"
    subject = f"field `{path}`" if path else what
    if expected := _EXPECTED.fullmatch(text):
        wanted = " or ".join(_JSON_NAMES.get(one.strip(), one.strip()) for one in expected[1].split("|"))
        got = f", got {_JSON_NAMES.get(expected[3], expected[3])}" if expected[3] else ""
        return f"{subject} must be {wanted}{expected[2]}{got}"
    if text.startswith("Invalid enum value") and path:
        return f"{subject} has an {text[0].lower()}{text[1:]}; use one of {', '.join(_choices(kind, path))}"
    return f"{subject}: {text[:1].lower()}{text[1:]}"


def field_names(kind: type[msgspec.Struct]) -> list[str]:
    """The names that the fields of a message have on the wire."""
    return list(_field_types(kind))


def _field_types(kind: type[msgspec.Struct]) -> dict[str, object]:
    hints = typing.get_type_hints(kind)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(kind)}


def _struct_in(hint: object) -> type[msgspec.Struct] | None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next((found for part in typing.get_args(hint) if (found := _struct_in(part)) is not None), None)


def _fields_at(kind: type[msgspec.Struct], path: str) -> list[str]:
    current: type[msgspec.Struct] | None = kind
    for name in filter(None, path.replace("[...]", "").split(".")):
        current = _struct_in(_field_types(current).get(name)) if current is not None else None
    return [] if current is None else list(_field_types(current))


def _choices(kind: type[msgspec.Struct], path: str) -> list[str]:
    """The values that the field at `path` may have."""
    *parents, last = path.split(".")
    current: type[msgspec.Struct] | None = kind
    for name in parents:
        current = _struct_in(_field_types(current).get(name.removesuffix("[...]"))) if current is not None else None
    return _literals(_field_types(current).get(last)) if current is not None else []


def _literals(hint: object) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return [str(one) for one in typing.get_args(hint)]
    return [one for part in typing.get_args(hint) for one in _literals(part)]
