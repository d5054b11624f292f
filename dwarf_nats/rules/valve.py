"""The valve of a task: how fast it may be asked while it says that it is busy (V1-V3). Pure.

A valve is known by its congestion point, the rate `w` it was cut to and the moment `t` of the cut. Between cuts the rate
follows TCP CUBIC (RFC 9438) in time: up steeply towards the rate that was too much, flat around it, then steeply on. Rates
are operations per second, times microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SECOND = 1_000_000
BETA = 0.01
"""The share by which a cut is taken to have reduced the rate: `Wmax` lies that much above `w`."""
C = 0.05
"""The steepness of the curve, in operations per second per cubed second."""
LOWEST = 1.0
STEP = 1.0
"""The amount that one signal takes off the rate, in operations per second."""


@dataclass(slots=True, frozen=True)
class Point:
    """A congestion point: the rate after the last cut, and when that was."""

    w: float
    t: int


def rate(point: Point, now: int) -> float:
    """The rate allowed `now` (V2): `C(t-K)^3 + Wmax`, never below 1. Before the cut it is that of the cut."""
    elapsed = max(0, now - point.t) / SECOND
    w_max, k = _curve(point)
    return max(LOWEST, C * (elapsed - k) ** 3 + w_max)


def cut(point: Point | None, emitted: int, now: int) -> Point:
    """The point after a signal (V1). `emitted`: how many operations went out in the last second.

    The first signal after a quiet second tells that what is emitted now is too much, so the rate is lifted to that first.
    """
    w = 0.0 if point is None else point.w
    if point is None or now - point.t >= SECOND:
        w = max(w, float(emitted))
    return Point(max(LOWEST, w - STEP), now)


def merged(own: Point | None, told: Point) -> Point:
    """The later of two points, on a tie the smaller (V3): replicas that hear of the same points end at the same one."""
    if own is None or (told.t, -told.w) > (own.t, -own.w):
        return told
    return own


def allowance(point: Point, emitted: int, now: int) -> int:
    """The number of operations that may still go out now, if `emitted` went out in the last second (V2)."""
    return max(0, math.floor(rate(point, now)) - emitted)


def reaches(point: Point, wanted: float) -> int:
    """The time at which the rate will be `wanted`, if nothing cuts it."""
    if wanted <= rate(point, point.t):
        return point.t
    w_max, k = _curve(point)
    at = point.t + math.ceil((k + math.cbrt((wanted - w_max) / C)) * SECOND)
    while rate(point, at) < wanted:  # the last digit of a root is not exact
        at += 1000
    return at


def opens_at(point: Point, stamps: Sequence[int], now: int) -> int:
    """The time at which one more operation may go out. `stamps`: the times of those of the last second, in order.

    It may as soon as enough of them are a second old for the rate there will be by then.
    """
    if allowance(point, len(stamps), now) > 0:
        return now
    at = reaches(point, len(stamps) + 1)
    for left, stamp in zip(range(len(stamps) - 1, -1, -1), stamps, strict=True):
        if stamp + SECOND >= at:
            break
        at = min(at, max(stamp + SECOND, reaches(point, left + 1)))
    return max(now, at)


def _curve(point: Point) -> tuple[float, float]:
    """`Wmax`, and `K`: the seconds it takes to be back there."""
    w_max = point.w / (1 - BETA)
    return w_max, math.cbrt(w_max * BETA / C)
