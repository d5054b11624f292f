"""The due times of a cron expression in a time zone (R3).

`cronsim` reads the expression and finds the next local time that matches; here that becomes an instant. Two rules say what a
change of the clock does:

- If the hours name a time of day, each local time fires once: one that does not exist at the first instant after the gap, one
  that exists twice at the first of both.
- If every hour matches, the expression follows the time that passes: each instant whose local time matches fires, so that
  `0 * * * *` fires every hour of the year.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from cronsim import CronSim, CronSimError

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import closest

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
_ALLOWED = {
    "second": "0 to 59",
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L for the last day, LW for the last weekday",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 (0 and 7 are Sunday) or SUN to SAT, 5L for the last Friday, 1#2 for the second Monday",
}
_MAX_CHARACTERS = 256
_EPOCH = datetime(1970, 1, 1)
_FIRST = datetime(2000, 1, 1)
_SECOND = timedelta(seconds=1)
_LONGEST_SHIFT = 3 * 3600
"""Seconds by which a clock is set back at most, in any zone since 1970."""


def time_zone(name: str) -> tzinfo:
    """Return the time zone of an IANA name such as `Europe/Berlin`. Raises `BadRequest` that names the nearest one."""
    if name in ("UTC", "Etc/UTC"):
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = closest(name, sorted(zoneinfo.available_timezones()))
        hint = near if near.startswith("did you mean") else "write a name such as Europe/Berlin or UTC"
        raise BadRequest(f"there is no time zone {name[:80]!r}: {hint}") from None


def five_or_six_fields(text: str) -> str:
    """Return a cron text with its nickname, such as `@daily`, written out."""
    return NICKNAMES.get(text.strip().lower(), text)


def _parsed(text: str) -> CronSim:
    if len(text) > _MAX_CHARACTERS:
        raise BadRequest(f"it is longer than {_MAX_CHARACTERS} characters")
    written = five_or_six_fields(text)
    parts = written.split()
    if len(parts) not in (5, 6):
        known = ", ".join(NICKNAMES)
        raise BadRequest(
            f"{text!r} has {len(parts)} fields: write five (minute, hour, day of month, month, day of week), six with the"
            f" second first, or one of {known}"
        )
    try:
        return CronSim(written, _FIRST)
    except (CronSimError, ValueError, IndexError, AssertionError) as error:
        raise BadRequest(_problem(text, parts, str(error))) from None


def _problem(text: str, parts: list[str], found: str) -> str:
    """Say which field of an expression is wrong, and what may stand there."""
    name = found.removeprefix("Bad ")
    fields = _FIELDS[-len(parts) :]
    if name not in fields:
        return f"{text!r} is no cron expression: write it like 0 3 * * *"
    part = parts[fields.index(name)]
    return (
        f"{text!r}: the {name} {part!r} is not understood: write {_ALLOWED[name]}, * for any, lists (1,15), ranges (1-5)"
        " and steps (*/10)"
    )


def described(text: str) -> str:
    """Return a cron text in plain words: `At 03:00 every day`. Raises `BadRequest`."""
    return _parsed(text).explain()


@lru_cache(maxsize=4096)
def cron_times(text: str, zone: str) -> CronTimes:
    """Return the due times of an expression in a zone. Raises `BadRequest` that says what is wrong and what to write."""
    return CronTimes(text, zone)


class CronTimes:
    """Finds due times, in seconds since the epoch. Raises `BadRequest` for what is no expression or never comes."""

    def __init__(self, text: str, zone: str) -> None:
        self._sim = _parsed(text)
        self._zone = time_zone(zone)
        self.follows_time = len(self._sim.hours) == 24
        """Every hour matches."""
        if self._next_local(_FIRST) is None:
            raise BadRequest(f"{text!r} never comes: no month has such a day")

    def after(self, at: int) -> int | None:
        """Return the first due time after `at`; `None` if there is none before the year 9999."""
        try:
            return self._after_passing(at) if self.follows_time else self._after_fixed(at)
        except (OverflowError, ValueError):
            return None

    def _after_fixed(self, at: int) -> int | None:
        local: datetime | None = self._local(at)
        while local is not None and (local := self._next_local(local)) is not None:
            instant = self._first_instant(local)
            if instant > at:  # else the second of two equal local times
                return instant
        return None

    def _after_passing(self, at: int) -> int | None:
        found = [one for one in (self._forward(at), self._repeated(at)) if one is not None]
        return min(found, default=None)

    def _forward(self, at: int) -> int | None:
        """Return the next instant that matches if the clock is not set back before it."""
        local: datetime | None = self._local(at)
        while local is not None and (local := self._next_local(local)) is not None:
            instants = [one for one in (self._instant(local, 0), self._instant(local, 1)) if self._local(one) == local]
            if not instants:
                local = self._local(self._first_instant(local)) - _SECOND  # past the gap
            elif later := [one for one in instants if one > at]:
                return min(later)
        return None

    def _repeated(self, at: int) -> int | None:
        """Return the first instant that matches after the clock is set back, if that happens soon."""
        end = at + _LONGEST_SHIFT
        if self._offset(end) >= self._offset(at):
            return None
        set_back = self._change(at, end)
        local = self._next_local(self._local(set_back) - _SECOND)
        return None if local is None else self._instant(local, 1)

    # -- local times and instants

    def _next_local(self, local: datetime) -> datetime | None:
        self._sim.dt = local
        return next(self._sim, None)

    def _local(self, at: int) -> datetime:
        when = _EPOCH.replace(tzinfo=UTC) + timedelta(seconds=at)
        return when.astimezone(self._zone).replace(tzinfo=None, fold=0)

    def _instant(self, local: datetime, fold: int) -> int:
        offset = local.replace(tzinfo=self._zone, fold=fold).utcoffset() or timedelta()
        return (local - _EPOCH - offset) // _SECOND

    def _offset(self, at: int) -> timedelta:
        return self._local(at) - _EPOCH - timedelta(seconds=at)

    def _first_instant(self, local: datetime) -> int:
        """Return the first instant of a local time; of one that does not exist, the first after the gap."""
        instant = self._instant(local, 0)
        return instant if self._local(instant) == local else self._change(self._instant(local, 1), instant)

    def _change(self, before: int, after: int) -> int:
        """Return the first instant with another offset than `before`; `after` has it."""
        offset: Callable[[int], timedelta] = self._offset
        old = offset(before)
        while after - before > 1:
            middle = (before + after) // 2
            if offset(middle) == old:
                before = middle
            else:
                after = middle
        return after
