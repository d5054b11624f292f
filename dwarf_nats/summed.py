"""Log lines that may come as a flood are summed up: the first at once, the others as a number (T3).

`Summed` is for events, such as requests that were lost: every one counts, also if no other follows. A timer of the event loop
tells how many there were, and `flush` tells it at the end.

`Repeats` is for a state that lasts, such as a connection that is away, and that is told with every try. How often that was is
told with the next line of the same text: a timer would still speak of the state when it is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

SECONDS = 10.0
"""`Summed`: lines of a kind within so much time of the first are summed up."""
KINDS = 1_000
"""`Summed`: so many kinds are told apart at a time; beyond that the others are one kind."""
BURST = 3
REPEAT_SECONDS = 60.0
"""`Repeats`: so many lines of one text are logged one by one in so much time."""
TEXTS = 100
OTHERS = "and more lines like those before, of other texts"
"""`Repeats`: so many texts are told apart in that time; beyond that the others are this one."""


class Timer(Protocol):
    """What can be called off."""

    def cancel(self) -> object: ...


Later = Callable[[float, Callable[[], None]], Timer]


@dataclass(slots=True)
class _Kind:
    """`more`: how many lines came since the last one that was logged."""

    level: int
    timer: Timer
    more: int = 0
    text: str = ""
    about: Mapping[str, object] | None = None


class Summed:
    """Logs the first line of a kind, counts those that follow, and says after `seconds` how many there were.

    `later` calls something after so many seconds; by default the running loop does. For use in the loop's thread.
    """

    def __init__(self, logger: logging.Logger, *, seconds: float = SECONDS, later: Later | None = None) -> None:
        self._log = logger
        self._seconds = seconds
        self._later = later if later is not None else _on_the_loop
        self._kinds: dict[Hashable, _Kind] = {}

    def warning(self, kind: Hashable, text: str, *args: Any, extra: Mapping[str, object] | None = None) -> None:
        """A warning of this kind; formatted at once, so that no argument is held on to."""
        self.log(logging.WARNING, kind, text, *args, extra=extra)

    def log(self, level: int, kind: Hashable, text: str, *args: Any, extra: Mapping[str, object] | None = None) -> None:
        """A line of this kind."""
        known = self._kinds.get(kind)
        if known is None and len(self._kinds) >= KINDS:
            kind = None
            known = self._kinds.get(kind)
        if known is not None:
            known.more += 1
            known.text, known.about = text % args if args else text, extra
            return
        self._log.log(level, text, *args, extra=extra)
        self._kinds[kind] = _Kind(level, self._later(self._seconds, lambda: self._over(kind)))

    def flush(self) -> None:
        """Say now what was summed up, as before an end."""
        for kind in list(self._kinds):
            found = self._kinds.pop(kind)
            found.timer.cancel()
            self._say(found)

    def _over(self, kind: Hashable) -> None:
        found = self._kinds.pop(kind, None)
        if found is not None and found.more:
            self._say(found)
            # More may follow: they are summed up from the first one on.
            self._kinds[kind] = _Kind(found.level, self._later(self._seconds, lambda: self._over(kind)))

    def _say(self, found: _Kind) -> None:
        if found.more == 1:
            self._log.log(found.level, "%s", found.text, extra=found.about)
        elif found.more:
            more = f"{found.more - 1:,}"
            self._log.log(
                found.level, "%s (and %s more like it in the last %g s)", found.text, more, self._seconds,
                extra=found.about,
            )  # fmt: skip


def _on_the_loop(seconds: float, call: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, call)


@dataclass(slots=True)
class _Text:
    """`count`: how many lines came since `since`; `silent`: how many came since the last one that was logged."""

    since: float
    count: int = 0
    silent: int = 0


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
        seconds: float = REPEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._burst = burst
        self._seconds = seconds
        self._clock = clock
        self._told: dict[tuple[int, str], _Text] = {}

    def say(self, level: int, text: str) -> None:
        """Log `text`, or count it."""
        now = self._clock()
        if (level, text) not in self._told and not self._has_room(now):
            text = OTHERS
        told = self._told.get((level, text))
        if told is None:
            told = self._told[level, text] = _Text(now)
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
        if len(self._told) >= TEXTS:
            oldest = min(self._told, key=lambda one: self._told[one].since)
            if now - self._told[oldest].since < self._seconds:
                return False
            del self._told[oldest]
        return True
