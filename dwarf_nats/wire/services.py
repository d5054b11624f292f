"""Requests and messages of graphs to existing services: calls to header blocks, raw replies to values (N3, N4)."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.answer import Disposition, ErrorInfo
from dwarf_nats.workflow.services import NOT_SENT, ServiceCall, ServiceReply
from dwarf_nats.workflow.state import MAX_DEPTH, Raw, check_json

from . import headers as h
from .failures import (
    FORBIDDEN,
    NO_RESPONDERS,
    TIMEOUT,
    TOO_LARGE,
    classify,
    excerpt,
    header_error,
    overruling,
    reports_error,
)
from .times import rfc3339

_UNSTORABLE = ("depth limit exceeded", "number is infinity", "no low surrogate", "invalid surrogate", "lone")
"""Beginnings of what orjson says of a text that is JSON, but holds a value that no state can."""


class _StreamError(msgspec.Struct):
    code: int
    description: str = ""
    err_code: int = 0


class _Acknowledgement(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: _StreamError | None = None


_decode_acknowledgement = msgspec.json.Decoder(_Acknowledgement).decode


def encode_headers(call: ServiceCall, *, deadline: bool) -> bytes:
    """Encode the header block of a request, with its deadline, or of a message without."""
    pairs = [(h.FLOW_ID, call.flow_id), (h.STEP_ID, call.step_id), (h.ATTEMPT, str(call.attempt))]
    if deadline:
        pairs.append((h.DEADLINE, rfc3339(call.deadline)))
    pairs.append((h.MSG_ID, call.message_id))
    if call.traceparent:
        pairs.append((h.TRACEPARENT, call.traceparent))
    if call.tracestate:
        pairs.append((h.TRACESTATE, call.tracestate))
    return h.write_headers([*pairs, *call.headers])


def refused_subject(subject: str, reason: str) -> ServiceReply:
    """The reply if no graph may send anything to a subject."""
    message = f"nothing can be sent to the subject {subject[:200]!r}: {reason}"
    return ServiceReply(error=ErrorInfo(message, 400), cause=NOT_SENT)


def no_responders(subject: str) -> ServiceReply:
    """The reply if nobody has subscribed to a subject."""
    return _held(ErrorInfo(f"no service answers on {subject}: nobody subscribes to it", 503), NO_RESPONDERS)


def no_stream(subject: str) -> ServiceReply:
    """The reply if no stream captures a subject."""
    return _held(ErrorInfo(f"no JetStream stream captures {subject}: nobody stored the message", 503), NO_RESPONDERS)


def not_permitted(subject: str, who: str) -> ServiceReply:
    """The reply if permissions refuse the message: the step waits, as it does without a service."""
    message = f"nothing can be sent to {subject}: NATS permissions do not let {who} publish to it"
    return _held(ErrorInfo(message, 403), FORBIDDEN)


def timed_out(subject: str, budget: float) -> ServiceReply:
    """The reply if none came before the deadline. `budget` in seconds."""
    message = f"the service at {subject} did not answer within its time budget of {budget:g} s"
    return ServiceReply(error=ErrorInfo(message, 408), cause=TIMEOUT)


def recorded(subject: str, budget: float, why: str, acknowledgement: bytes) -> ServiceReply:
    """The reply if only the acknowledgement of a stream that records requests came before the deadline."""
    message = (
        f"the service at {subject} did not answer within its time budget of {budget:g} s, and {why}; all that came was"
        f" {excerpt(acknowledgement)}; to store a message in that stream, publish it with `stream: true`"
    )
    return ServiceReply(error=ErrorInfo(message, 408), cause=TIMEOUT)


def unacknowledged(subject: str, budget: float, body: bytes | None) -> ServiceReply:
    """The reply if no acknowledgement came before the deadline. `body`: another reply that came."""
    message = f"no JetStream stream acknowledged the message on {subject} within its time budget of {budget:g} s"
    if body is None:
        return ServiceReply(error=ErrorInfo(message, 408), cause=TIMEOUT)
    heard = excerpt(body) or "an empty reply"
    message = f"{message}; a subscriber answered: {heard}; is the subject captured by a stream?"
    return ServiceReply(error=ErrorInfo(message, 502), cause=TIMEOUT)


def too_large(subject: str, size: int, limit: int) -> ServiceReply:
    """The reply if the message, headers included, exceeds the server's `max_payload`."""
    message = (
        f"the message to {subject} is {size} bytes with its headers, over the NATS server's max_payload of {limit}"
    )
    return ServiceReply(error=ErrorInfo(message, 413), cause=TOO_LARGE)


