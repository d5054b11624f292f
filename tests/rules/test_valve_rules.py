"""The curve and the gate of a valve (V1-V3), against figures worked out by hand and by another formula."""

from __future__ import annotations

from decimal import Decimal, getcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.rules.valve import SECOND, Point, allowance, cut, merged, opens_at, rate, reaches

getcontext().prec = 40
NOW = 1_700_000_000 * SECOND
ws = st.floats(1, 1e6)
times = st.integers(0, 10**16)
points = st.builds(Point, ws, times)


def by_newton(w: float, elapsed_us: int) -> Decimal:
    """The same curve in decimal arithmetic, the cube root by Newton's method."""
    w_max = Decimal(w) / Decimal("0.99")
    cubed = w_max * Decimal("0.01") / Decimal("0.05")
    k = Decimal(max(1, round(float(cubed) ** (1 / 3))))
    for _ in range(60):
        k = (2 * k + cubed / (k * k)) / 3
    elapsed = Decimal(elapsed_us) / 1_000_000
    return max(Decimal(1), Decimal("0.05") * (elapsed - k) ** 3 + w_max)


@pytest.mark.parametrize(
    ("w", "elapsed", "expected"),
    [
        # w = 39.6: Wmax = 40, K = cbrt(40·0.01/0.05) = cbrt(8) = 2
        (39.6, 0, 39.6),
        (39.6, 1, 39.95),  # 0.05·(-1)³ + 40
        (39.6, 2, 40),
        (39.6, 3, 40.05),
        (39.6, 4, 40.4),
        (39.6, 12, 90),  # 0.05·10³ + 40
        (39.6, 102, 50_040),
        # w = 133.65: Wmax = 135, K = cbrt(27) = 3
        (133.65, 0, 133.65),
        (133.65, 1, 134.6),  # 0.05·(-8) + 135
        (133.65, 3, 135),
        (133.65, 5, 135.4),
        (133.65, 13, 185),
        # w = 4.95: Wmax = 5, K = 1
        (4.95, 0, 4.95),
        (4.95, 1, 5),
        (4.95, 3, 5.4),
        (4.95, 11, 55),
    ],
)
def test_the_rate_follows_the_curve_from_the_cut_on(w: float, elapsed: float, expected: float) -> None:
    """V2, by hand."""
    assert rate(Point(w, NOW), NOW + round(elapsed * SECOND)) == pytest.approx(expected, abs=1e-9)


@given(ws, st.integers(0, 10**10))
def test_the_rate_agrees_with_the_formula_in_other_words(w: float, elapsed: int) -> None:
    assert rate(Point(w, NOW), NOW + elapsed) == pytest.approx(float(by_newton(w, elapsed)), rel=1e-9)


@given(points, times, times)
def test_the_rate_never_falls_between_signals_nor_below_one(point: Point, one: int, two: int) -> None:
    early, late = sorted((one, two))
    assert 1.0 <= rate(point, early) <= rate(point, late) * (1 + 1e-12)


@given(points, st.integers(0, 10**12))
def test_before_its_cut_a_point_of_a_fast_clock_allows_what_it_was_cut_to(point: Point, ahead: int) -> None:
    assert rate(point, point.t - ahead) == rate(point, point.t) == pytest.approx(point.w)


@pytest.mark.parametrize(
    ("point", "emitted", "later", "w"),
    [
        (None, 500, 0, 499.0),  # the first signal ever
        (None, 1, 0, 1.0),
        (None, 0, 0, 1.0),
        (Point(50.0, NOW), 80, 0.2, 49.0),  # one of a burst
        (Point(50.0, NOW), 80, 0.999_999, 49.0),
        (Point(50.0, NOW), 80, 1, 79.0),  # after a quiet second
        (Point(50.0, NOW), 20, 60, 49.0),  # lifted, never lowered
        (Point(1.5, NOW), 0, 0.1, 1.0),
        (Point(1.0, NOW), 0, 0.1, 1.0),
    ],
)
def test_a_signal_takes_one_off_and_the_first_after_a_quiet_second_lifts(
    point: Point | None, emitted: int, later: float, w: float
) -> None:
    """V1."""
    now = NOW + round(later * SECOND)
    assert cut(point, emitted, now) == Point(w, now)


@given(st.none() | points, st.integers(0, 10**6), times)
def test_a_cut_is_never_below_one_and_just_under_what_it_was(point: Point | None, emitted: int, now: int) -> None:
    after = cut(point, emitted, now)
    before = point.w if point is not None else 0.0
    assert after.t == now
    assert 1.0 <= after.w <= max(1.0, max(before, float(emitted)) - 1)
    assert after.w >= before - 1


