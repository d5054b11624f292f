"""The syntax tree of a compiled condition.

The library has no interface for it. It serializes a compiled expression as the message `cel.expr.CheckedExpr` of the CEL
specification (`proto/cel/expr/checked.proto`, `syntax.proto`), and this module reads the few fields that are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cel_expr_python import cel


@dataclass(slots=True)
class Literal:
    """A constant: the text or bytes of one, else `None` (numbers, booleans, null)."""

    text: str | bytes | None


@dataclass(slots=True)
class Name:
    name: str


@dataclass(slots=True)
class Select:
    """`operand.field`, or `has(operand.field)`."""

    operand: Node
    field: str


@dataclass(slots=True)
class Call:
    """A function or operator (`_==_`, `@in`, …); the receiver of a method is the first argument."""

    function: str
    args: list[Node]
    member: bool


@dataclass(slots=True)
class Items:
    """A literal list or map; of a map both keys and values."""

    items: list[Node]


@dataclass(slots=True)
class Loop:
    """The loop that a macro (`all`, `exists`, `exists_one`, `map`, `filter`) stands for."""

    variable: str
    over: Node
    total: str
    start: Node
    condition: Node
    step: Node
    result: Node


Node = Literal | Name | Select | Call | Items | Loop


def parts(node: Node) -> list[Node]:
    """The nodes directly below."""
    match node:
        case Select():
            return [node.operand]
        case Call():
            return node.args
        case Items():
            return node.items
        case Loop():
            return [node.over, node.start, node.condition, node.step, node.result]
    return []


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    pending = [node]
    while pending:
        one = pending.pop()
        yield one
        pending.extend(parts(one))


def free_names(node: Node, bound: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names that no macro around them declares, as often as they stand there."""
    if isinstance(node, Name):
        if node.name not in bound:
            yield node.name
    elif isinstance(node, Loop):
        yield from free_names(node.over, bound)
        yield from free_names(node.start, bound)
        inside = bound | {node.variable, node.total}
        for part in (node.condition, node.step, node.result):
            yield from free_names(part, inside)
    else:
        for part in parts(node):
            yield from free_names(part, bound)


def tree_of(expression: cel.Expression) -> Node:
    """The tree of a compiled expression."""
    wrapped = list(_fields(expression.serialize()))  # google.protobuf.Any
    checked = _text(wrapped, 1).endswith(".CheckedExpr")  # else a `ParsedExpr`, of an expression compiled without types
    return _node(_bytes(list(_fields(_bytes(wrapped, 2))), 4 if checked else 2))


_Fields = list[tuple[int, bytes | int]]
"""The fields of a protocol buffer message, by their numbers."""


def _node(raw: bytes) -> Node:
    """Decode a node, a message `Expr`; its second field is an id, the others say what it is."""
    for number, value in _fields(raw):
        decode = _KINDS.get(number)
        if decode is not None and isinstance(value, bytes):
            return decode(list(_fields(value)))
    return Literal(None)


def _literal(fields: _Fields) -> Node:
    text = next((value for number, value in fields if number in (6, 7)), None)
    if not isinstance(text, bytes):
        return Literal(None)
    is_text = any(number == 6 for number, _ in fields)
    return Literal(text.decode("utf-8", "replace") if is_text else text)


def _name(fields: _Fields) -> Node:
    return Name(_text(fields, 1).removeprefix("."))


def _select(fields: _Fields) -> Node:
    return Select(_node(_bytes(fields, 1)), _text(fields, 2))


def _call(fields: _Fields) -> Node:
    receivers, args = _nodes(fields, 1), _nodes(fields, 3)
    return Call(_text(fields, 2), [*receivers, *args], any(number == 1 for number, _ in fields))


def _list(fields: _Fields) -> Node:
    return Items(_nodes(fields, 1))


def _map(fields: _Fields) -> Node:
    entries = [list(_fields(value)) for number, value in fields if number == 2 and isinstance(value, bytes)]
    return Items([one for entry in entries for one in _nodes(entry, 3, 4)])


def _loop(fields: _Fields) -> Node:
    over, start, condition, step, result = (_node(_bytes(fields, number)) for number in (2, 4, 5, 6, 7))
    return Loop(
        variable=_text(fields, 1),
        over=over,
        total=_text(fields, 3),
        start=start,
        condition=condition,
        step=step,
        result=result,
    )


def _nodes(fields: _Fields, *numbers: int) -> list[Node]:
    return [_node(value) for number, value in fields if number in numbers and isinstance(value, bytes)]


_KINDS: dict[int, Callable[[_Fields], Node]] = {
    3: _literal,
    4: _name,
    5: _select,
    6: _call,
    7: _list,
    8: _map,
    9: _loop,
}
"""The kinds of nodes by their field numbers in `Expr`."""


def _fields(raw: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and values of a protocol buffer message; fixed-width values as bytes."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(raw, at)
        else:
            length = 8 if kind == 1 else 4
        yield number, raw[at : at + length]
        at += length


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _bytes(fields: _Fields, number: int) -> bytes:
    return next((value for kind, value in fields if kind == number and isinstance(value, bytes)), b"")


def _text(fields: _Fields, number: int) -> str:
    return _bytes(fields, number).decode("utf-8", "replace")
