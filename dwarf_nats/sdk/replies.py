"""Replies of the service as records, refusals as exceptions, values as requests (wire section 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dwarf_nats.errors import BadRequest, DwarfError, Internal, error_for
from dwarf_nats.wire import headers as h
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.times import to_micros
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import FlowSummary, Outcome, ShardInfo, Step
from dwarf_nats.workflow.state import check_state, encode_value, json_type
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from nats.aio.msg import Msg

S = TypeVar("S", bound=msgspec.Struct)
V = TypeVar("V")
_HUMP = re.compile(r"(?<!^)([A-Z])")


def decode(kind: type[S], payload: bytes, operation: str) -> S:
    """Decode a reply. Raises `Internal` if it is not what the contract says."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Internal(f"the service's reply to {operation} is not what was expected: {error}") from None


def refusal(msg: Msg) -> DwarfError | None:
    """The error a reply stands for, with the further fields of its body as details; `None` for an ordinary reply."""
    headers = {name.lower(): value for name, value in (msg.headers or {}).items()}
    code = headers.get(h.ERROR_CODE.lower())
    line = headers.get(h.ERROR_TEXT.lower())
    if code is None and line is None:
        return None
    number = int(code) if code is not None and code.isascii() and code.isdigit() else 500
    message = h.percent_decode(line or "") or f"the service refused with code {number}"
    details: dict[str, Any] = {}
    try:
        body = msgspec.json.decode(msg.data) if msg.data else {}
        inner = body.get("error") if isinstance(body, dict) else None
        if isinstance(inner, dict):
            details = {_HUMP.sub(r"_\1", name).lower(): value for name, value in inner.items()}
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    details.pop("code", None)
    text = details.pop("message", message)
    return error_for(number, text if isinstance(text, str) else message, **details)


# --- records ---


def texts(value: list[str] | UnsetType) -> list[str]:
    """The texts of a reply; none where they were left out."""
    return [] if isinstance(value, UnsetType) else value


def _none(value: V | UnsetType) -> V | None:
    return None if isinstance(value, UnsetType) else value


def _bytes(value: Raw | UnsetType) -> bytes | None:
    return None if isinstance(value, UnsetType) else bytes(value)


def micros(text: str) -> int:
    """Microseconds since the epoch of a time on the wire."""
    when = datetime.fromisoformat(text)
    return to_micros(when if when.tzinfo is not None else when.replace(tzinfo=UTC))


def _micros(text: str | UnsetType) -> int | None:
    return None if isinstance(text, UnsetType) else micros(text)


def _error(value: dict[str, Any] | UnsetType) -> ErrorInfo | None:
    if isinstance(value, UnsetType):
        return None
    extra = dict(value)
    message, code = extra.pop("message", ""), extra.pop("code", 500)
    return ErrorInfo(str(message), code if isinstance(code, int) else 500, extra)


def outcome(payload: bytes, operation: str) -> Outcome:
    """The reply of run, await, poll and snapshot."""
    one = decode(m.Outcome, payload, operation)
    return Outcome(
        flow_key=one.flow_key,
        workflow=one.workflow,
        status=Status(one.status),
        state_json=bytes(one.state),
        error=_error(one.error),
        cancel_reason=_none(one.cancel_reason),
        interrupt_json=_bytes(one.interrupt_payload),
        truncated=one.truncated is True,
    )


def step(one: m.Step) -> Step:
    """One step, its subgraph's history with it."""
    found = _step_alone(one)
    pending = [(one, found)]
    while pending:  # not by calling itself, so that no depth is too much (P4)
        told, made = pending.pop()
        inner = _none(told.sub_history) or []
        made.sub_history = [_step_alone(each) for each in inner]
        pending += zip(inner, made.sub_history, strict=True)
    return found


