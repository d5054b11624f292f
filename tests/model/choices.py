"""Choices read from a run of bytes.

Graphs and tasks take hundreds of choices. Read from one run of bytes that Hypothesis draws whole, every example is a new one
(drawn choice by choice, most are small variations of the one before), and it still shrinks: a zero, and the end of the choices,
is the first of every list of options and *no* to every question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_BYTES = 2
_ALL = 65_536


class Choices:
    """Is read once, from its beginning."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0

    def cut(self, choices: int) -> Choices:
        """Take the next `choices` choices out as a sequence of their own."""
        begin, self._at = self._at, self._at + choices * _BYTES
        return Choices(self._text[begin : self._at])

    def number(self, low: int, high: int) -> int:
        return low + self._next() * (high - low + 1) // _ALL

    def pick(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]

    def some(self, options: Sequence[T], at_least: int, at_most: int) -> list[T]:
        """So many of them, each at most once."""
        found: list[T] = []
        for _ in range(self.number(at_least, at_most)):
            one = self.pick(options)
            if one not in found:
                found.append(one)
        return found

    def odds(self, percent: int) -> bool:
        """True so often."""
        return self._next() * 100 >= (100 - percent) * _ALL

    def _next(self) -> int:
        begin, self._at = self._at, self._at + _BYTES
        return int.from_bytes(self._text[begin : self._at].ljust(_BYTES, b"\0"))
