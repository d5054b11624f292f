"""Large fields of a state, read from the steps that hold them (`rules.state_refs`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dwarf_nats.rules import state_refs

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row
    from dwarf_nats.workflow.state import State

HELD = "select step_id, state, changes from dwarf_steps where step_id {in:$1}"


async def whole(fetch: Callable[..., Awaitable[list[Row]]], state: str, borrowed: str | None) -> State:
    """A stored state with what it borrows. Raises `state_refs.DanglingRef`."""
    held = state_refs.RefSource()
    if borrowed is not None:
        held = state_refs.RefSource(await fetch(HELD, sorted(set(state_refs.read(borrowed).values()))))
    return held.resolve(state, borrowed)
