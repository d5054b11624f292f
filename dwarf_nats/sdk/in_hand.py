"""The executions that a worker has in hand, by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .executions import Execution


class InHand:
    """Finds executions by the token-free id of their step. A step may have several: the engine gave it back meanwhile."""

    def __init__(self) -> None:
        self._first: dict[str, Execution] = {}
        self._more: dict[str, list[Execution]] = {}

    def __bool__(self) -> bool:
        return bool(self._first)

    def add(self, execution: Execution) -> None:
        """Keep an execution."""
        step = execution.public_id
        if self._first.setdefault(step, execution) is not execution:
            self._more.setdefault(step, []).append(execution)

    def of(self, step: str) -> Sequence[Execution]:
        """The executions of a step, the oldest first."""
        first = self._first.get(step)
        return () if first is None else (first, *self._more.get(step, ()))

    def remove(self, execution: Execution) -> None:
        """Forget an execution, if it is still kept."""
        step = execution.public_id
        more = self._more.get(step) if self._more else None
        if more is None:
            if self._first.get(step) is execution:
                del self._first[step]
            return
        if self._first[step] is execution:
            self._first[step] = more.pop(0)
        elif execution in more:
            more.remove(execution)
        if not more:
            del self._more[step]
