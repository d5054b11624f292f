"""Values of a graph document by their keys. Every other shape is a `BadRequest` that names the place and what belongs there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.state import json_type

_WORD = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


def place(where: str, key: str | int) -> str:
    """The place of a member: `node 'quote', request.headers['X-Id']`."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    if _WORD.fullmatch(key) is None:
        return f"{where}[{key[:80]!r}]"
    return f"{where}, {key}" if where.endswith(("'", '"')) else f"{where}.{key}"


def check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise `BadRequest` for a key that is not known, with the nearest one."""
    for key in values:
        if key not in known:
            raise BadRequest(f"{where}: unknown key {key!r}: {closest(str(key), known)}")


def text(values: Mapping[str, Any], key: str, where: str) -> str:
    """The text of a key; empty if it is absent or null."""
    value = values.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{where}: {key!r} must be a string, got {json_type(value)}")
    return value


def flag(values: Mapping[str, Any], key: str, where: str) -> bool:
    """The boolean of a key; false if it is absent or null."""
    value = values.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"{where}: {key!r} must be true or false, got {json_type(value)}")
    return value


def integer(values: Mapping[str, Any], key: str, where: str) -> int | None:
    """The whole number of a key; `None` if it is absent or null."""
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        got = str(value)[:40] if isinstance(value, float) else json_type(value)
        raise BadRequest(f"{where}: {key!r} must be a whole number, got {got}")
    return value


def number(values: Mapping[str, Any], key: str, where: str) -> float | None:
    """The number of a key; `None` if it is absent or null."""
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{where}: {key!r} must be a number, got {json_type(value)}")
    return float(value)


def integers(values: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    """The array of whole numbers of a key; empty if it is absent or null."""
    found = _array(values, key, where)
    for at, item in enumerate(found):
        if isinstance(item, bool) or not isinstance(item, int):
            raise BadRequest(f"{where}: {key}[{at}] must be a whole number, got {json_type(item)}")
    return tuple(found)


def mapping(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """The object of a key; empty if it is absent or null."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadRequest(f"{where}: {key!r} must be an object, got {json_type(value)}")
    for name in value:
        if not isinstance(name, str):
            raise BadRequest(f"{where}: the keys of {key!r} must be strings, got {json_type(name)}")
    return dict(value)


def objects(values: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    """The array of objects of a key; empty if it is absent or null."""
    found = _array(values, key, where)
    for at, item in enumerate(found):
        if not isinstance(item, Mapping):
            raise BadRequest(f"{where}: {key}[{at}] must be an object, got {json_type(item)}")
    return found


def table(values: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    """The object of a key whose values are all texts; empty if it is absent or null."""
    found = mapping(values, key, where)
    for name, one in found.items():
        if not isinstance(one, str):
            raise BadRequest(f"{where}: {key!r} must map strings to strings, but {name!r} has {json_type(one)}")
    return found


def _array(values: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = values.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{where}: {key!r} must be an array, got {json_type(value)}")
    return value
