"""The activity of a test: while anything goes on, its clock stands still."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_TURNS = 60
"""Turns of the event loop without any activity after which nothing more is on its way: far more than a chain of futures has."""
PATIENCE_SECONDS = 60.0
"""Longest time in reality that a task may run, or a call of the database take."""


THREAD_SECONDS, THREAD_POLL_SECONDS = 2.0, 0.001
"""Longest time that steps are in flight without a sign, as while a thread checks a large graph; and between two looks."""


class StillBusy(AssertionError):
    """Something has run for too long: a task that waits for something real, perhaps."""


class Activity:
    """Counts what runs, and knows when everything rests."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._changes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight: Callable[[], int] = int
        """The number of steps that the engine has in flight, without those that wait for a time."""

    def note(self) -> None:
        """Something has happened."""
        self._changes += 1

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Count `what` as running meanwhile."""
        self._changes += 1
        self._running[what] += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._changes += 1
            self._running[what] -= 1
            if not self._running[what]:
                del self._running[what]
            if not self._running:
                self._idle.set()

    async def rest(self) -> None:
        """Wait until nothing runs and nothing more is on its way. Raises `StillBusy` if that takes a minute."""
        await self._quiet()
        polls = 0
        while self.in_flight() > 0 and polls * THREAD_POLL_SECONDS < THREAD_SECONDS:
            polls += 1
            await asyncio.sleep(THREAD_POLL_SECONDS)
            await self._quiet()

    async def _quiet(self) -> None:
        """Wait for so many turns of the loop without any activity."""
        turns = 0
        while turns < QUIET_TURNS:
            if self._running:
                await self._until_idle()
            seen = self._changes
            await asyncio.sleep(0)
            turns = turns + 1 if seen == self._changes and not self._running else 0

    async def _until_idle(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            raise StillBusy(
                f"{', '.join(sorted(self._running))}: still running after {PATIENCE_SECONDS:g} s;"
                " a task that waits for something real is better replaced by a fake"
            ) from None