@pytest.mark.parametrize(
    ("own", "told", "wins"),
    [
        (None, Point(5, 1), Point(5, 1)),
        (Point(5, 1), Point(9, 2), Point(9, 2)),
        (Point(5, 2), Point(3, 1), Point(5, 2)),
        (Point(5, 2), Point(3, 2), Point(3, 2)),
        (Point(3, 2), Point(5, 2), Point(3, 2)),
    ],
)
def test_the_latest_point_wins_and_the_smaller_on_a_tie(own: Point | None, told: Point, wins: Point) -> None:
    """V3."""
    assert merged(own, told) == wins


@given(
    st.lists(points, min_size=1, max_size=5).flatmap(lambda heard: st.tuples(st.just(heard), st.permutations(heard)))
)
def test_in_whatever_order_and_however_often_points_are_heard_all_end_at_the_same(
    heard: tuple[list[Point], list[Point]],
) -> None:
    ends = []
    for order in heard:
        own: Point | None = None
        for told in [*order, *order]:
            own = merged(own, told)
        ends.append(own)
    assert ends[0] == ends[1]


@given(points, st.floats(0, 1e7))
def test_a_rate_is_reached_when_it_says_and_not_before(point: Point, wanted: float) -> None:
    at = reaches(point, wanted)
    assert at >= point.t
    assert rate(point, at) >= min(wanted, rate(point, at))
    if at > point.t + 2000:
        assert rate(point, at - 2000) < wanted
    assert rate(point, at) >= wanted


def test_the_allowance_is_what_the_rate_leaves_of_the_last_second() -> None:
    point = Point(10.0, NOW)
    assert [allowance(point, emitted, NOW) for emitted in (0, 3, 9, 10, 500)] == [10, 7, 1, 0, 0]
    assert allowance(Point(1.0, NOW), 0, NOW) == 1
    assert allowance(Point(10.9, NOW), 10, NOW) == 0


@pytest.mark.parametrize(
    ("w", "stamps", "at"),
    [
        (10.0, [], 0),
        (2.0, [0, 400_000], 1_000_000),  # the first of two is a second old
        (2.0, [0, 100, 400_000], 1_000_100),  # two must go
        (1.0, [700_000], 1_700_000),
        (1.0, [1, 2, 3], 1_000_003),
    ],
)
def test_a_shut_gate_opens_when_enough_operations_are_a_second_old(w: float, stamps: list[int], at: int) -> None:
    """V2: by then the rate has not grown by a whole operation."""
    stamps = [NOW + stamp for stamp in stamps]
    now = stamps[-1] if stamps else NOW
    assert opens_at(Point(w, NOW), stamps, now) == NOW + at


def test_a_gate_opens_earlier_if_the_rate_grows_first() -> None:
    """39.6 is cut to at 0: 40 is reached after 2 s, 41 after 2 + cbrt(20) s."""
    point = Point(39.6, NOW)
    now = NOW + 1_990_000
    assert opens_at(point, [now - 500_000] * 39, now) == NOW + 2 * SECOND
    assert opens_at(point, [now - 500_000] * 40, now) == now + 500_000


@given(st.floats(1, 60), st.lists(st.integers(0, SECOND - 1), max_size=120), st.integers(0, 30 * SECOND))
def test_a_gate_opens_at_the_first_moment_that_allows_one_more(w: float, ages: list[int], elapsed: int) -> None:
    point, now = Point(w, NOW), NOW + elapsed
    stamps = sorted(now - age for age in ages)

    def allowed(at: int) -> bool:
        return allowance(point, sum(stamp + SECOND > at for stamp in stamps), at) > 0

    at = opens_at(point, stamps, now)
    assert allowed(at)
    moments = {now, *(stamp + SECOND for stamp in stamps if now < stamp + SECOND < at)}
    assert at == now or not any(allowed(moment) for moment in moments)
    assert at <= now + 2000 or not allowed(at - 2000)


@given(st.floats(1, 50), st.lists(st.integers(0, 200_000), min_size=50, max_size=400))
def test_no_second_sees_more_operations_than_the_rate_at_its_end(w: float, pauses: list[int]) -> None:
    """V2: the window slides."""
    point, now = Point(w, NOW), NOW
    sent: list[int] = []
    for pause in pauses:
        now += pause
        recent = [stamp for stamp in sent if stamp + SECOND > now]
        if allowance(point, len(recent), now) > 0:
            sent.append(now)
    for stamp in sent:
        assert sum(stamp - SECOND < other <= stamp for other in sent) <= rate(point, stamp)
