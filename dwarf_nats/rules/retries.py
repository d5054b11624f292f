"""Retry schedules: of a reply (X5), and of the policy of a node (L1, L2). Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from dwarf_nats.workflow.answer import ErrorInfo

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import Retry
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.nodes import RetryPolicy


MAX_DELAY_US = 2**53
"""Some 285 years: a longer delay is cut to this, so that due times stay within 64 bits."""
FINAL = "final"
"""The field of an error by which a task says that a retry cannot help (L2)."""


def delay_us(retry: Retry | RetryPolicy, attempt: int) -> int:
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


def granted(retry: Retry | RetryPolicy, attempt: int, age_us: int, wait_us: int) -> bool:
    """True if attempt `attempt` (from 0) may be followed by another `wait_us` from now.

    `age_us` is how long ago the step was first dispatched: one that would be due after `give_up_after` is not granted.
    """
    if retry.max_attempts is not None and attempt + 1 >= retry.max_attempts:
        return False
    return retry.give_up_after_ms is None or age_us + wait_us <= retry.give_up_after_ms * 1000


def policy_of(graph: Graph, node: str) -> RetryPolicy | None:
    """The retry policy of a node: its own, or else that of its graph (L1)."""
    found = graph.nodes.get(node)
    return found.retry if found is not None and found.retry is not None else graph.defaults.retry


def covers(policy: RetryPolicy, error: ErrorInfo) -> bool:
    """True if a policy holds for such an error (L2): it is not final, and its code is among those that are retried."""
    return error.extra.get(FINAL) is not True and (not policy.codes or error.code in policy.codes)


def shortened(delay: int, jitter: float, chance: Callable[[], float]) -> int:
    """A delay, shortened at random by up to the share `jitter` of it (L1)."""
    return round(delay * (1 - jitter * chance())) if jitter and delay else delay


def counted(error: ErrorInfo, attempt: int) -> ErrorInfo:
    """The error of the last attempt, which says how often the step was tried if that was more than once (L3)."""
    if not attempt:
        return error
    return ErrorInfo(f"{error.message} (tried {attempt + 1} times)", error.code, error.extra)
