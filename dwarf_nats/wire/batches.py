"""Several steps of one task in one message to one worker, and its answers (wire section 2).

A member of a request is the request of its step, with `headers` for what would be headers. An answer has the id of its step and
either `reply`, as it would have been alone, or `signal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec
import orjson
from msgspec import UNSET

from dwarf_nats.errors import BadRequest

from . import task_messages as t

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwarf_nats.workflow.state import Raw

MAX_BATCH_STEPS = 1000
"""Steps in one message, whatever a worker says that it takes: bounds the work of one turn of the event loop."""
_requests = msgspec.json.Decoder(list[t.BatchedRequest]).decode
_request = msgspec.json.Decoder(t.BatchedRequest).decode
_replies = msgspec.json.Decoder(list[t.BatchedReply]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def with_headers(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Make the request of a step a member of a batch."""
    return b'%b,"headers":%b}' % (body[:-1], orjson.dumps(headers))


def join(members: Iterable[bytes]) -> bytes:
    """Put members or answers into one message."""
    return b"[%b]" % b",".join(members)


def decode_requests(body: bytes) -> list[t.BatchedRequest | BadMember]:
    """Decode a batch; a malformed member harms no other one. Raises `BadRequest` if it is no array of objects."""
    try:
        return list(_requests(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        items = _items(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the batch is no JSON array: {error}") from None
    return [_member(item) for item in items]


class BadMember:
    """A member that cannot be read. `step_id`: of its step, token-free; empty if that cannot be read either."""

    def __init__(self, step_id: str, reason: str) -> None:
        self.step_id = step_id
        self.reason = reason


def _member(item: Raw) -> t.BatchedRequest | BadMember:
    try:
        return _request(item)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return BadMember(_step_id(item), f"malformed member of a batch: {error}")


def _step_id(item: Raw) -> str:
    try:
        key = msgspec.json.decode(item, type=dict[str, msgspec.Raw]).get("stepKey", msgspec.Raw(b'""'))
        return msgspec.json.decode(key, type=str).rpartition("-")[0]
    except msgspec.MsgspecError:
        return ""


def encode_reply(step_id: str, body: bytes, headers: Mapping[str, str] | None) -> bytes:
    """Encode the answer of one step. `body`: as it would have been alone; empty for success without changes."""
    tail = b',"headers":%b' % orjson.dumps(headers) if headers else b""
    return b'{"stepId":"%b","reply":%b%b}' % (step_id.encode(), body or b"{}", tail)


def encode_signal(step_id: str, signal: t.Signal, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """Encode a signal about one step. `body`: a JSON text, of a progress."""
    return _encode(
        t.BatchedReply(
            step_id=step_id,
            signal=signal,
            body=msgspec.Raw(body) if body else UNSET,
            headers=dict(headers) if headers else UNSET,
        )
    )


def decode_replies(body: bytes) -> Sequence[t.BatchedReply]:
    """Decode answers; those that cannot be read are left out, so that their steps are bound by their deadlines.

    Raises `BadRequest` if it is no array.
    """
    try:
        return _replies(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        items = _items(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the answer to a batch is no JSON array: {error}") from None
    return [reply for item in items if (reply := _reply(item)) is not None]


def _reply(item: Raw) -> t.BatchedReply | None:
    try:
        return msgspec.json.decode(item, type=t.BatchedReply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        step_id = ""
        try:
            fields = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
            step_id = msgspec.json.decode(fields.get("stepId", msgspec.Raw(b'""')), type=str)
        except msgspec.MsgspecError:
            return None
        text = orjson.dumps({"error": {"message": f"malformed answer in a batch: {error}", "code": 502}})
        return t.BatchedReply(step_id=step_id, reply=msgspec.Raw(text))
