"""Log lines that may come as a flood are summed up: the first of a kind at once, those that follow as a number (T3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

SECONDS = 10.0
"""Lines of a kind within so much time of the first are summed up."""
KINDS = 1_000
"""So many kinds are told apart at a time; beyond that the others are one kind."""


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
        """A warning of this kind; formatted only if it is logged now or is the last of its kind."""
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
