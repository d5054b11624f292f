"""Log lines that may come very often: the first few are logged, the others are counted and told in sum."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

BURST = 3
"""So many lines of one text are logged one by one before they are summed up."""
EVERY_SECONDS = 60.0
MOST_TEXTS = 100
OTHERS = "and more lines like those before, of other texts"


class _Told:
    __slots__ = ("count", "silent", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        self.silent = 0


class Repeats:
    """Logs each text at most `burst` times a minute, and then once a minute with how often it came meanwhile.

    A text that is new is logged at once, so a change of the reason is seen; a hundred of them a minute at most. `burst`: 1
    for what repeats by its nature.
    """

    def __init__(
        self,
        log: logging.Logger,
        *,
        burst: int = BURST,
        seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._burst = burst
        self._seconds = seconds
        self._clock = clock
        self._told: dict[tuple[int, str], _Told] = {}

    def say(self, level: int, text: str) -> None:
        """Log `text`, or count it."""
        now = self._clock()
        if (level, text) not in self._told and not self._has_room(now):
            text = OTHERS
        told = self._told.get((level, text))
        if told is None:
            told = self._told[level, text] = _Told(now)
        elif now - told.since >= self._seconds:
            told.since, told.count = now, 0
        told.count += 1
        if told.count > self._burst:
            told.silent += 1
            return
        more, told.silent = told.silent, 0
        if more:
            text = f"{text} (and {more} times more since the last such line)"
        self._log.log(level, "%s", text)

    def _has_room(self, now: float) -> bool:
        """Whether one more text may be told in this minute; forgets one that is older."""
        if len(self._told) >= MOST_TEXTS:
            oldest = min(self._told, key=lambda one: self._told[one].since)
            if now - self._told[oldest].since < self._seconds:
                return False
            del self._told[oldest]
        return True
