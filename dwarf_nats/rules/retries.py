"""Retry schedules (X5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import Retry


MAX_DELAY_US = 2**53
"""Some 285 years: a longer delay is cut to this, so that due times stay within 64 bits."""


def delay_us(retry: Retry, attempt: int) -> int:
    """Microseconds before the next attempt: `min(initial·multiplier^attempt, max)`, `attempt` counting from 0."""
    try:
        wanted = retry.initial_delay_ms * retry.multiplier**attempt
    except OverflowError:
        wanted = float("inf") if retry.initial_delay_ms else 0.0
    limit = retry.max_delay_ms if retry.max_delay_ms is not None else MAX_DELAY_US // 1000
    return round(min(wanted, limit) * 1000)


def granted(retry: Retry, attempt: int, age_us: int, wait_us: int) -> bool:
    """Whether attempt `attempt` (from 0) may be followed by another `wait_us` from now.

    `age_us` is how long ago the step was first dispatched: one that would be due after `give_up_after` is not granted.
    """
    if retry.max_attempts is not None and attempt + 1 >= retry.max_attempts:
        return False
    return retry.give_up_after_ms is None or age_us + wait_us <= retry.give_up_after_ms * 1000
