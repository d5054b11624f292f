"""A number that nobody can hold is a 400, in every field of every message that is read (S1)."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import msgspec
import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire import graph_messages, messages, task_messages
from dwarf_nats.wire.decoding import decode
from dwarf_nats.wire.message_fields import Request
from dwarf_nats.wire.peer_messages import PeerEnqueue

READ = sorted(
    {
        kind
        for module in (messages, graph_messages, task_messages)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Request) and kind is not Request
    }
    | {PeerEnqueue},
    key=lambda kind: kind.__name__,
)
TOO_LARGE = [
    b"9" * 400,
    b"-" + b"9" * 400,
    b"9" * 6_000,
    b"9223372036854775808",
    b"-9223372036854775809",
    b"1e400",
    b"-1e400",
]


def _numbers(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type]]:
    hints = typing.get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        here = (*path, field.encode_name)
        for part in _parts(hints[field.name]):
            if part in (int, float):
                yield here, part
            elif isinstance(part, type) and issubclass(part, msgspec.Struct):
                yield from _numbers(part, here)


def _parts(hint: object) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    if typing.get_origin(hint) is not list:
        for part in typing.get_args(hint):
            yield from _parts(part)


FIELDS = [(kind, path, number) for kind in READ for path, number in _numbers(kind)]


def test_there_are_such_fields() -> None:
    assert len(FIELDS) > 25


@pytest.mark.parametrize(
    ("kind", "path", "number"), FIELDS, ids=lambda one: getattr(one, "__name__", None) or ".".join(one)
)
def test_a_number_out_of_range_is_a_400_that_names_the_field(
    kind: type[msgspec.Struct], path: tuple[str, ...], number: type
) -> None:
    for text in TOO_LARGE:
        if number is float and b"e" not in text and len(text) < 390:
            continue
        body = text
        for name in reversed(path):
            body = b'{"%s":%s}' % (name.encode(), body)
        with pytest.raises(BadRequest) as refused:
            decode(kind, body)
        assert ".".join(path) in refused.value.message
        assert len(refused.value.message) < 300
