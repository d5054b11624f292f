"""Functions of conditions that this package carries out itself: regular expressions within a bound, and time zones.

The library compiles a regular expression each time it is used, and a short one may take a tenth of a second (`\\pL` a
hundred times, `(a?){999}`). It reads time zones from files of the system, by whatever name it is given. So conditions are
rewritten: `matches(` becomes `matches_(`, and an accessor with a zone, such as `getHours(`, becomes `getHours_(`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from dwarf_nats.workflow.condition_library import library

if TYPE_CHECKING:
    from cel_expr_python import cel

PATTERN_BUDGET = 1_000_000
"""The budget of one evaluation, about 25 ns each: characters times the width of the pattern, and the cost of compiling it."""
MAX_PATTERN = 250_000
"""The part of it that compiling one pattern may take."""
_CALL = 600  # each use, however small

_ACCESSORS: dict[str, Callable[[datetime], int]] = {
    "getDate": lambda t: t.day,
    "getDayOfMonth": lambda t: t.day - 1,
    "getDayOfWeek": lambda t: t.isoweekday() % 7,
    "getDayOfYear": lambda t: t.timetuple().tm_yday - 1,
    "getFullYear": lambda t: t.year,
    "getHours": lambda t: t.hour,
    "getMilliseconds": lambda t: t.microsecond // 1000,
    "getMinutes": lambda t: t.minute,
    "getMonth": lambda t: t.month - 1,
    "getSeconds": lambda t: t.second,
}
ACCESSORS = frozenset(_ACCESSORS)
_OFFSET = re.compile(r"([+-]?)(\d\d):(\d\d)")
_COUNT = re.compile(r"\{(\d{1,6})(?:(,)(\d{1,6})?)?\}")
_PROPERTY = 2_000  # a Unicode class, to compile
_WIDE = 12  # whatever takes in characters beyond ASCII: `.`, `[^a]`, `\D`


class _Spent(threading.local):
    amount = 0


_spent = _Spent()


@cache
def _matching() -> cel.Expression:
    """The expression by which the library matches a text with a pattern."""
    cel = library()
    return cel.NewEnv(variables={"text": cel.Type.STRING, "pattern": cel.Type.STRING}).compile("text.matches(pattern)")


def begin() -> None:
    """Start the budget of one evaluation."""
    _spent.amount = 0


def patterns_problem(patterns: set[str]) -> str:
    """Say what is wrong with the regular expressions of a condition; empty if all are valid and not too large together."""
    begin()
    for pattern in sorted(patterns):
        if _compiling(pattern) > MAX_PATTERN:
            return _too_large(pattern)
        try:
            _matches("", pattern)
        except ValueError as error:
            return str(error)
    return ""


def zone_problem(zone: str) -> str:
    """Say what is wrong with the name of a time zone; empty for a known one."""
    try:
        _zone(zone)
    except ValueError as error:
        return str(error)
    return ""


def _too_large(pattern: str) -> str:
    return f"the regular expression {pattern[:40]!r} takes too long to compile: count less in it, or let a task do it"


def _matches(text: str, pattern: str) -> bool:
    compiling, width = _measure(pattern)
    if compiling > MAX_PATTERN:
        raise ValueError(_too_large(pattern))
    _spent.amount += _CALL + compiling + len(text) * width
    if _spent.amount > PATTERN_BUDGET:
        raise ValueError("its regular expressions take too long (on texts of this size): let a task do it")
    found = _matching().eval(data={"text": text, "pattern": pattern}).value()
    if not isinstance(found, bool):
        raise ValueError(str(found).removeprefix("INVALID_ARGUMENT: "))
    return found


def _compiling(pattern: str) -> int:
    return _measure(pattern)[0]


@lru_cache(maxsize=256)
def _short_measure(pattern: str) -> tuple[int, int]:
    return _measured(pattern)


def _measure(pattern: str) -> tuple[int, int]:
    if len(pattern) > MAX_PATTERN // 20:
        return MAX_PATTERN + 1, 1
    return _short_measure(pattern) if len(pattern) <= 256 else _measured(pattern)


def _measured(pattern: str) -> tuple[int, int]:
    """The cost of compiling a pattern, and its width: the positions a match may be at, at the same time. Both are bounds."""
    groups: list[list[tuple[int, int]]] = [[]]
    folds = 3 if re.search(r"\(\?[a-zA-Z]*i", pattern) else 1
    at = 0
    while at < len(pattern):
        char = pattern[at]
        here = groups[-1]
        count = _COUNT.match(pattern, at) if char == "{" else None
        if count is not None:
            least, most = int(count[1]), int(count[3]) if count[3] else int(count[1]) + bool(count[2])
            if here:
                compiling, width = here[-1]
                times = max(least, most, 1)
                here[-1] = (min(compiling * times, 10**9), min(width * times, 10**9))
            at = count.end()
            continue
        if char == "(":
            groups.append([])
            at += 1
            if pattern.startswith("?", at):
                at = _after_flags(pattern, at)
            continue
        if char == ")":
            if len(groups) > 1:
                inner = groups.pop()
                groups[-1].append((2 + sum(one for one, _ in inner), 1 + sum(one for _, one in inner)))
            at += 1
            continue
        one, at = _atom(pattern, at)
        here.append((one * folds, 1))
    while len(groups) > 1:
        inner = groups.pop()
        groups[-1].append((sum(one for one, _ in inner), sum(one for _, one in inner)))
    return 20 * sum(one for one, _ in groups[0]), 1 + sum(one for _, one in groups[0])


def _after_flags(pattern: str, at: int) -> int:
    """Past `?:`, `?i:` or `?P<name>`; a group of flags alone ends before its bracket."""
    while at < len(pattern) and pattern[at] not in ":>)":
        at += 1
    return at + 1 if at < len(pattern) and pattern[at] != ")" else at


def _atom(pattern: str, at: int) -> tuple[int, int]:
    """The cost of compiling one element, and the place where the next begins."""
    char = pattern[at]
    if char == "\\":
        return _escape(pattern, at)
    if char == ".":
        return _WIDE, at + 1
    if char != "[":
        return (1 if char.isascii() else 3), at + 1
    cost = _WIDE if pattern.startswith("^", at + 1) else 1
    at += 1 + pattern.startswith("^", at + 1)
    at += pattern.startswith("]", at)  # the first one is a member
    while at < len(pattern) and pattern[at] != "]":
        if pattern.startswith("[:", at) and ":]" in pattern[at:]:
            at, cost = pattern.index(":]", at) + 2, cost + _WIDE
        elif pattern[at] == "\\":
            one, at = _escape(pattern, at)
            cost += one
        else:
            cost += 1 if pattern[at].isascii() else _WIDE
            at += 1
    return cost, at + 1


def _escape(pattern: str, at: int) -> tuple[int, int]:
    after = pattern[at + 1 : at + 2]
    if after in ("p", "P"):
        end = pattern.find("}", at) if pattern.startswith("{", at + 2) else at + 2
        return _PROPERTY, (end if end > 0 else len(pattern)) + 1
    if after == "x" and pattern.startswith("{", at + 2):
        end = pattern.find("}", at)
        return _WIDE, (end if end > 0 else len(pattern)) + 1
    return (_WIDE if after in tuple("DSWCX") else 5 if after in tuple("dsw") else 1), at + 2


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """Names of all zones: one that is none must not cost a search of the disk, nor one that is a path be opened."""
    return frozenset((files("tzdata") / "zones").read_text("utf-8").split())


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    offset = _OFFSET.fullmatch(name)
    if offset is not None and int(offset[2]) < 24 and int(offset[3]) < 60:
        delta = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return timezone(-delta if offset[1] == "-" else delta)
    if name in _zones():
        return ZoneInfo(name)
    raise ValueError(
        f"there is no time zone {name[:80]!r}: use a name such as 'Europe/Berlin', or an offset such as '+02:00'"
    )


def _accessor(name: str) -> cel.FunctionDecl:
    read = _ACCESSORS[name]

    def within(time: datetime, zone: str) -> int:
        try:
            there = time.replace(tzinfo=time.tzinfo or UTC).astimezone(_zone(zone))
        except OverflowError:
            raise ValueError("the time is out of range in this time zone") from None
        return int(read(there))

    cel = library()
    overload = cel.Overload(
        f"{name}_zone",
        return_type=cel.Type.INT,
        parameters=[cel.Type.TIMESTAMP, cel.Type.STRING],
        is_member=True,
        impl=within,
    )
    return cel.FunctionDecl(name + "_", [overload])


def declarations() -> list[cel.FunctionDecl]:
    """`matches_`, and the accessors with a zone."""
    cel = library()
    overloads = [
        cel.Overload(
            f"matches_{'method' if member else 'function'}",
            return_type=cel.Type.BOOL,
            parameters=[cel.Type.STRING, cel.Type.STRING],
            is_member=member,
            impl=_matches,
        )
        for member in (True, False)
    ]
    return [cel.FunctionDecl("matches_", overloads), *map(_accessor, sorted(ACCESSORS))]
