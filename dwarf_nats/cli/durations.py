"""Durations on the command line: `250ms`, `30s`, `1h30m`, `30d`.

Each option whose name ends in `-ms` takes a number of milliseconds or a duration with units. The same option without that
ending takes a duration with units only: a bare number there would leave open what it counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import typer

UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
"""Milliseconds of each unit, the longest first."""
LONGEST_MS = 2**63 // 1000 - 1
"""Longest duration, in milliseconds: databases count microseconds in 64 bits."""
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[wdhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
HOW = "write it like 250ms, 30s, 1h30m or 30d"


def parse_ms(text: str) -> int:
    """The milliseconds of a duration: a whole number, or parts with units, each unit at most once, the longest first.

    Raises `ValueError` with what is wrong and how to write it.
    """
    text = text.strip()
    if re.fullmatch(r"-?[0-9]+", text):
        milliseconds = Decimal(text)
    elif not _WHOLE.fullmatch(text.lower()):
        raise ValueError(f"{text[:40]!r} is not a duration: {HOW}")
    else:
        milliseconds, order = Decimal(0), list(UNITS_MS)
        for number, unit in _PART.findall(text.lower()):
            if unit not in order:
                raise ValueError(f"{text[:40]!r} has its units twice or out of order: {HOW}")
            order = order[order.index(unit) + 1 :]
            milliseconds += Decimal(number) * UNITS_MS[unit]
    if milliseconds > LONGEST_MS:
        raise ValueError(f"{text[:40]!r} is too long: at most {LONGEST_MS // UNITS_MS['d']}d")
    try:
        if milliseconds != milliseconds.to_integral_value():
            raise ValueError(f"{text[:40]!r} is not a whole number of milliseconds")
    except InvalidOperation:
        raise ValueError(f"{text[:40]!r} is not a duration: {HOW}") from None
    return int(milliseconds)


def option_parser(least: float | None, most: float | None) -> Callable[[str | int], int]:
    """A parser for an option in milliseconds, within bounds. It raises `typer.BadParameter`."""

    def parse(value: str | int) -> int:
        try:
            milliseconds = parse_ms(str(value))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        if least is not None and milliseconds < least:
            raise typer.BadParameter(f"{value} is too short: at least {show_ms(int(least))}")
        if most is not None and milliseconds > most:
            raise typer.BadParameter(f"{value} is too long: at most {show_ms(int(most))}")
        return milliseconds

    return parse


def show_ms(milliseconds: int) -> str:
    """A duration as it may be typed: `1h30m`."""
    parts, rest = [], milliseconds
    for unit, size in UNITS_MS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0ms"


def needs_unit(arguments: list[str], options: frozenset[str]) -> str | None:
    """The first of these options that is given a bare number among `arguments`."""
    for at, argument in enumerate(arguments):
        if argument == "--":
            return None
        name, equals, value = argument.partition("=")
        if name in options:
            given = value if equals else arguments[at + 1] if at + 1 < len(arguments) else ""
            if given.isdigit() and int(given):
                return name
    return None
