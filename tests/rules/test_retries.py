"""Retry schedules (X5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.rules.retries import MAX_DELAY_US, delay_us, granted
from dwarf_nats.workflow.answer import Retry

MS = 1000


@pytest.mark.parametrize(
    ("retry", "delays_ms"),
    [
        (Retry(), [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]),
        (Retry(initial_delay_ms=100, multiplier=1.0), [100, 100, 100]),
        (Retry(initial_delay_ms=90_000), [60_000, 60_000]),
        (Retry(initial_delay_ms=90_000, max_delay_ms=10**6), [90_000, 180_000]),
        (Retry(initial_delay_ms=0), [0, 0, 0]),
        (Retry(max_delay_ms=10**7), [100, 200, 400]),
        (Retry(initial_delay_ms=100, multiplier=2.0, max_delay_ms=500), [100, 200, 400, 500, 500]),
        (Retry(initial_delay_ms=900, max_delay_ms=500), [500, 500]),
        (Retry(initial_delay_ms=10, multiplier=1.5), [10, 15, 22.5, 33.75]),
        (Retry(initial_delay_ms=1000, multiplier=0.5), [1000, 500, 250, 125]),
        (Retry(initial_delay_ms=1000, multiplier=0.0), [1000, 0, 0]),
        (Retry(initial_delay_ms=0, multiplier=10.0), [0, 0, 0]),
        (Retry(initial_delay_ms=100, multiplier=2.0, max_delay_ms=0), [0, 0]),
    ],
)
def test_the_delay_is_initial_times_multiplier_to_the_attempt_up_to_max(retry: Retry, delays_ms: list[float]) -> None:
    assert [delay_us(retry, attempt) for attempt in range(len(delays_ms))] == [round(ms * MS) for ms in delays_ms]


def test_a_delay_beyond_all_bounds_is_cut_to_what_a_due_time_can_hold() -> None:
    for huge in (2**62, 2**64, 10**400):
        assert delay_us(Retry(initial_delay_ms=1, multiplier=10.0, max_delay_ms=huge), 100_000) == MAX_DELAY_US
        assert delay_us(Retry(initial_delay_ms=huge, multiplier=1e308, max_delay_ms=huge), 1) == MAX_DELAY_US
        assert delay_us(Retry(initial_delay_ms=huge, multiplier=0.0, max_delay_ms=huge), 7) == 0
        assert delay_us(Retry(initial_delay_ms=huge), 0) == 60_000 * MS
        assert delay_us(Retry(initial_delay_ms=0, multiplier=1e308, max_delay_ms=huge), 100_000) == 0
    assert delay_us(Retry(initial_delay_ms=1, multiplier=10), 2**31) == 60_000 * MS


@pytest.mark.parametrize(
    ("max_attempts", "grants"),
    [(1, [False]), (2, [True, False]), (3, [True, True, False]), (None, [True] * 5)],
)
def test_max_attempts_counts_executions_the_first_included(max_attempts: int | None, grants: list[bool]) -> None:
    retry = Retry(max_attempts=max_attempts)
    assert [granted(retry, attempt, 0, 0) for attempt in range(len(grants))] == grants


@pytest.mark.parametrize(
    ("age_ms", "wait_ms", "grant"),
    [
        (0, 0, True),
        (999, 1, True),
        (1000, 0, True),
        (999, 2, False),
        (1001, 0, False),
        (0, 1000, True),
        (0, 1001, False),
    ],
)
def test_a_retry_due_after_give_up_after_is_not_granted(age_ms: int, wait_ms: int, grant: bool) -> None:
    assert granted(Retry(give_up_after_ms=1000), 0, age_ms * MS, wait_ms * MS) is grant


def test_both_bounds_must_hold() -> None:
    both = Retry(max_attempts=2, give_up_after_ms=10)
    assert granted(both, 0, 0, 0)
    assert not granted(both, 1, 0, 0)
    assert not granted(both, 0, 11 * MS, 0)


@given(st.integers(0, 2**64), st.floats(0, 1e308), st.integers(0, 2**64), st.integers(0, 2**31))
def test_a_delay_is_within_its_bounds_whatever_is_asked(
    initial: int, multiplier: float, limit: int, attempt: int
) -> None:
    delay = delay_us(Retry(initial_delay_ms=initial, multiplier=multiplier, max_delay_ms=limit), attempt)
    assert 0 <= delay <= min(MAX_DELAY_US, limit * MS)
