"""The timers of executions: one for all that came lately, since hardly any runs so long that it needs its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .executions import Execution

_NEVER = float("inf")


class ExecutionTimers:
    """Calls `due` with an execution when it is due, as `due_at` says; `forget` ends that.

    The first look at an execution is at the earliest time of all that came lately. Those that are still there get timers of
    their own then.
    """

    def __init__(self, due_at: Callable[[Execution], float], due: Callable[[Execution], None]) -> None:
        self._due_at = due_at
        self._due = due
        self._young: set[Execution] = set()
        self._look_at = _NEVER
        self._look: asyncio.TimerHandle | None = None

    def watch(self, execution: Execution) -> None:
        """Watch an execution that has come."""
        at = self._due_at(execution)
        if at == _NEVER:
            return
        self._young.add(execution)
        if at < self._look_at:
            if self._look is not None:
                self._look.cancel()
            self._look_at = at
            self._look = asyncio.get_running_loop().call_at(at, self._sort_out)

    def set(self, execution: Execution) -> None:
        """Give an execution a timer of its own, in place of the one that it has."""
        self.forget(execution)
        at = self._due_at(execution)
        if at != _NEVER:
            execution.timer = asyncio.get_running_loop().call_at(at, self._due, execution)

    def forget(self, execution: Execution) -> None:
        """Watch an execution no more."""
        self._young.discard(execution)
        if execution.timer is not None:
            execution.timer.cancel()
            execution.timer = None

    def _sort_out(self) -> None:
        young, self._young = self._young, set()
        self._look, self._look_at = None, _NEVER
        for execution in young:
            self.set(execution)