def _step_alone(one: m.Step) -> Step:
    return Step(
        step_key=one.step_key,
        step_id=one.step_id,
        depth=one.depth,
        task=one.task,
        attempt=one.attempt,
        status=Status(one.status),
        created_at=micros(one.created_at),
        updated_at=micros(one.updated_at),
        started_at=_micros(one.started_at),
        error=_error(one.error),
        predecessor_id=_none(one.predecessor_id),
        successor_id=_none(one.successor_id),
        state_json=_bytes(one.state),
        changes_json=_bytes(one.changes),
        interrupt_json=_bytes(one.interrupt_payload),
        prev_key=_none(one.prev_key),
        next_key=_none(one.next_key),
        subgraph=one.subgraph is True,
        sub_workflow=_none(one.sub_workflow),
        sub_flow_key=_none(one.sub_flow_key),
        problems=_none(one.problems) or [],
        truncated=one.truncated is True,
    )


def summary(one: m.FlowSummary) -> FlowSummary:
    """One line of a list."""
    return FlowSummary(
        flow_key=one.flow_key,
        thread_key=one.thread_key,
        workflow=one.workflow,
        status=Status(one.status),
        created_at=micros(one.created_at),
        updated_at=micros(one.updated_at),
        priority=one.priority,
        fairness_key=_none(one.fairness_key) or "",
        started_at=_micros(one.started_at),
        task=_none(one.task),
        error=_error(one.error),
        cancel_reason=_none(one.cancel_reason),
    )


def shard(one: m.Shard) -> ShardInfo:
    """Health and size of one shard."""
    return ShardInfo(one.shard, one.error, one.latency_ms, one.flows, one.steps, one.joining is True)


# --- requests ---


def json_object(values: Mapping[str, Any] | bytes | None, what: str) -> Raw | UnsetType:
    """A state or overrides as JSON text; `BadRequest` for what is no object or cannot be written as JSON."""
    if values is None:
        return UNSET
    if isinstance(values, bytes):
        check_state(values, what)
        return Raw(values)
    if not isinstance(values, Mapping):
        raise BadRequest(f"{what} must be a mapping or the JSON text of an object, got {json_type(values)}")
    return Raw(encode_value(dict(values), what))


def check_options(options: FlowOptions | None) -> None:
    """Raise `BadRequest` for a value of another type, which type checkers are not always asked about."""
    if options is not None and not isinstance(options, FlowOptions):
        raise BadRequest(f"options must be FlowOptions, got {type(options).__name__}: write FlowOptions(priority=1)")


def options_message(options: FlowOptions | None) -> m.Options | UnsetType:
    """Options as they travel; what has its default is left out."""
    if options is None:
        return UNSET
    start_at: datetime | UnsetType = UNSET
    if options.start_at is not None:
        if options.start_at.tzinfo is None:
            raise BadRequest("option start_at needs a time zone: use datetime.now(UTC) or .astimezone()")
        start_at = options.start_at
    return m.Options(
        priority=UNSET if options.priority is None else options.priority,
        fairness_key=options.fairness_key or UNSET,
        fairness_weight=UNSET if options.fairness_weight == 1.0 else options.fairness_weight,
        start_at=start_at,
        baggage=UNSET if options.baggage is None else Raw(encode_value(options.baggage, "option baggage")),
        idempotency_key=UNSET if options.idempotency_key is None else options.idempotency_key,
        notify=UNSET if options.notify is None else options.notify,
        time_budget_ms=UNSET if options.time_budget_ms is None else options.time_budget_ms,
        thread_key=UNSET if options.thread is None else options.thread,
        delete_on_completion=options.delete_on_completion or UNSET,
    )


def filters(query: Query) -> dict[str, Any]:
    """The fields of a list or purge request; what has its default is left out."""
    if not isinstance(query, Query):
        raise BadRequest(f'a query must be a Query, got {type(query).__name__}: write Query(status="failed")')
    given: dict[str, Any] = {
        "status": None if query.status is None else str(query.status),
        "workflow": query.workflow,
        "thread_key": query.thread,
        "task": query.task,
        "fairness_key": query.fairness_key,
        "priority": query.priority,
        "older_than_ms": query.older_than_ms,
        "newer_than_ms": query.newer_than_ms,
        "shard": query.shard,
        "search": query.search,
        "limit": query.limit,
    }
    return {name: value for name, value in given.items() if value is not None}
