"""Log lines that may come as a flood: the first is logged at once, the others as a number (T3).

`Summed` is for events, such as requests that were lost: each one counts, also if no other follows. A timer of the event loop
logs the number, and `flush` logs it at the end.

`Repeats` is for a state that lasts, such as a connection that is away, and is reported with every attempt. The number is logged
with the next line of the same text: a timer would still report the state when it is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

SECONDS = 10.0
"""`Summed`: time after the first line of a kind in which the others are counted instead of logged."""
KINDS = 1_000
"""`Summed`: kinds that are counted apart at a time; all further ones count as one."""
BURST = 3
"""`Repeats`: lines of one text that are logged one by one within `REPEAT_SECONDS`."""
REPEAT_SECONDS = 60.0
TEXTS = 100
"""`Repeats`: texts that are counted apart within `REPEAT_SECONDS`; all further ones count as `OTHERS`."""
OTHERS = "and more lines like those before, of other texts"


class Timer(Protocol):
    """A call that can be cancelled before it is due."""

    def cancel(self) -> object: ...


Later = Callable[[float, Callable[[], None]], Timer]


@dataclass(slots=True)
class _Kind:
    """A kind of line. `more`: the number of lines since the last one that was logged."""

    level: int
    timer: Timer
    more: int = 0
    text: str = ""
    about: Mapping[str, object] | None = None


class Summed:
    """Logs the first line of a kind, counts those that follow, and logs their number after `seconds`.

    `later` calls a function after a number of seconds; by default the running loop does. For use in the loop's thread.
    """

    def __init__(self, logger: logging.Logger, *, seconds: float = SECONDS, later: Later | None = None) -> None:
        self._log = logger
        self._seconds = seconds
        self._later = later if later is not None else _on_the_loop
        self._kinds: dict[Hashable, _Kind] = {}

    def warning(self, kind: Hashable, text: str, *args: Any, extra: Mapping[str, object] | None = None) -> None:
        """Log or count a warning of this kind. It is formatted at once, so that no argument is kept alive."""
        self.log(logging.WARNING, kind, text, *args, extra=extra)

    def log(self, level: int, kind: Hashable, text: str, *args: Any, extra: Mapping[str, object] | None = None) -> None:
        """Log or count a line of this kind."""
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
        """Log now what was counted; for the end of a process."""
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
                found.level,
                "%s (and %s more like it in the last %g s)",
                found.text,
                more,
                self._seconds,
                extra=found.about,
            )


def _on_the_loop(seconds: float, call: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, call)


@dataclass(slots=True)
class _Text:
    """A text. `count`: its lines since `since`. `unlogged`: its lines since the last one that was logged."""

    since: float
    count: int = 0
    unlogged: int = 0


class Repeats:
    """Logs each text at most `burst` times a minute, and then once a minute with the number of lines meanwhile.

    A new text is logged at once, so that a change of the reason is visible; a hundred new ones a minute at most. `burst`: 1
    for texts that repeat by their nature.
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
        self._texts: dict[tuple[int, str], _Text] = {}

    def say(self, level: int, text: str) -> None:
        """Log `text`, or count it."""
        now = self._clock()
        if (level, text) not in self._texts and not self._has_room(now):
            text = OTHERS
        known = self._texts.get((level, text))
        if known is None:
            known = self._texts[level, text] = _Text(now)
        elif now - known.since >= self._seconds:
            known.since, known.count = now, 0
        known.count += 1
        if known.count > self._burst:
            known.unlogged += 1
            return
        more, known.unlogged = known.unlogged, 0
        if more:
            text = f"{text} (and {more} times more since the last such line)"
        self._log.log(level, "%s", text)

    def _has_room(self, now: float) -> bool:
        """True if one more text may be logged in this minute; forgets one that is older."""
        if len(self._texts) >= TEXTS:
            oldest = min(self._texts, key=lambda one: self._texts[one].since)
            if now - self._texts[oldest].since < self._seconds:
                return False
            del self._texts[oldest]
        return True
