"""An upper bound of the time a condition takes on a state: known before it is evaluated, since nothing can stop it then.

The library ends an evaluation after 10,000 turns of its loops, and nothing else: one turn may compare two large lists, and a
`map` or `filter` copies what it has found so far in each turn. The bound is worked out from the syntax tree and from the
sizes of the fields it reads. What it is made of, and what was measured: `docs/design/0002-conditions.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dwarf_nats.workflow.condition_tree import Call, Items, Literal, Loop, Name, Node, Select

BUDGET = 250_000
"""The most one evaluation may take, in units of some 100 ns: about 25 ms, if all of it is used."""
MAX_TURNS = 10_000
"""Turns of all loops of an evaluation; the library stops beyond."""
_MATCHES = 150  # one call into this package and back
_ACCESSOR = 50
_COPY = 0.7  # each value that a `map` or `filter` takes over from one turn to the next
_MOST = 10**15


class Size(NamedTuple):
    """The size of a value.

    `each`: the most it weighs. `total`: its weight over all times it is evaluated. `length`: the most elements it has. A weight
    is about the number of values in it, a text counting one for each 64 bytes.
    """

    each: float
    total: float
    length: float


_SMALL = Size(1, 1, 1)


def weight(value: bytes) -> int:
    """The weight of a field's JSON text: about as many as there are values in it, and something for long texts."""
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


def cost(root: Node, weights: Mapping[str, int], longest: float, *, of_value: float = 0) -> float:
    """The bound, for fields of these weights and arrays and objects of at most `longest` elements.

    `of_value`: what each value costs in the result, for an expression whose result is used.
    """
    bound = _Bound(longest)
    names = {name: Size(one, one, min(one, longest)) for name, one in weights.items()}
    result = bound.of(root, names, 1)
    return bound.spent + sum(weights.values()) + of_value * result.each


def affordable_everywhere(root: Node, names: frozenset[str]) -> int:
    """Bytes of JSON that each field may have before the cost is worked out."""
    for size in (1 << 16, 1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6):
        if cost(root, dict.fromkeys(names, size), size) <= BUDGET:
            return size
    return 0


class _Bound:
    def __init__(self, longest: float) -> None:
        self.spent: float = 0
        self.longest = longest

    def of(self, node: Node, names: Mapping[str, Size], turns: float) -> Size:
        """The size of a node's value, where it is evaluated `turns` times; `spent` grows by what that takes."""
        self.spent = min(_MOST, self.spent + 0.5 * turns)
        match node:
            case Literal():
                each: float = 1 if node.text is None else 1 + len(node.text) // 64
                return Size(each, each * turns, 1)
            case Name():
                size = names.get(node.name, _SMALL)
                return Size(size.each, min(max(size.total, turns), size.each * turns), size.length)
            case Select():
                return self.of(node.operand, names, turns)
            case Items():
                inner = [self.of(one, names, turns) for one in node.items]
                each = 1 + sum(one.each for one in inner)
                length = max([len(inner), *(one.length for one in inner)])
                return _size(each, turns + sum(one.total for one in inner), length)
            case Call():
                return self._call(node, [self.of(one, names, turns) for one in node.args], turns)
            case Loop():
                return self._loop(node, names, turns)

    def _call(self, node: Call, args: list[Size], turns: float) -> Size:
        match node.function, len(args):
            case "_+_", 2:
                left, right = args
                self.spent += left.total + right.total
                return _size(left.each + right.each, left.total + right.total, left.length + right.length)
            case "_[_]", 2:
                return args[0]
            case "_?_:_", 3:
                return Size(*map(max, *args[1:]))
        work = _work(node.function, args, turns)
        if work is not None:
            self.spent += work
            return Size(1, turns, 1)
        totals = [one.total for one in args]
        self.spent += sum(totals)  # conversions
        return _size(max([1, *(one.each for one in args)]), max([turns, *totals]), 1)

    def _loop(self, node: Loop, names: Mapping[str, Size], turns: float) -> Size:
        over = self.of(node.over, names, turns)
        length = max(1, min(over.length, over.each, MAX_TURNS))
        inner_turns = max(1, min(over.total, length * turns, MAX_TURNS))
        # What is visible inside was so once for each turn outside; in here it is there in each turn of the inner loop.
        inside = {name: Size(one.each, one.each * inner_turns, one.length) for name, one in names.items()}
        inside[node.variable] = Size(over.each, min(over.total, over.each * inner_turns), over.length)
        found = _appended(node)
        inside[node.total] = _SMALL
        self.of(node.condition, inside, inner_turns)
        if found is None:  # all, exists, exists_one
            self.of(node.step, inside, inner_turns)
            self.of(node.result, names, turns)
            return Size(1, turns, 1)
        element = Size(1, inner_turns, 1)
        for part in found:
            element = self.of(part, inside, inner_turns)
        self.spent = min(_MOST, self.spent + _COPY * inner_turns * length)
        total = turns + element.total
        return _size(min(total, length * (1 + element.each)), total, max(length, element.length))


def _work(function: str, args: list[Size], turns: float) -> float | None:
    """The work of a function whose result is small; `None` for other functions."""
    totals = [one.total for one in args]
    match function, len(args):
        case "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "startsWith" | "endsWith", 2:
            return min(totals)
        case "@in", 2:
            return totals[1]
        case "contains", 2:
            return totals[0] * args[1].each
        case "matches", 2:
            return _MATCHES * turns
        case "size", 1:
            return args[0].each * (turns - 1)  # a text is counted each time, an array is not
        case "_&&_" | "_||_" | "!_" | "@not_strictly_false", _:
            return 0
        case _ if function.startswith("get"):
            return _ACCESSOR * turns
    return None


def _size(each: float, total: float, length: float) -> Size:
    return Size(min(each, _MOST), min(total, _MOST), min(length, _MOST))


def _appended(node: Loop) -> list[Node] | None:
    """The filter, if there is one, and the element that a `map` or `filter` adds in each turn; `None` for other macros."""
    step, tests = node.step, []
    if isinstance(step, Call) and step.function == "_?_:_":
        tests, step = [step.args[0]], step.args[1]
    if isinstance(step, Call) and step.function == "_+_" and isinstance(step.args[1], Items):
        return [*tests, *step.args[1].items]
    return None
