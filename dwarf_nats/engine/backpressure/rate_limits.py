"""The valves of one replica, adaptive rate limiters: how fast it may ask each task (V1-V3)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dwarf_nats.rules import valve
from dwarf_nats.rules.valve import SECOND, Point
from dwarf_nats.telemetry.counters import Counters

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock

WIDE_OPEN_RATE = 100_000.0
"""Operations per second that no replica sends: a valve that allows this rate is ignored until its next signal."""
MAX_POINTS = 10_000
"""Congestion points that are kept: beyond that, those of valves that are wide open are forgotten, to bound memory."""


class Valves:
    """Counts what goes out to each task and tells whether more may. Shared by the shards of a replica.

    `counters` counts signals (`cuts`) and how often a task was passed over because its valve was closed (`skipped`).
    """

    def __init__(self, clock: Clock, counters: Counters | None = None) -> None:
        self.counters = counters if counters is not None else Counters()
        self._clock = clock
        self._points: dict[str, Point] = {}
        self._narrow: set[str] = set()
        self._sent: dict[str, deque[int]] = {}

    def admits(self, url: str) -> bool:
        """Tell whether one more operation may go out to the task now; if so, it counts as sent."""
        now = self._clock.now()
        sent = self._recent(url, now)
        if url in self._narrow and self._allowance(url, len(sent), now) == 0:
            return False
        sent.append(now)
        return True

    def task_budgets(self) -> dict[str, int]:
        """Operations that may go out now to each task whose valve is not wide open; 0 if it is closed."""
        now = self._clock.now()
        return {
            url: allowed
            for url in tuple(self._narrow)
            if (allowed := self._allowance(url, len(self._recent(url, now)), now)) is not None
        }

    def opens_at(self, urls: Iterable[str]) -> int | None:
        """The time at which one more operation may go out to the first of these tasks; `None` if there are none."""
        now = self._clock.now()
        return min((self._opens_at(url, now) for url in urls), default=None)

    def _opens_at(self, url: str, now: int) -> int:
        point = self._points.get(url)
        return now if point is None else valve.opens_at(point, self._recent(url, now), now)

    def signal(self, url: str) -> Point:
        """Cut the rate of a task that said it is busy (V1); the new congestion point, for the other replicas (V3)."""
        now = self._clock.now()
        point = self._points.get(url)
        if point is not None and point.t > now:  # this clock was set back
            point = Point(point.w, now)
        made = valve.cut(point, len(self._recent(url, now)), now)
        self._set(url, made)
        self.counters.cuts.add(url)
        return made

    def merge_peer(self, url: str, w: float, t: int) -> None:
        """Merge another replica's congestion point (V3). One from the future, of a clock that is fast, counts as of now."""
        if math.isfinite(w):
            peer = Point(min(max(w, valve.LOWEST), WIDE_OPEN_RATE), min(t, self._clock.now()))
            self._set(url, valve.merged(self._points.get(url), peer))

    def rates(self) -> dict[str, float]:
        """Operations per second allowed now, for each task whose valve is not wide open."""
        now = self._clock.now()
        return {url: valve.rate(self._points[url], now) for url in self.task_budgets()}

    def forget(self) -> None:
        """Drop what says nothing any more; to be called now and then."""
        now = self._clock.now()
        self.task_budgets()  # which takes note of those that are wide open
        for url in tuple(self._sent):
            if not self._recent(url, now):
                del self._sent[url]
        if len(self._points) > MAX_POINTS:
            self._points = {url: point for url, point in self._points.items() if url in self._narrow}

    def _set(self, url: str, point: Point) -> None:
        self._points[url] = point
        self._narrow.add(url)

    def _allowance(self, url: str, sent: int, now: int) -> int | None:
        """`None` if the valve is wide open by now."""
        point = self._points[url]
        if valve.rate(point, now) >= WIDE_OPEN_RATE:
            self._narrow.discard(url)
            return None
        return valve.allowance(point, sent, now)

    def _recent(self, url: str, now: int) -> deque[int]:
        """The times at which the operations of the last second went out."""
        sent = self._sent.get(url)
        if sent is None:
            sent = self._sent[url] = deque()
        while sent and sent[0] <= now - SECOND:
            sent.popleft()
        if sent and sent[-1] > now:  # this clock was set back
            sent.clear()
        return sent
