"""Valves by themselves, on a clock that is moved by hand (V1-V3)."""

from __future__ import annotations

import math

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.engine.backpressure.rate_limits import WIDE_OPEN_RATE, Valves
from dwarf_nats.rules.valve import Point, rate


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000_000_000)


@pytest.fixture
def valves(clock: ManualClock) -> Valves:
    return Valves(clock)


def sent(valves: Valves, count: int, url: str = "t") -> int:
    return sum(valves.admits(url) for _ in range(count))


def test_a_task_that_never_said_that_it_is_busy_gets_all_there_is(valves: Valves) -> None:
    assert sent(valves, 5_000) == 5_000
    assert valves.task_budgets() == {}


def test_the_first_signal_lifts_to_what_was_emitted_and_each_takes_one_off(valves: Valves, clock: ManualClock) -> None:
    """V1."""
    sent(valves, 100)
    assert [valves.signal("t").w for _ in range(5)] == [99, 98, 97, 96, 95]
    assert valves.counters.cuts == {("t",): 5}
    clock.advance(0.5)
    assert valves.signal("t").w == 94
    clock.advance(1)
    assert valves.signal("t").w == 93  # quiet, but nothing was emitted meanwhile
    clock.advance(1)
    count = sent(valves, 5_000)
    assert count == 93  # C(1-K)^3 + Wmax is 93.2 by now
    assert valves.signal("t").w == 92


def test_no_more_go_out_in_any_second_than_the_rate_allows(valves: Valves, clock: ManualClock) -> None:
    """V2: and no task stands in for another."""
    sent(valves, 10)
    valves.signal("t")
    assert not valves.admits("t")
    assert valves.task_budgets() == {"t": 0}
    assert valves.opens_at(["t"]) == clock.now() + 1_000_000
    assert valves.opens_at(["t", "other"]) == clock.now()
    assert valves.opens_at([]) is None
    assert valves.admits("other")
    clock.advance(1)
    assert valves.opens_at(["t"]) == clock.now()
    assert valves.task_budgets() == {"t": 9}
    assert sent(valves, 100) == 9
    clock.advance(0.4)
    assert sent(valves, 100) == 0
    clock.advance(0.6)
    assert sent(valves, 100) == 9


def test_a_valve_without_signals_opens_wide(valves: Valves, clock: ManualClock) -> None:
    sent(valves, 10)
    valves.signal("t")
    clock.advance(60)
    assert 9 < sent(valves, 100_000) < WIDE_OPEN_RATE
    clock.advance(120)
    assert valves.task_budgets() == {}
    assert valves.rates() == {}
    assert valves.signal("t").w == 8  # it is remembered all the same


def test_what_another_replica_tells_counts_if_it_is_later(valves: Valves, clock: ManualClock) -> None:
    """V3."""
    now = clock.now()
    valves.merge_peer("t", 5.0, now - 10)
    assert valves.rates() == {"t": pytest.approx(5.0)}
    assert sent(valves, 100) == 5
    valves.merge_peer("t", 50.0, now - 20)
    assert valves.rates() == {"t": pytest.approx(5.0)}
    valves.merge_peer("t", 3.0, now - 10)
    assert valves.rates() == {"t": pytest.approx(3.0)}
    valves.merge_peer("t", 7.0, now)
    assert valves.rates() == {"t": pytest.approx(7.0)}
    assert valves.signal("t").w == 6


def test_a_replica_with_a_fast_clock_does_not_hold_the_valve_for_ever(valves: Valves, clock: ManualClock) -> None:
    now = clock.now()
    valves.merge_peer("t", 5.0, now + 3_600_000_000)
    assert valves.rates() == {"t": pytest.approx(5.0)}
    clock.advance(30)
    assert valves.rates()["t"] == pytest.approx(rate(Point(5.0, now), clock.now()))
    valves.merge_peer("t", 4.0, clock.now())
    assert valves.rates() == {"t": pytest.approx(4.0)}


@pytest.mark.parametrize(("w", "counts"), [(0.0, 1), (-5.0, 1), (1e300, None), (math.nan, None), (math.inf, None)])
def test_a_point_that_makes_no_sense_does_no_harm(
    valves: Valves, clock: ManualClock, w: float, counts: int | None
) -> None:
    valves.merge_peer("t", w, clock.now())
    assert sent(valves, 1_000) == (counts or 1_000)


def test_a_clock_that_is_set_back_shuts_nothing(valves: Valves, clock: ManualClock) -> None:
    sent(valves, 10)
    valves.signal("t")
    clock.advance(-3_600)
    assert sent(valves, 100) == 9
    assert valves.signal("t") == Point(8.0, clock.now())


def test_what_says_nothing_any_more_is_forgotten(
    valves: Valves, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwarf_nats.engine.backpressure.rate_limits.MAX_POINTS", 10)
    for n in range(20):
        sent(valves, 3, f"t{n}")
        valves.signal(f"t{n}")
    clock.advance(600)
    valves.merge_peer("late", 4.0, clock.now())
    valves.admits("late")
    valves.forget()
    assert valves._points.keys() == {"late"}
    assert valves._sent.keys() == {"late"}
