"""Read large fields of a state from the steps that hold them (S2; `rules.state_refs`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dwarf_nats.rules import state_refs

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row
    from dwarf_nats.workflow.state import State

HELD = "select step_id, state, changes from dwarf_steps where step_id {in:$1}"
"""The rows of a `RefSource`."""


async def resolve(fetch: Callable[..., Awaitable[list[Row]]], state: str, refs: str | None) -> State:
    """Return a stored state with the fields it refers to. Raises `state_refs.DanglingRef`."""
    source = state_refs.RefSource()
    if refs is not None:
        source = state_refs.RefSource(await fetch(HELD, sorted(set(state_refs.read(refs).values()))))
    return source.resolve(state, refs)
