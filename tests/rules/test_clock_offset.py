"""The offset of a shard's clock from the replica's (C2, C5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.rules.scheduling.clock_offset import ClockOffset

AHEAD = 5_000_000


def test_halfway_between_request_and_reply_is_the_first_guess() -> None:
    assert ClockOffset().measure(AHEAD + 1_500, 1_000, 2_000) == AHEAD


def test_a_slow_answer_changes_nothing() -> None:
    """Its half would make every step of the shard look 50 ms younger."""
    clock = ClockOffset()
    clock.measure(AHEAD + 1_100, 1_000, 1_200)
    assert clock.measure(AHEAD + 2_000, 2_000, 102_000) == AHEAD


def test_a_quicker_answer_is_better() -> None:
    clock = ClockOffset()
    clock.measure(AHEAD + 1_000, 1_000, 101_000)
    assert clock.measure(AHEAD + 200_010, 200_000, 200_020) == AHEAD


def test_a_clock_that_was_set_is_followed_at_once() -> None:
    clock = ClockOffset()
    clock.measure(AHEAD + 1_100, 1_000, 1_200)
    assert clock.measure(2_000, 1_000, 3_000) == 0


def test_clocks_that_drift_apart_are_measured_again() -> None:
    """After an hour an answer of 10 ms is better than one of 0.2 ms was."""
    clock = ClockOffset()
    clock.measure(AHEAD + 1_100, 1_000, 1_200)
    hour = 3_600_000_000
    assert clock.measure(AHEAD + 40_000 + hour, hour - 5_000, hour + 5_000) == AHEAD + 40_000


@given(st.integers(-(10**12), 10**12), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1))
def test_it_is_never_further_off_than_half_of_the_quickest_round_trip(ahead: int, trips: list[tuple[int, int]]) -> None:
    """Whatever part of a round trip was the way there and whatever the way back."""
    clock, now, quickest = ClockOffset(), 0, 2 * 10**6
    for there, back in trips:
        quickest = min(quickest, there + back)
        offset = clock.measure(now + there + ahead, now, now + there + back)
        now += there + back
        assert abs(offset - ahead) <= quickest / 2 + 1 + 1e-4 * now
