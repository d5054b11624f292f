"""The parts that a codec seals: those with data of a client's requests, and of a worker's answers and progress (B9).

What is received is opened wherever it is sealed (`Codec.open_all`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from dwarf_nats.wire.task_messages import BatchedRequest

    from .codec import Codec

M = TypeVar("M", bound=msgspec.Struct)
_REQUEST_PARTS = ("state", "overrides", "data")
_ANSWER_PARTS = ("changes", "interrupt")
NONE_OPENED: frozenset[str] = frozenset()
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def sealed_request(codec: Codec, message: M) -> M:
    """A request with its chosen fields sealed; of a graph that is sent along, those that it declares as sealed, too."""
    also = _declared(getattr(message, "graph", msgspec.UNSET))
    for part in _REQUEST_PARTS:
        value = getattr(message, part, msgspec.UNSET)
        if isinstance(value, msgspec.Raw):
            setattr(message, part, msgspec.Raw(codec.seal_fields(bytes(value), also)))
    return message


def _declared(graph: object) -> Collection[str]:
    """The fields that a graph declares as sealed."""
    if not isinstance(graph, msgspec.Raw) or b'"sealed"' not in bytes(graph):
        return ()
    fields = msgspec.json.decode(graph).get("fields") or {}
    return [name for name, field in fields.items() if field.get("sealed") is True]


def opened_member(codec: Codec | None, member: BatchedRequest) -> tuple[BatchedRequest, frozenset[str]]:
    """A request of a batch with its sealed values opened, and the fields that were. Raises as `Codec.open` does."""
    if codec is None:
        return member, NONE_OPENED
    text, names = codec.opened(_encode(member))
    return (msgspec.json.decode(text, type=type(member)), names) if names else (member, NONE_OPENED)


def sealed_answer(codec: Codec, body: bytes, also: Collection[str]) -> bytes:
    """The answer of a task with its chosen fields sealed, and those in `also`: what came sealed goes back sealed."""
    if not body:
        return body
    parts = _object(body)
    for part in _ANSWER_PARTS:
        if part in parts:
            parts[part] = msgspec.Raw(codec.seal_fields(bytes(parts[part]), also))
    if "subgraph" in parts:
        parts["subgraph"] = msgspec.Raw(_sealed_part(codec, bytes(parts["subgraph"]), "input", also))
    return _encode(parts)


def sealed_progress(codec: Codec, body: bytes, also: Collection[str]) -> bytes:
    """A progress with the chosen fields of its data sealed."""
    return _sealed_part(codec, body, "data", also)


def _sealed_part(codec: Codec, body: bytes, part: str, also: Collection[str]) -> bytes:
    parts = _object(body)
    if part in parts:
        parts[part] = msgspec.Raw(codec.seal_fields(bytes(parts[part]), also))
    return _encode(parts)
