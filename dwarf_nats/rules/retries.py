"""Retry schedules (X5)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import Retry


MAX_DELAY_US = 2**53
"""Some 285 years: a longer delay is cut to this, so that due times stay within 64 bits."""


def delay_us(retry: Retry, attempt: int) -> int:
    """Microseconds before the next attempt: `min(initial·multiplier^attempt, max)`, `attempt` counting from 0."""
    try:
        factor = float(retry.multiplier) ** attempt
    except OverflowError:
        factor = math.inf
    if not retry.initial_delay_ms or not factor:
        return 0
    try:
        wanted = retry.initial_delay_ms * factor
    except OverflowError:
        wanted = math.inf
    return min(round(min(wanted, retry.max_delay_ms) * 1000), MAX_DELAY_US)


def granted(retry: Retry, attempt: int, age_us: int, wait_us: int) -> bool:
    """True if attempt `attempt` (from 0) may be followed by another `wait_us` from now.

    `age_us` is how long ago the step was first dispatched: one that would be due after `give_up_after` is not granted.
    """
    if retry.max_attempts is not None and attempt + 1 >= retry.max_attempts:
        return False
    return retry.give_up_after_ms is None or age_us + wait_us <= retry.give_up_after_ms * 1000
