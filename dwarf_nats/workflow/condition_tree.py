"""The syntax tree of a compiled condition.

The library has no interface for it. It serializes a compiled expression as the message `cel.expr.CheckedExpr` of the CEL
specification (`proto/cel/expr/checked.proto`, `syntax.proto`), and this module reads the few fields that are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """What a macro (`all`, `exists`, `exists_one`, `map`, `filter`) stands for."""

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


def _node(raw: bytes) -> Node:
    for number, value in _fields(raw):
        if number == 2 or not isinstance(value, bytes):  # the id of the node
            continue
        inner = list(_fields(value))
        match number:
            case 3:
                text = next((one for kind, one in inner if kind in (6, 7)), None)
                is_text = any(kind == 6 for kind, _ in inner)
                if isinstance(text, bytes):
                    return Literal(text.decode("utf-8", "replace") if is_text else text)
                return Literal(None)
            case 4:
                return Name(_text(inner, 1).removeprefix("."))
            case 5:
                return Select(_node(_bytes(inner, 1)), _text(inner, 2))
            case 6:
                member = any(kind == 1 for kind, _ in inner)
                ordered = [one for kind, one in inner if kind == 1] + [one for kind, one in inner if kind == 3]
                return Call(_text(inner, 2), [_node(one) for one in ordered if isinstance(one, bytes)], member)
            case 7:
                return Items([_node(one) for kind, one in inner if kind == 1 and isinstance(one, bytes)])
            case 8:
                entries = [list(_fields(one)) for kind, one in inner if kind == 2 and isinstance(one, bytes)]
                return Items(
                    [
                        _node(one)
                        for entry in entries
                        for kind, one in entry
                        if kind in (3, 4) and isinstance(one, bytes)
                    ],
                )
            case 9:
                over, start, condition, step, result = (_node(_bytes(inner, kind)) for kind in (2, 4, 5, 6, 7))
                return Loop(_text(inner, 1), over, _text(inner, 3), start, condition, step, result)
    return Literal(None)


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


def _bytes(fields: list[tuple[int, bytes | int]], number: int) -> bytes:
    return next((value for kind, value in fields if kind == number and isinstance(value, bytes)), b"")


def _text(fields: list[tuple[int, bytes | int]], number: int) -> str:
    return _bytes(fields, number).decode("utf-8", "replace")
