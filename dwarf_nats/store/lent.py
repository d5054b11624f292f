"""Large fields of a state, read from the steps that hold them (`workflow.lending`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dwarf_nats.workflow import lending

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row
    from dwarf_nats.workflow.state import State

HELD = "select step_id, state, changes from dwarf_steps where step_id {in:$1}"


async def whole(fetch: Callable[..., Awaitable[list[Row]]], state: str, borrowed: str | None) -> State:
    """A stored state with what it borrows. Raises `lending.Gone`."""
    held = lending.Held()
    if borrowed is not None:
        held = lending.Held(await fetch(HELD, sorted(set(lending.read(borrowed).values()))))
    return held.whole(state, borrowed)
