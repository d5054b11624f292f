"""A clock that a test environment moves from one due time to the next."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from dwarf_nats.clock import ManualClock

if TYPE_CHECKING:
    from dwarf_nats.testing.activity import Activity


class SkippingClock(ManualClock):
    """Knows what is waited for: due times (`wait`), and pauses of upkeep and before another attempt (`sleep`).

    Upkeep, such as a heartbeat, goes on for ever; so it is due times that the clock is moved to, and upkeep whose time has come
    on the way happens then, once.
    """

    def __init__(self, start: int, activity: Activity) -> None:
        super().__init__(start)
        self._activity = activity
        self._numbers = itertools.count()
        self._due: dict[int, int] = {}
        self._pauses: dict[int, int] = {}

    @property
    def next_due_at(self) -> int | None:
        """The next due time, if anything waits for one."""
        return min(self._due.values(), default=None)

    @property
    def next_pause_ends_at(self) -> int | None:
        """The end of the next pause of upkeep, if there is any."""
        return min(self._pauses.values(), default=None)

    def move_to(self, at: int) -> None:
        """Move the time on to `at`, and wake what waits until then."""
        self._activity.note()
        self.advance((at - self.now()) / 1_000_000)

    async def until_due(self, seconds: float) -> None:
        """Wait for so many seconds, as something that is due then."""
        await self.wait(asyncio.Event(), seconds)

    async def sleep(self, seconds: float) -> None:
        number = next(self._numbers)
        self._pauses[number] = self._end_of(seconds)
        self._activity.note()
        try:
            await super().sleep(seconds)
        finally:
            del self._pauses[number]
            self._activity.note()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if seconds is None or event.is_set():
            return await super().wait(event, seconds)
        number = next(self._numbers)
        self._due[number] = self._end_of(seconds)
        self._activity.note()
        try:
            return await super().wait(event, seconds)
        finally:
            del self._due[number]
            self._activity.note()

    def _end_of(self, seconds: float) -> int:
        return self.now() + round(seconds * 1_000_000)
