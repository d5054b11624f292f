"""The queue of requests without a reply subject, which cannot be refused with a 429 (wire: section 1)."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import Unavailable

from .endpoints import Endpoint
from .handlers import RequestContext

OVERHEAD = 512
"""Bytes that a queued request counts for beside its payload."""
RETRY_BACKOFF = Backoff(0.05, 2, 2.0)
"""Pauses before a request is tried again."""


IDEMPOTENT = frozenset({"flow.start", "flow.cancel", "flow.delete", "flow.break_before", "graph.put", "graph.delete"})
"""Operations that change nothing when they are carried out a second time."""
TELLING_IF_UNDECIDED = frozenset({"flow.create", "flow.create_task", "flow.signal", "signal"})
"""Operations whose refusal says whether they may have been carried out all the same (`Unavailable.undecided`)."""


class Queued(NamedTuple):
    """A request that waits. `number`: its place in the order of arrival."""

    number: int
    size: int
    endpoint: Endpoint
    context: RequestContext


class Backlog:
    """A queue of requests, bounded by bytes, carried out in order.

    `carry_out` carries out one; false means that it could not be done now and is to be tried again before all others.
    `may_begin` gets the number of those in progress, and returns true if one more may begin.
    """

    def __init__(
        self,
        max_bytes: int,
        carry_out: Callable[[Endpoint, RequestContext], Coroutine[Any, Any, bool]],
        may_begin: Callable[[int], bool],
    ) -> None:
        self._max_bytes = max_bytes
        self._carry_out = carry_out
        self._may_begin = may_begin
        self._queue: deque[Queued] = deque()
        self._again: list[Queued] = []
        self._numbers = itertools.count()
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.bytes = 0
        self.running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """The number of requests that wait."""
        return len(self._queue) + len(self._again)

    def take(self, endpoint: Endpoint, context: RequestContext) -> bool:
        """Carry out the request when its turn comes. Returns false, and does nothing, if too much waits already.

        A request that finds an empty queue is always taken.
        """
        size = len(context.payload) + OVERHEAD
        if len(self) and self.bytes + size > self._max_bytes:
            return False
        self._queue.append(Queued(next(self._numbers), size, endpoint, context))
        self.bytes += size
        self._idle.clear()
        self.fill()
        return True

    def fill(self) -> None:
        """Start waiting requests while `may_begin` allows it."""
        while len(self) and self._timer is None and self._may_begin(len(self.running)):
            queued = heapq.heappop(self._again) if self._again else self._queue.popleft()
            self.bytes -= queued.size
            task = asyncio.get_running_loop().create_task(self._work(queued))
            self.running.add(task)
            task.add_done_callback(self._done)

    async def drain(self, seconds: float) -> list[Queued]:
        """Wait until all are carried out. Returns those that had not begun in that time, or are to be tried again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        left = [*self._again, *self._queue]
        self._again.clear()
        self._queue.clear()
        self.bytes = 0
        if self._timer is not None:
            self._timer.cancel()
        return left

    async def _work(self, queued: Queued) -> None:
        if await self._carry_out(queued.endpoint, queued.context):
            self._failures = 0
            return
        heapq.heappush(self._again, queued)
        self.bytes += queued.size
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RETRY_BACKOFF.delay(self._failures), self._go_on)
            self._failures += 1

    def _go_on(self) -> None:
        self._timer = None
        self.fill()

    def _done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        self.fill()
        if not self.running and not len(self):
            self._idle.set()


def may_repeat(endpoint: Endpoint, context: RequestContext, error: Unavailable) -> bool:
    """True if a request that failed with this error can be carried out again without being done twice."""
    name = endpoint.operation.name
    keyed = endpoint.operation.keyed and bool(context.msg_id)
    return keyed or name in IDEMPOTENT or (name in TELLING_IF_UNDECIDED and not error.undecided)
