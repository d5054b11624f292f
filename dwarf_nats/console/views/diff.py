"""State for people: a folded tree, and what a step added, changed and removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.console.views.text import clip, count, pretty, size, to_json

LARGE = 600
"""Characters of JSON from which a value is folded, with its size."""
SHORT = 72
"""Characters of a value in one line."""
DEEP = 8
"""Levels of a diff; what lies deeper is compared whole."""
ABSENT = object()


@dataclass(frozen=True, slots=True)
class Value:
    """A value as it is shown: in one line if it is short, else folded below `head`."""

    head: str
    body: str = ""
    size: str = ""
    kind: str = ""
    members: list[Member] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Member:
    """A named value in a tree."""

    name: str
    value: Value
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `kind`: added, changed or removed. `path`: `order.lines[2].price`."""

    kind: str
    path: str
    before: Value | None = None
    after: Value | None = None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Diff:
    """Differences by path, and how many fields stayed."""

    changes: list[Change]
    same: int

    def count(self, kind: str) -> int:
        return sum(one.kind == kind for one in self.changes)


def tree(values: Mapping[str, Any], sealed: frozenset[str] = frozenset()) -> list[Member]:
    """A state as a tree; large values are folded with their size."""
    return [Member(name, shown(value), sealed=name in sealed) for name, value in sorted(values.items())]


def shown(value: Any, depth: int = 0) -> Value:
    """A value as it is shown."""
    text = to_json(value)
    kind = _kind(value)
    if isinstance(value, dict) and value and depth < DEEP and len(text) > SHORT:
        members = [Member(name, shown(one, depth + 1)) for name, one in value.items()]
        return Value(f"{{…}} {count(len(value), 'field')}", size=size(len(text)), kind=kind, members=members)
    if isinstance(value, list) and value and depth < DEEP and len(text) > SHORT and len(value) <= 100:
        members = [Member(str(number), shown(one, depth + 1)) for number, one in enumerate(value)]
        return Value(f"[…] {count(len(value), 'element')}", size=size(len(text)), kind=kind, members=members)
    if len(text) <= SHORT:
        return Value(text, kind=kind)
    return Value(
        clip(text, SHORT), body=value if isinstance(value, str) else pretty(value), size=size(len(text)), kind=kind
    )


def diff(before: Mapping[str, Any], after: Mapping[str, Any], sealed: frozenset[str] = frozenset()) -> Diff:
    """The differences between two states."""
    changes = list(_changes(dict(before), dict(after), "", sealed=sealed))
    touched = {one.path.split(".")[0].split("[")[0] for one in changes}
    return Diff(changes, sum(name not in touched for name in after))


def after_changes(state: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The state after a step: null removes a field."""
    merged = {**state, **changes}
    return {name: value for name, value in merged.items() if name not in changes or value is not None}


def _changes(before: Any, after: Any, path: str, *, sealed: frozenset[str], depth: int = 0) -> Iterator[Change]:
    if _alike(before, after):
        return
    locked = path.split(".")[0].split("[")[0] in sealed
    if before is ABSENT or after is ABSENT:
        kind = "added" if before is ABSENT else "removed"
        yield Change(kind, path, _maybe(before), _maybe(after), sealed=locked)
    elif isinstance(before, dict) and isinstance(after, dict) and depth < DEEP and not locked:
        for name in dict.fromkeys((*before, *after)):
            inner = f"{path}.{name}" if path else name
            yield from _changes(
                before.get(name, ABSENT), after.get(name, ABSENT), inner, sealed=sealed, depth=depth + 1
            )
    elif isinstance(before, list) and isinstance(after, list) and depth < DEEP and not locked:
        for number in range(max(len(before), len(after))):
            inner = f"{path}[{number}]"
            yield from _changes(_at(before, number), _at(after, number), inner, sealed=sealed, depth=depth + 1)
    else:
        yield Change("changed", path, _maybe(before), _maybe(after), sealed=locked)


def _alike(before: Any, after: Any) -> bool:
    """Equal, and of the same type: in JSON, `1` is not `true`."""
    return before is after or (before is not ABSENT and after is not ABSENT and to_json(before) == to_json(after))


def _at(values: list[Any], number: int) -> Any:
    return values[number] if number < len(values) else ABSENT


def _maybe(value: Any) -> Value | None:
    return None if value is ABSENT else shown(value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "number"
