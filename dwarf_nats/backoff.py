"""Pauses between attempts: the one place that says how they grow."""

from __future__ import annotations

import random
from typing import Self


class Backoff:
    """Pauses in seconds after one, two, three failures in a row: `first`, then `factor` times as long, up to `longest`.

    `jitter` is the share of a pause that is random, from 0 to 1: with 1, a pause is any number from 0 to its full length.
    Random pauses keep many clients from trying again at the same moment. `Backoff.listed` takes pauses that follow no factor.

    Raises `ValueError` for pauses that do not grow, and for a jitter outside its range.
    """

    __slots__ = ("_pauses", "jitter")

    def __init__(self, first: float, factor: float, longest: float, jitter: float = 0.0) -> None:
        if first <= 0 or factor <= 1 or longest < first:
            raise ValueError(f"pauses cannot grow from {first} s by the factor {factor} to {longest} s")
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter is a share from 0 to 1, got {jitter}")
        pauses = [first]
        while pauses[-1] < longest:
            pauses.append(min(pauses[-1] * factor, longest))
        self._pauses = tuple(pauses)
        self.jitter = jitter

    @classmethod
    def listed(cls, *seconds: float) -> Self:
        """The pauses one by one; the last one is repeated."""
        made = cls(seconds[0], 2.0, seconds[0])
        made._pauses = seconds
        return made

    def delay(self, failures: int) -> float:
        """Seconds to wait before the next attempt. `failures`: failures in a row before the last one, 0 for the first."""
        pause = self._pauses[min(failures, len(self._pauses) - 1)]
        return random.uniform((1 - self.jitter) * pause, pause) if self.jitter else pause

    def total(self, attempts: int) -> float:
        """Seconds of the pauses before `attempts` further attempts together, jitter left out."""
        beyond = max(0, attempts - len(self._pauses))
        return sum(self._pauses[:attempts]) + beyond * self._pauses[-1]


DATABASE_BACKOFF = Backoff(0.05, 2, 1.5)
"""Pauses of the engine while a database is away: short enough that a failover costs little, long enough not to disturb it."""
