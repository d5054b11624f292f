"""How long a condition may take on a state, at most: known before it is evaluated, since nothing can stop it afterwards.

The library copies values wherever they are named, and a `map` or `filter` copies what it has found so far for every
element, so ten thousand elements take seconds and a chain of doublings never ends. The estimate is a bound, in copies of one
value (some 35 ns each), from the text of the condition and the sizes of the fields it names; what it is made of:
`docs/design/0002-conditions.md`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

BUDGET = 30_000_000
"""Copies, about a second."""
_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
    |(?P<text>(?:[rR][bB]?|[bB][rR])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
      |[bB]?(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[0-9][A-Za-z0-9.]*)
    |(?P<other>==|!=|<=|>=|&&|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
_QUANTIFIERS = frozenset({"all", "exists", "exists_one", "existsOne"})
_COLLECTORS = frozenset({"map", "filter"})
PATTERN, COUNTED_PATTERN = 3_000, 1_000_000
"""A regular expression is compiled each time it is used; one that counts (`a{1000}`) may take a hundred times as long."""


@dataclass(slots=True)
class Profile:
    """What a condition's text tells. A *level* is the number of macro bodies around a place."""

    named: list[list[str]] = field(default_factory=lambda: [[]])
    """By level, the names that stand there, as often as they do."""
    operands: int = 1
    """Of sums and literals: so often a value may appear in one made of it."""
    collectors: list[int] = field(default_factory=list)
    """The level of the body of each `map` and `filter`."""
    maps: list[int] = field(default_factory=list)
    """Of these, the levels of the bodies of each `map`."""
    patterns: list[tuple[int, int]] = field(default_factory=list)
    """Level and cost of each regular expression."""

    @property
    def loops(self) -> bool:
        """Whether it has a macro that goes over elements."""
        return len(self.named) > 1

    @property
    def harmless(self) -> bool:
        """Whether its time is in proportion to the state, whatever that is."""
        return not self.loops and self.operands <= 4 and not self.patterns

    def cost(self, weights: Mapping[str, int], longest: int) -> int:
        """The bound. `weights`: of the fields it names; `longest`: elements of the longest array or object in them."""
        longest = max(longest, self.operands)
        grown = self._grown(weights, longest)
        total = 0
        for level, names in enumerate(self.named):
            own = sum(weights.get(name, 1) for name in names)
            passing = grown * len(names) * int(longest ** (level - 1)) if level else 0
            total += self.operands * (int(longest**level) * (1 + own) + passing)
        total += sum(grown * int(longest**level) for level in self.collectors)
        return total + sum(one * int(longest**level) for level, one in self.patterns)

    def _grown(self, weights: Mapping[str, int], longest: int) -> int:
        """What the largest value on the way may weigh. A `map` makes so many copies of what its body names; one inside
        another, of what the outer one goes over."""
        inside = sum(weights.get(name, 1) for names in self.named[1:] for name in names)
        made = longest * inside if 1 in self.maps else 0
        deep = sum(level > 1 for level in self.maps)
        whole = sum(weights.values()) + self.operands + made
        return whole * int(self.operands ** len(self.collectors)) * int(longest**deep)


def profile(source: str) -> Profile:
    """Read a condition that the library has accepted."""
    found = Profile()
    tokens = [(match.lastgroup, match[0]) for match in _TOKEN.finditer(source) if match.lastgroup != "skip"]
    open_macros: list[bool] = []
    level = 0
    for at, (kind, text) in enumerate(tokens):
        if kind == "name":
            found.named[level].append(text)
        elif text in ("(", "[", "{"):
            called = tokens[at - 1][1] if text == "(" and at else ""
            macro = called in _QUANTIFIERS | _COLLECTORS and at > 1 and tokens[at - 2][1] == "."
            if called == "matches":
                found.patterns.append((level, _pattern_cost(tokens, at)))
            open_macros.append(macro)
            if macro:
                level += 1
                if level == len(found.named):
                    found.named.append([])
                if called in _COLLECTORS:
                    found.collectors.append(level)
                if called == "map":
                    found.maps.append(level)
        elif text in (")", "]", "}"):
            level -= open_macros.pop() if open_macros else 0
        elif text in ("+", ":") or (text == "," and not (open_macros and open_macros[-1])):
            found.operands += 1
    return found


def _pattern_cost(tokens: list[tuple[str | None, str]], at: int) -> int:
    kind, text = tokens[at + 1] if at + 1 < len(tokens) else (None, "")
    return PATTERN if kind == "text" and "{" not in text and "\\" not in text else COUNTED_PATTERN


def weight(value: bytes) -> int:
    """Of a field's JSON text: about as many as there are values in it, and something for long texts."""
    return 1 + value.count(b",") + value.count(b":") + len(value) // 64


def longest_in(values: object) -> int:
    """Elements of the longest array or object anywhere in parsed values."""
    longest = 0
    pending = [values]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            longest = max(longest, len(one))
            pending.extend(one.values())
        elif isinstance(one, list):
            longest = max(longest, len(one))
            pending.extend(one)
    return longest
