"""Texts for people: names cut in the middle, lengths of time, times, sizes and JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from dwarf_nats.render.labels import clip, span

__all__ = ["ago", "clip", "count", "error_text", "iso", "length", "pretty", "size", "to_json"]
_SIZES = ((1_000_000, "MB"), (1_000, "kB"))


def length(start: datetime | None, end: datetime | None) -> str:
    """The time between two moments, roughly: `3.1 s`; empty if one is not known."""
    if start is None or end is None:
        return ""
    return span(int((end - start).total_seconds() * 1_000_000))


def ago(moment: datetime | None, now: datetime) -> str:
    """`3 h 12 min ago`, `in 40.0 s`; empty if it is not known."""
    if moment is None:
        return ""
    return f"{length(moment, now)} ago" if moment <= now else f"in {length(now, moment)}"


def iso(moment: datetime | None) -> str:
    """RFC 3339 in UTC, for the attribute `datetime`, from which the reader's zone is shown."""
    return "" if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def size(characters: int) -> str:
    """`812 B`, `4.2 kB`."""
    for unit, name in _SIZES:
        if characters >= unit:
            return f"{characters / unit:.1f} {name}"
    return f"{characters} B"


def count(number: int, one: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def to_json(value: Any) -> str:
    """Compact JSON."""
    return msgspec.json.encode(value).decode()


def pretty(value: Any) -> str:
    """JSON in lines, two spaces a level."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def error_text(error: dict[str, Any] | None) -> str:
    """`card declined (402)`."""
    if not error:
        return ""
    message, code = str(error.get("message", "")) or "failed", error.get("code")
    return f"{message} ({code})" if code is not None else message
