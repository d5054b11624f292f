"""Tags of flows: what they may be, how they change, and the text by which they are found (Q1).

A flow has at most `MAX_TAGS` tags. A name is one token of a subject, a value is a text, a number or a boolean. Two values are
equal if they are written alike: 4711 and "4711" are, and so are 1 and 1.0, true and "true". So a tag is found by whoever types
it, whatever the type was in the program that set it. What is shown keeps its type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import MAX_NAME, is_subject_name
from dwarf_nats.workflow.state import json_type

TagValue: TypeAlias = str | int | float | bool
Tags: TypeAlias = Mapping[str, TagValue]
TagChanges: TypeAlias = Mapping[str, TagValue | None]
"""Tags to be set; `None` removes one."""
MAX_TAGS = 32
MAX_TAG_BYTES = 256
"""Longest text of a tag, in bytes of UTF-8."""
_LEAST, _MOST = -(2**63), 2**63 - 1
TOO_MANY = f"a flow has at most {MAX_TAGS} tags"


def checked_tags(given: Any, what: str) -> dict[str, TagValue]:
    """Return the tags a caller gave. `what` names the place in messages. Raises `BadRequest` with place and remedy."""
    tags = checked_changes(given, what)
    for name, value in tags.items():
        if value is None:
            raise BadRequest(f"{what}.{name} is null: give it a text, a number or a boolean, or leave it out")
    return cast("dict[str, TagValue]", tags)


def checked_changes(given: Any, what: str) -> dict[str, TagValue | None]:
    """As `checked_tags`, for tags to be set, or removed by `None`."""
    if not isinstance(given, Mapping):
        raise BadRequest(
            f'{what} must be an object of names and values, such as {{"customer": 4711}}, got {_kind(given)}'
        )
    if len(given) > MAX_TAGS:
        raise BadRequest(f"{what} has {len(given)} names: {TOO_MANY}")
    return {_checked_name(name, what): _checked_value(value, f"{what}.{name}") for name, value in given.items()}


def _kind(value: Any) -> str:
    return (
        json_type(value)
        if value is None or isinstance(value, bool | int | float | str | list)
        else type(value).__name__
    )


def _checked_name(name: Any, what: str) -> str:
    if not isinstance(name, str) or "." in name or not is_subject_name(name):
        shown = name[:80] if isinstance(name, str) else name
        raise BadRequest(
            f"{what} has the name {shown!r}: use A-Z a-z 0-9 _ -, at most {MAX_NAME} characters, and not the form of a key"
        )
    return name


def _checked_value(value: Any, what: str) -> TagValue | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise BadRequest(f"{what} must not contain NUL characters or lone surrogates")
        if (size := len(value.encode())) > MAX_TAG_BYTES:
            raise BadRequest(
                f"{what} must be at most {MAX_TAG_BYTES} bytes of UTF-8, got {size}: keep long texts in the state"
            )
        return str(value)
    if isinstance(value, int):
        if not _LEAST <= value <= _MOST:
            raise BadRequest(f"{what} is an integer beyond signed 64 bits: send it as a text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRequest(f"{what} is {value}, which JSON cannot hold: send a finite number or a text")
        return float(value)
    raise BadRequest(f"{what} must be a text, a number or a boolean, got {_kind(value)}")


def value_text(value: TagValue) -> str:
    """A value as it is compared: integers digit for digit, other numbers in the fewest digits that tell them apart."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and _LEAST <= value <= _MOST:
        return str(int(value))
    return str(value)


def tag_text(name: str, value: TagValue) -> str:
    """The text by which flows with this tag are found: `customer=4711`."""
    return f"{name}={value_text(value)}"


def tag_texts(tags: Tags) -> list[str]:
    """The texts of tags, in their order."""
    return [tag_text(name, value) for name, value in tags.items()]


def changed(tags: Tags, changes: TagChanges) -> tuple[dict[str, TagValue], list[str]]:
    """Return the tags with changes applied, and the names that found no room: then the flow has as many as it may have."""
    after = {name: value for name, value in tags.items() if changes.get(name, value) is not None}
    left_out = []
    for name, value in changes.items():
        if value is not None:
            if name in after or len(after) < MAX_TAGS:
                after[name] = value
            else:
                left_out.append(name)
    return after, left_out


def stored(tags: Tags) -> str | None:
    """Tags as JSON text, `None` for none."""
    return orjson.dumps(dict(tags)).decode() if tags else None


def read(text: str | None) -> dict[str, TagValue]:
    """Tags of JSON text, none of `None`."""
    return {} if text is None else cast("dict[str, TagValue]", orjson.loads(text))