def _held(error: ErrorInfo, cause: str) -> ServiceReply:
    return ServiceReply(error=error, disposition=Disposition.BREAKER, cause=cause)


def decode_reply(subject: str, block: bytes | None, body: bytes, max_depth: int = MAX_DEPTH) -> ServiceReply:
    """Decode the reply of a service: JSON or text; an error where its headers report one."""
    headers = h.read_headers(block) if block else {}
    overruled = overruling(headers) if headers else None
    if headers and (reports_error(headers) or overruled is not None):
        return _failure(subject, headers, overruled, error=_body_error(body, max_depth))
    if not body:
        return ServiceReply()
    try:
        return ServiceReply(value=_value(body, max_depth))
    except BadRequest as bad:
        message = f"the reply of the service at {subject} {bad.message}; it began: {excerpt(body)}"
        return ServiceReply(error=ErrorInfo(message, 502))


def _failure(
    subject: str, headers: dict[str, str], overruled: Disposition | None, *, error: ErrorInfo | None
) -> ServiceReply:
    made = header_error(f"the service at {subject}", headers, error)
    disposition, cause = classify(made.code, overruled)
    return ServiceReply(error=made, disposition=disposition, cause=cause)


def _value(body: bytes, max_depth: int) -> Raw:
    """The reply as JSON text. Raises `BadRequest` if no state can hold it."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if str(error).startswith(_UNSTORABLE):
            raise BadRequest(f"cannot be stored: {error}") from None
    else:
        check_json(body, "cannot be stored: it", max_depth)
        return Raw(body.strip())
    try:
        return Raw(orjson.dumps(body.decode()))
    except UnicodeDecodeError:
        raise BadRequest("is neither JSON nor UTF-8 text") from None


def _body_error(body: bytes, max_depth: int) -> ErrorInfo | None:
    """The error in the body of a reply whose headers report one: the fields of an object, those of its `error` if it has one.

    Any other body is kept as the field `body`.
    """
    if not body:
        return None
    try:
        value: Any = orjson.loads(bytes(_value(body, max_depth)))
    except BadRequest:
        value = excerpt(body)
    if not isinstance(value, dict):
        return ErrorInfo("", extra={"body": value})
    inner = value.get("error")
    extra = dict(inner if isinstance(inner, dict) else value)
    message = extra.pop("message", "")
    extra.pop("code", None)
    return ErrorInfo(message if isinstance(message, str) else "", extra=extra)


def is_acknowledgement(body: bytes) -> bool:
    """True if a reply to a published message is a stream's acknowledgement, or its refusal."""
    try:
        made = _decode_acknowledgement(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return bool(made.stream) or made.error is not None


def decode_acknowledgement(subject: str, body: bytes) -> ServiceReply:
    """Decode a stream's acknowledgement: a refusal is an error with its code. One of a duplicate is as good as any."""
    made = _decode_acknowledgement(body)
    if made.error is None:
        return ServiceReply()
    where = f"stream {made.stream}" if made.stream else "JetStream"
    message = f"{where} did not take the message on {subject}: {made.error.description or made.error.code}"
    disposition, cause = classify(made.error.code, None)
    error = ErrorInfo(message, made.error.code, {"errCode": made.error.err_code})
    return ServiceReply(error=error, disposition=disposition, cause=cause)
