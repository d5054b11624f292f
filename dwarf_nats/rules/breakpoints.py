"""Breakpoints: before which nodes a flow pauses (O12). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph import Graph


def read(stored: str | None) -> tuple[str, ...]:
    """The names stored with a flow."""
    return tuple(orjson.loads(stored)) if stored else ()


def stored(names: Iterable[str]) -> str | None:
    """Names as they are stored with a flow; `None` for none."""
    listed = list(names)
    return orjson.dumps(listed).decode() if listed else None


def changed(names: Sequence[str], task: str, *, enabled: bool) -> tuple[str, ...]:
    """The names with `task` set or cleared."""
    others = tuple(name for name in names if name != task)
    return (*others, task) if enabled else others


def holds(names: Sequence[str], graph: Graph, node: str) -> bool:
    """True if a breakpoint stands before `node`: by its name, or by its url if no other node of the graph has it."""
    return bool(names) and any(
        name == node or ((found := graph.find_node(name)) is not None and found.name == node) for name in names
    )
