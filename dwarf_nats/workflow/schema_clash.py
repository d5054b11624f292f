"""The comparison of two JSON Schemas: can a value of the one be a value of the other?

A clash is only reported where none can: a number may be whole, and a text may be a time. So a check by it raises no
false alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dwarf_nats.workflow.state import json_type
from dwarf_nats.workflow.typed_values import Schema

_MAX_LEVELS = 8
"""Levels of a value that are compared; types may contain themselves."""
_NULL = "null"


def alternatives(schema: Schema) -> Iterator[Schema]:
    """The alternatives of a schema, references followed. A schema of any value has one, which is empty."""
    yield from _alternatives(schema, _MAX_LEVELS)


def _alternatives(schema: Schema, levels: int) -> Iterator[Schema]:
    found: Mapping[str, Any] = schema.schema
    if levels and "$ref" in found:
        name = found["$ref"].rpartition("/")[2]
        yield from _alternatives(schema.at(schema.definitions.get(name, {})), levels - 1)
    elif levels and (several := found.get("anyOf") or found.get("oneOf")):
        for one in several:
            yield from _alternatives(schema.at(one), levels - 1)
    elif isinstance(found.get("type"), list):
        yield from (schema.at({**found, "type": one}) for one in found["type"])
    else:
        yield schema


def types_of(schema: Schema) -> tuple[str, ...]:
    """The names of the JSON types of a schema, without null; empty for any type."""
    found: dict[str, None] = {}
    for one in alternatives(schema):
        names = _types(one.schema)
        if not names:
            return ()
        found |= dict.fromkeys(names)
    return tuple(name for name in found if name != _NULL)


def _types(schema: Mapping[str, Any]) -> list[str]:
    if "type" in schema:
        return [schema["type"]]
    values = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else []
    return [_type_of(value) for value in values]


def _type_of(value: Any) -> str:
    return "integer" if type(value) is int else json_type(value)


def clash(given: Schema, wanted: Schema) -> str:
    """Say why no value of `given` is one of `wanted`: the place inside, and both types. Empty if one may be."""
    return _clash(given, wanted, "", _MAX_LEVELS)


def _clash(given: Schema, wanted: Schema, at: str, levels: int) -> str:
    have, want = types_of(given), types_of(wanted)
    if not have or not want or not levels:
        return ""
    if not {_wide(one) for one in have} & {_wide(one) for one in want}:
        return f"{at or 'it'} is {_listed(have)}, not {_listed(want)}"
    ours, theirs = _only(given), _only(wanted)
    if ours is None or theirs is None:
        return ""
    values, allowed = ours.schema.get("enum"), theirs.schema.get("enum")
    if values is not None and allowed is not None and not any(one in allowed for one in values):
        return f"{at or 'it'} is one of {values}, not one of {allowed}"
    if "items" in ours.schema and "items" in theirs.schema:
        inner, other = ours.schema["items"], theirs.schema["items"]
        if isinstance(inner, Mapping) and isinstance(other, Mapping):
            return _clash(ours.at(inner), theirs.at(other), f"{at}[]", levels - 1)
    return _member_clash(ours, theirs, at, levels)


def _member_clash(ours: Schema, theirs: Schema, at: str, levels: int) -> str:
    have, want = ours.schema.get("properties"), theirs.schema.get("properties")
    if have is None or want is None:
        return ""
    for name in theirs.schema.get("required", ()):
        if name not in have and not ours.schema.get("additionalProperties"):
            return f"{at or 'it'} has no {name!r}"
    for name, schema in want.items():
        if name in have and (problem := _clash(ours.at(have[name]), theirs.at(schema), f"{at}.{name}", levels - 1)):
            return problem
    return ""


def _only(schema: Schema) -> Schema | None:
    """The only alternative beside null; `None` if there are several."""
    found = [one for one in alternatives(schema) if one.schema.get("type") != _NULL]
    return found[0] if len(found) == 1 else None


def _wide(name: str) -> str:
    return "number" if name == "integer" else name


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(f"{'an' if name[0] in 'aio' else 'a'} {name}" for name in names)
