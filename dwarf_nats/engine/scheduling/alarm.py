"""An alarm: the next moment at which something is to be done, which may come nearer while it is waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock

_NEVER = 2**63


class Alarm:
    """Waits until the earliest moment that was noted. Nothing is asked for meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_at = 0
        self._earlier = asyncio.Event()

    def note(self, delay_us: int) -> None:
        """Know of a moment that is `delay_us` from now."""
        at = self._clock.now() + delay_us
        if at < self._next_at:
            self._next_at = at
            self._earlier.set()

    @property
    def is_due(self) -> bool:
        """The earliest moment that was noted has passed."""
        return self._next_at <= self._clock.now()

    def clear(self) -> None:
        """Forget what was noted: it is about to be looked for."""
        self._next_at = _NEVER

    async def wait(self) -> None:
        """Wait until the earliest moment that was noted; at once if it has passed."""
        while (left := self._next_at - self._clock.now()) > 0:
            self._earlier.clear()
            await self._clock.wait(self._earlier, left / 1_000_000 if self._next_at < _NEVER else None)
