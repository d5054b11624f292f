"""The breaker as a table, and its probe schedule (V4-V6)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.rules.breaker import CHANGES, CLOSED, Breaker, Deed, Event, after, delay_us

MS = 1000
NOW = 1_700_000_000_000_000
SCHEDULE_MS = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000, 60_000]
TRIPPED = Breaker(True, NOW, "unavailable", 0, NOW + 100 * MS)

EXPECTED = {
    # (before, event): (tripped after, deeds)
    (CLOSED, Event.SIGNAL): (True, {Deed.PARK, Deed.TELL}),
    (CLOSED, Event.TOLD): (True, set()),
    (CLOSED, Event.FOUND): (True, set()),
    (CLOSED, Event.RELEASED): (False, set()),
    (CLOSED, Event.PROBED): (False, set()),
    (CLOSED, Event.SERVED): (False, {Deed.RELEASE}),
    (TRIPPED, Event.SIGNAL): (True, set()),
    (TRIPPED, Event.TOLD): (True, set()),
    (TRIPPED, Event.FOUND): (True, set()),
    (TRIPPED, Event.RELEASED): (False, set()),
    (TRIPPED, Event.PROBED): (True, set()),
    (TRIPPED, Event.SERVED): (False, {Deed.RELEASE}),
}


@pytest.mark.parametrize(("before", "event"), list(itertools.product([CLOSED, TRIPPED], Event)))
def test_every_event_does_what_the_contract_says(before: Breaker, event: Event) -> None:
    breaker, deeds = after(before, event, NOW + 1, "overloaded")
    assert (breaker.tripped, set(deeds)) == EXPECTED[before, event]
    if not breaker.tripped:
        assert breaker == CLOSED
    if before is TRIPPED and breaker.tripped:  # a probe that is not due advances nothing either
        assert breaker == TRIPPED


def test_the_table_is_complete() -> None:
    assert set(CHANGES) == set(itertools.product([False, True], Event))


def test_the_first_signal_trips_and_says_why() -> None:
    breaker, _ = after(CLOSED, Event.SIGNAL, NOW, "no_responders")
    assert breaker == Breaker(True, NOW, "no_responders", 0, NOW + 100 * MS)


def test_probes_go_out_after_100_ms_and_then_ever_later_up_to_a_minute() -> None:
    """V4."""
    assert [delay_us(probes) // MS for probes in range(len(SCHEDULE_MS))] == SCHEDULE_MS
    assert delay_us(10**9) == 60_000 * MS
    breaker, now = after(CLOSED, Event.SIGNAL, NOW, "x")[0], NOW
    for probes, wait in enumerate(SCHEDULE_MS):
        assert not breaker.due(now + wait * MS - 1)
        now += wait * MS
        assert breaker.due(now)
        assert breaker.probes == probes
        breaker, _ = after(breaker, Event.PROBED, now)


def test_a_probe_that_goes_out_late_moves_the_next_one_with_it() -> None:
    late = NOW + 5000 * MS
    breaker, _ = after(TRIPPED, Event.PROBED, late)
    assert (breaker.probes, breaker.probe_at, breaker.since) == (1, late + 200 * MS, NOW)


def test_a_clock_that_was_set_back_by_an_hour_does_not_hold_probes_for_an_hour() -> None:
    assert TRIPPED.due(NOW - 3_600_000 * MS)
    assert not TRIPPED.due(NOW - 50_000 * MS)


def test_a_breaker_that_nothing_came_to_for_a_minute_is_pointless() -> None:
    assert not TRIPPED.pointless(NOW + 60_099 * MS)
    assert TRIPPED.pointless(NOW + 60_100 * MS)
    assert not CLOSED.pointless(NOW)


def test_late_failures_do_not_move_the_schedule() -> None:
    """V4: however many arrive, and whenever."""
    breaker = TRIPPED
    for n in range(1000):
        breaker, deeds = after(breaker, Event.SIGNAL, NOW + n * MS, "overloaded")
        assert (breaker, deeds) == (TRIPPED, ())


@given(st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 10**8)), max_size=60))
def test_whatever_happens_a_tripped_breaker_has_a_probe_within_its_delay(heard: list[tuple[Event, int]]) -> None:
    breaker, now = CLOSED, NOW
    for event, pause in heard:
        now += pause
        before = breaker
        breaker, deeds = after(breaker, event, now, "x")
        if breaker.tripped:
            assert breaker.probe_at <= now + delay_us(breaker.probes)
            assert breaker.since <= now
        else:
            assert breaker == CLOSED
        assert (Deed.RELEASE in deeds) is (event is Event.SERVED)
        assert (Deed.TELL in deeds) is (event is Event.SIGNAL and not before.tripped)
        if before.tripped and breaker.tripped and breaker != before:
            assert event is Event.PROBED
            assert before.due(now)
            assert breaker.probes == before.probes + 1
