"""Times: integer microseconds since the epoch in the process, RFC 3339 in UTC on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LENGTH = len("2026-01-31T12:00:00.000001Z")


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=4096)  # the times of a flow are written with each of its steps
def rfc3339(micros: int) -> str:
    """Format microseconds since the epoch as `2026-01-31T12:00:00.000001Z`."""
    seconds, fraction = divmod(micros, 1_000_000)
    return f"{_second(seconds)}.{fraction:06d}Z"


def to_micros(when: datetime) -> int:
    """Convert a datetime with a time zone to microseconds since the epoch."""
    return (when - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Convert microseconds since the epoch to a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


@lru_cache(maxsize=1024)
def _micros_of_second(text: str) -> int:
    return to_micros(datetime.fromisoformat(f"{text}+00:00"))


def micros(text: str) -> int:
    """Convert a time on the wire to microseconds since the epoch; one without a zone is UTC. Raises `ValueError`."""
    fraction = text[20:26]
    if len(text) == _LENGTH and text[19] == "." and text[26] == "Z" and fraction.isdigit() and fraction.isascii():
        return _micros_of_second(text[:19]) + int(fraction)  # as `rfc3339` writes it
    when = datetime.fromisoformat(text)
    return to_micros(when if when.tzinfo is not None else when.replace(tzinfo=UTC))
