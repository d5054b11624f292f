"""Clocks: the machine's, and one that a test moves by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Any


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for `event`, at most `seconds` (`None`: without end). Returns true if it was set."""
        if seconds is None:
            await event.wait()
            return True
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True


class ManualClock(SystemClock):
    """A clock that stands still until `advance` is called; sleepers whose time has come wake in order."""

    def __init__(self, start: int | None = None) -> None:
        self._now = start if start is not None else time.time_ns() // 1000
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> int:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the time on by `seconds` and wake the sleepers whose time has come."""
        self._now += round(seconds * 1_000_000)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            await self._alarm(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if seconds is None or event.is_set():
            await event.wait()
            return True
        alarm = self._alarm(seconds)  # first of all, or an advance meanwhile would not count
        waiter = asyncio.ensure_future(event.wait())
        try:
            pending: set[asyncio.Future[Any]] = {alarm, waiter}
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            alarm.cancel()
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)

    def _alarm(self, seconds: float) -> asyncio.Future[None]:
        """A future that is done once the clock has moved on by `seconds`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self._now + round(seconds * 1_000_000)
        if due <= self._now:
            future.set_result(None)
        else:
            heapq.heappush(self._sleepers, (due, next(self._order), future))
        return future
