"""One asyncio task for many executions whose functions never wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .executions import Execution

SLICE_SECONDS = 0.005
"""Time after which other work of the event loop gets its turn: answers, timers, messages."""


class SharedTask:
    """Runs executions one after the other with `run`, each in a context of its own, in an asyncio task that they share.

    For functions that never wait, so that none can be interrupted: to make and schedule an asyncio task for each would cost
    more than they do.
    """

    def __init__(self, run: Callable[[Execution], None]) -> None:
        self._run = run
        self._ready: deque[Execution] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, execution: Execution) -> None:
        """Run an execution as soon as it is its turn."""
        self._ready.append(execution)
        execution.task = self._task or self._begin()

    def _begin(self) -> asyncio.Task[None]:
        self._task = task = asyncio.get_running_loop().create_task(self._work())
        task.add_done_callback(self._ended)
        return task

    async def _work(self) -> None:
        while self._ready:
            self._work_a_slice()
            if self._ready:
                await asyncio.sleep(0)

    def _work_a_slice(self) -> None:
        end = time.monotonic() + SLICE_SECONDS
        while self._ready:
            copy_context().run(self._run, self._ready.popleft())
            if time.monotonic() > end:
                break

    def _ended(self, _task: asyncio.Task[None]) -> None:
        """Go on in another task, also after a function has had this one cancelled."""
        self._task = None
        if self._ready:
            self._begin()
