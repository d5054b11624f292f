"""Moments at which it hurts most: callers and services tell of them, faults wait for them."""

from __future__ import annotations

import asyncio


class Moments:
    """`signal`: an event is about to be signalled; `compensation`: one is under way."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Event] = {}

    def tell(self, what: str) -> None:
        """It is now."""
        event = self._waiting.pop(what, None)
        if event is not None:
            event.set()

    async def next(self, what: str, seconds: float) -> bool:
        """Wait for the next one; false if none came in time."""
        event = self._waiting.setdefault(what, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True
