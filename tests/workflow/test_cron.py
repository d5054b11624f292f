"""Due times of cron expressions over changes of the clock (R3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.cron import cron_times, described, time_zone


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def between(cron: str, zone: str, start: str, end: str) -> list[str]:
    """The due times after `start` and up to `end`, in UTC, as local times with their offsets."""
    times, found, now = cron_times(cron, zone), [], at(start)
    while (now := times.after(now) or at("9999-01-01")) <= at(end):
        found.append(datetime.fromtimestamp(now, UTC).astimezone(time_zone(zone)).strftime("%m-%d %H:%M%z"))
    return found


@pytest.mark.parametrize(
    ("cron", "zone", "start", "end", "expected"),
    [
        # 2026-03-29: 02:00 to 03:00 does not exist. It fires at the first time that does, once for all of the gap.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28", "2026-03-30T12:00",
         ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]),
        ("*/20 2 * * *", "Europe/Berlin", "2026-03-29", "2026-03-29T12:00", ["03-29 03:00+0200"]),
        ("30 2,3 * * *", "Europe/Berlin", "2026-03-29", "2026-03-29T12:00", ["03-29 03:00+0200", "03-29 03:30+0200"]),
        # 2026-10-25: 02:00 to 03:00 exists twice.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "2026-10-26T12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("0,30 2 * * *", "Europe/Berlin", "2026-10-25T00:10", "2026-10-25T12:00", ["10-25 02:30+0200"]),
        ("30 * * * *", "Europe/Berlin", "2026-10-24T23:40", "2026-10-25T02:40",
         ["10-25 02:30+0200", "10-25 02:30+0100", "10-25 03:30+0100"]),
        ("30 * * * *", "Europe/Berlin", "2026-03-29T00:00", "2026-03-29T02:40",
         ["03-29 01:30+0100", "03-29 03:30+0200", "03-29 04:30+0200"]),
        ("0 */2 * * *", "Europe/Berlin", "2026-03-28T22:30", "2026-03-29T03:00",
         ["03-29 00:00+0100", "03-29 03:00+0200", "03-29 04:00+0200"]),
        ("15 2 * * *", "America/New_York", "2026-03-08", "2026-03-09T12:00", ["03-08 03:00-0400", "03-09 02:15-0400"]),
        ("15 1 * * *", "America/New_York", "2026-11-01", "2026-11-02T12:00", ["11-01 01:15-0400", "11-02 01:15-0500"]),
        # Half an hour: 02:00 to 02:30 does not exist on 2026-10-04, 01:30 to 02:00 exists twice on 2026-04-05.
        ("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", "2026-10-04T20:00", ["10-04 02:30+1100", "10-05 02:10+1100"]),
        ("40 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", "2026-10-04T12:00", ["10-04 02:40+1100"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", "2026-04-05T16:00", ["04-05 01:45+1100", "04-06 01:45+1030"]),
        ("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00", "2026-04-04T16:20",
         ["04-05 01:45+1100", "04-05 01:45+1030", "04-05 02:45+1030"]),
        # 2011-12-30 never was.
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T00:00", "2011-12-31T00:00",
         ["12-29 09:00-1000", "12-31 00:00+1400", "12-31 09:00+1400"]),
        ("0 0 * * *", "Pacific/Apia", "2011-12-29T00:00", "2011-12-31T12:00",
         ["12-29 00:00-1000", "12-31 00:00+1400", "01-01 00:00+1400"]),
        ("0 12 30 * *", "Pacific/Apia", "2011-12-01T00:00", "2012-01-30T12:00", ["12-31 00:00+1400", "01-30 12:00+1400"]),
        # Midnight itself does not exist.
        ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00", "2018-11-05T03:00", ["11-04 01:00-0200", "11-05 00:00-0200"]),
        # Seconds first.
        ("30 0 3 * * *", "UTC", "2026-01-01", "2026-01-01T12:00", ["01-01 03:00+0000"]),
        ("@daily", "UTC", "2026-01-01T01:00", "2026-01-02T12:00", ["01-02 00:00+0000"]),
        ("0 0 L * *", "UTC", "2026-02-01", "2026-04-01", ["02-28 00:00+0000", "03-31 00:00+0000"]),
    ],
)  # fmt: skip
def test_what_a_change_of_the_clock_does(cron: str, zone: str, start: str, end: str, expected: list[str]) -> None:
    """R3: a local time fires once; one that does not exist at the first that does."""
    assert between(cron, zone, start, end) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Pacific/Apia", "UTC", "Asia/Kathmandu"])
@pytest.mark.parametrize("year", [2011, 2026])
def test_every_hour_of_the_year_fires(zone: str, year: int) -> None:
    """R3: `0 * * * *` follows the time that passes."""
    times, now, found = cron_times("0 * * * *", zone), at(f"{year}-01-01") - 1, []
    while (now := times.after(now) or 0) < at(f"{year + 1}-01-01"):
        found.append(now)
    assert len(found) == 8760
    assert {after - before for before, after in pairwise(found)} == {3600}


ZONES = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo"]
)
STARTS = st.integers(at("2011-01-01"), at("2019-12-31"))


@given(
    zone=ZONES,
    start=STARTS,
    cron=st.builds(
        "{} {} * * {}".format,
        st.sampled_from(["0", "30", "*/15", "59", "*"]),
        st.sampled_from(["*", "0", "2", "*/2", "1-3", "23"]),
        st.sampled_from(["*", "0", "1-5"]),
    ),
)
def test_due_times_are_what_a_walk_over_all_minutes_finds(zone: str, start: int, cron: str) -> None:
    """R3, by another way: which minutes are due is found minute by minute."""
    start -= start % 60
    end = start + 3 * 86400
    times, found, now = cron_times(cron, zone), [], start
    while (now := times.after(now) or end + 1) <= end:
        found.append(now)
    assert found == walked(cron, zone, start, end)


def walked(cron: str, zone: str, start: int, end: int) -> list[int]:
    minute, hour, _, _, day = cron.split()
    matches = [matcher(minute, 60), matcher(hour, 24), matcher(day, 7)]
    where, due, seen = time_zone(zone), [], set()
    local = (datetime.fromtimestamp(start - 2 * 86400, UTC)).astimezone(where).replace(tzinfo=None)
    before = local
    for instant in range(start - 2 * 86400 + 60, end + 1, 60):
        local = datetime.fromtimestamp(instant, UTC).astimezone(where).replace(tzinfo=None, fold=0)
        steps = [before + timedelta(minutes=n) for n in range(1, (local - before) // timedelta(minutes=1) + 1)]
        fits = [one for one in steps if all(fit(part) for fit, part in zip(matches, parts(one), strict=True))]
        if hour == "*":
            fires = all(fit(part) for fit, part in zip(matches, parts(local), strict=True))
        else:
            fires = bool([one for one in fits if one not in seen])
            seen.update(fits)
        before = local
        if fires and instant > start:
            due.append(instant)
    return due


def parts(local: datetime) -> tuple[int, int, int]:
    return local.minute, local.hour, local.isoweekday() % 7


def matcher(field: str, count: int) -> object:
    def values(part: str) -> set[int]:
        rest, _, step = part.partition("/")
        low, _, high = rest.partition("-")
        first, last = (0, count - 1) if rest == "*" else (int(low), int(high or low))
        return set(range(first, last + 1, int(step or 1)))

    return values(field).__contains__


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("61 * * * *", "the minute '61' is not understood: write 0 to 59"),
        ("0 25 * * *", "the hour '25'"),
        ("0 0 * FOO *", "the month 'FOO' is not understood: write 1 to 12 or JAN to DEC"),
        ("60 0 0 * * *", "the second '60'"),
        ("0 0 * * 9", "the day-of-week '9'"),
        ("* * * *", "has 4 fields: write five"),
        ("", "has 0 fields"),
        ("0 0 31 2 *", "31"),
        ("*/0 * * * *", "the minute '*/0'"),
        ("@fortnightly", "@daily"),
    ],
)
def test_a_bad_expression_names_the_field_and_the_remedy(cron: str, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        cron_times(cron, "UTC")
    assert message in refused.value.message


def test_an_unknown_zone_names_the_nearest() -> None:
    with pytest.raises(BadRequest, match="did you mean 'Europe/Berlin'"):
        time_zone("Europe/Berln")
    for name in ("", "/etc/passwd", "../x", "Nowhere/Land\0"):
        with pytest.raises(BadRequest):
            time_zone(name)


def test_an_expression_in_plain_words() -> None:
    assert described("0 3 * * 1-5") == "At 03:00 on Monday through Friday"
    assert described("@hourly") == "At the start of every hour"
