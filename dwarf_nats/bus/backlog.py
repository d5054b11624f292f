"""Requests without a reply subject: they cannot be told to come again, so they wait here for their turn (wire: section 1)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from .endpoints import Endpoint
from .handlers import Asked

OVERHEAD = 512
"""Bytes a queued request is counted for beside its payload."""

Pair = tuple[Endpoint, Asked]


class Backlog:
    """A queue of requests, bounded by bytes, carried out in order.

    `carry_out` does the work of one. `at_once` says how many of them may be under way now; requests that have a reply subject
    need the rest. `take` is false for one that finds no room.
    """

    def __init__(
        self,
        most_bytes: int,
        carry_out: Callable[[Endpoint, Asked], Coroutine[Any, Any, None]],
        at_once: Callable[[int], bool],
    ) -> None:
        self._most_bytes = most_bytes
        self._carry_out = carry_out
        self._may_begin = at_once
        self._queue: deque[tuple[Endpoint, Asked, int]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self.bytes = 0
        self.running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def take(self, endpoint: Endpoint, asked: Asked) -> bool:
        """Carry out the request when its turn comes; false, and nothing is done, if too much waits already.

        One that finds the queue empty is always taken.
        """
        size = len(asked.payload) + OVERHEAD
        if self._queue and self.bytes + size > self._most_bytes:
            return False
        self._queue.append((endpoint, asked, size))
        self.bytes += size
        self._idle.clear()
        self.fill()
        return True

    def fill(self) -> None:
        """Begin with as many as may be under way."""
        while self._queue and self._may_begin(len(self.running)):
            endpoint, asked, size = self._queue.popleft()
            self.bytes -= size
            task = asyncio.get_running_loop().create_task(self._carry_out(endpoint, asked))
            self.running.add(task)
            task.add_done_callback(self._done)

    async def drain(self, seconds: float) -> list[Pair]:
        """Wait until all are carried out; those that had not begun, or could not end, in that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        left = [(endpoint, asked) for endpoint, asked, _ in self._queue]
        self._queue.clear()
        self.bytes = 0
        return left

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        self.fill()
        if not self.running and not self._queue:
            self._idle.set()
