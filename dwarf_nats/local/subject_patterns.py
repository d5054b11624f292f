"""Patterns of NATS subjects."""

from __future__ import annotations


def matches(pattern: str, subject: str) -> bool:
    """Tell whether a subject fits a pattern: `*` is one token, `>` at the end is one token or more."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(one in ("*", other) for one, other in zip(wanted, given, strict=True))
