"""Few results linger, where many come a moment later as a rule (design note 0061)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LINGER_SECONDS = 0.002
"""Time for which a group that is small for its committer waits for others to share its transaction."""
LINGER_SHARE = 2 / 3
"""Share of the usual size below which a group is small."""
RECENT_SECONDS = 0.02
"""Pause between two groups after which nothing is known of the usual size: a step alone waits for nothing."""


class UsualSize:
    """The size that the groups of a committer had lately: that of the largest, less a tenth for each one since."""

    def __init__(self) -> None:
        self._size = 0.0
        self._noted_at = 0.0

    def note(self, members: int, now: float) -> None:
        """Note a group that was written. `now`: seconds, of any clock that is always the same."""
        self._size = max(float(members), 0.9 * self._recent(now))
        self._noted_at = now

    def is_small(self, members: int, now: float) -> bool:
        """Tell whether a group would be small."""
        return members < LINGER_SHARE * self._recent(now)

    def _recent(self, now: float) -> float:
        return self._size if now - self._noted_at < RECENT_SECONDS else 0.0


class Linger:
    """Lets others come to a group that is small for its committer.

    A few results that are written by themselves hold up the many that come a moment later. They are dispatched and answered by
    themselves, and so hold them up again.

    `arrived` is set when something arrives; `waiting` counts what waits to be written.
    """

    def __init__(self, arrived: asyncio.Event, waiting: Callable[[], int]) -> None:
        self._arrived = arrived
        self._waiting = waiting
        self._usual = UsualSize()
        self._lasts = False

    def note(self, members: int) -> None:
        """Note a group that was written."""
        self._usual.note(members, asyncio.get_running_loop().time())

    def is_due(self) -> bool:
        """Tell whether what waits would make a small group."""
        return self._usual.is_small(self._waiting(), asyncio.get_running_loop().time())

    async def wait(self) -> None:
        """Wait until the group is no longer small, for `LINGER_SECONDS` at most, or until `end`."""
        self._lasts = True
        timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.end)
        try:
            while self._lasts and self.is_due():
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            timer.cancel()

    def end(self) -> None:
        """Wait no longer."""
        self._lasts = False
        self._arrived.set()
