"""Records and messages: one function for each direction, side by side.

Messages (`wire.messages`) are what travels: times as text, JSON text as `Raw`, absent values left out. Records
(`workflow.records`, `workflow.options`) are what the engine and the SDK work with: times in microseconds, JSON text as
bytes, absent values as `None`. The replica encodes replies from records, and the client decodes them to records. Requests
go the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import list_cursors
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.durability import Durability
from dwarf_nats.workflow.limits import UNBOUNDED
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import FlowSummary, GraphInfo, Outcome, ShardHealth
from dwarf_nats.workflow.state import check_json, encode_value
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.tags import checked_tags

from . import headers as h
from . import messages as m
from .decoding import decode as decode_message
from .explain_messages import waits_for_message, waits_for_record
from .message_fields import flow_status
from .pause_messages import pause_message, pause_record
from .tag_messages import tags_field, tags_given, tags_json, tags_record
from .times import micros as micros
from .times import rfc3339

V = TypeVar("V")

encode = msgspec.json.Encoder().encode


# --- fields that may be left out ---


def or_default(value: V | UnsetType, default: V) -> V:
    """The value of a field, or `default` where the field was left out."""
    return default if isinstance(value, UnsetType) else value


def raw_bytes(value: Raw | UnsetType) -> bytes | None:
    """The JSON text of a raw field, `None` where the field was left out."""
    return None if isinstance(value, UnsetType) else bytes(value)


def or_none(value: V | UnsetType) -> V | None:
    """The value of a field, `None` where the field was left out."""
    return None if isinstance(value, UnsetType) else value


def or_unset(value: V | None) -> V | UnsetType:
    """A value as a field that is left out for `None`."""
    return UNSET if value is None else value


def time_or_unset(at: int | None) -> str | UnsetType:
    """A time as a field, as `or_unset`."""
    return UNSET if at is None else rfc3339(at)


def micros_or_none(text: str | UnsetType) -> int | None:
    """The time of a field, as `or_none`."""
    return None if isinstance(text, UnsetType) else micros(text)


def raw_or_unset(text: bytes | None) -> Raw | UnsetType:
    """JSON text as a field, as `or_unset`."""
    return UNSET if text is None else Raw(text)


def error_values(error: ErrorInfo | None) -> dict[str, Any] | UnsetType:
    """An error as a field, as `or_unset`."""
    return UNSET if error is None else error.as_dict()


def error_info(values: dict[str, Any] | UnsetType) -> ErrorInfo | None:
    """The error of a field, as `or_none`."""
    if isinstance(values, UnsetType):
        return None
    extra = dict(values)
    message, code = extra.pop("message", ""), extra.pop("code", 500)
    return ErrorInfo(str(message), code if isinstance(code, int) else 500, extra)


# --- options of a flow ---


def options_message(options: FlowOptions | None) -> m.Options | UnsetType:
    """Options as they travel; values that are the default are left out.

    Raises `BadRequest` for a start time without a zone, and for baggage that cannot be written as JSON.
    """
    if options is None:
        return UNSET
    if options.start_at is not None and options.start_at.tzinfo is None:
        raise BadRequest("option start_at needs a time zone: use datetime.now(UTC) or .astimezone()")
    return m.Options(
        priority=or_unset(options.priority),
        fairness_key=options.fairness_key or UNSET,
        fairness_weight=UNSET if options.fairness_weight == 1.0 else options.fairness_weight,
        start_at=or_unset(options.start_at),
        baggage=UNSET if options.baggage is None else Raw(encode_value(options.baggage, "option baggage")),
        idempotency_key=or_unset(options.idempotency_key),
        notify=or_unset(options.notify),
        time_budget_ms=or_unset(options.time_budget_ms),
        thread_key=or_unset(options.thread),
        delete_on_completion=options.delete_on_completion or UNSET,
        durability=UNSET if options.durability is None else Durability.of(options.durability),
        tags=UNSET if options.tags is None else tags_json(checked_tags(options.tags, "option tags")),
    )


def flow_options(options: m.Options | UnsetType, msg_id: str | None = None) -> FlowOptions | None:
    """Options of a request, joined with its `Nats-Msg-Id` header `msg_id` (an idempotency key).

    Raises `BadRequest` if header and option differ, the header is empty, or the baggage is no sound JSON. The engine checks
    how deep the baggage is.
    """
    if msg_id == "":
        raise BadRequest(f"the header {h.MSG_ID} is empty: leave it out, or give it an idempotency key")
    if isinstance(options, UnsetType):
        return FlowOptions(idempotency_key=msg_id) if msg_id is not None else None
    key = or_default(options.idempotency_key, None)
    if key is not None and msg_id is not None and key != msg_id:
        raise BadRequest(
            f"the header {h.MSG_ID} and the option `idempotencyKey` differ: send one of them, or the same in both"
        )
    baggage = raw_bytes(options.baggage)
    if baggage is not None:
        check_json(baggage, "field `options.baggage`", UNBOUNDED)
    return FlowOptions(
        priority=or_default(options.priority, None),
        fairness_key=or_default(options.fairness_key, ""),
        fairness_weight=or_default(options.fairness_weight, 1.0),
        start_at=or_default(options.start_at, None),
        baggage=None if baggage is None else Raw(baggage),
        idempotency_key=msg_id if key is None else key,
        notify=or_default(options.notify, None),
        time_budget_ms=or_default(options.time_budget_ms, None),
        thread=or_default(options.thread_key, None),
        delete_on_completion=or_default(options.delete_on_completion, default=False),
        tags=tags_given(options.tags, "field `options.tags`"),
        durability=or_default(options.durability, None),
    )


def options_of_json(text: bytes, what: str = "the options") -> FlowOptions | None:
    """The options of a flow in JSON text of whatever origin. `what` names it. Raises `BadRequest`."""
    return flow_options(decode_message(m.Options, text, what))


# --- filters of list and purge ---


def filter_fields(query: Query) -> dict[str, Any]:
    """The fields of a list or purge request (`messages.Filters`); filters that are not set are left out."""
    fields: dict[str, Any] = {
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
        "flow_id": query.flow_id,
        "tags": None if query.tags is None else tags_json(checked_tags(query.tags, "tags")),
        "limit": query.limit,
    }
    return {name: value for name, value in fields.items() if value is not None}


def query(filters: m.Conditions) -> Query:
    """The filters of a request."""
    return Query(
        status=None if isinstance(filters.status, UnsetType) else Status(filters.status),
        workflow=or_default(filters.workflow, None),
        thread=or_default(filters.thread_key, None),
        task=or_default(filters.task, None),
        fairness_key=or_default(filters.fairness_key, None),
        priority=or_default(filters.priority, None),
        older_than_ms=or_default(filters.older_than_ms, None),
        newer_than_ms=or_default(filters.newer_than_ms, None),
        shard=or_default(filters.shard, None),
        search=or_default(filters.search, None),
        flow_id=or_default(filters.flow_id, None),
        tags=tags_given(filters.tags, "field `tags`"),
        limit=or_default(filters.limit, None) if isinstance(filters, m.Filters) else None,
    )


# --- outcomes ---


def outcome_message(outcome: Outcome) -> m.Outcome:
    """An outcome as it travels."""
    return m.Outcome(
        flow_key=outcome.flow_key,
        workflow=outcome.workflow,
        status=flow_status(outcome.status),
        state=Raw(outcome.state_json),
        error=error_values(outcome.error),
        cancel_reason=or_unset(outcome.cancel_reason),
        interrupt_payload=raw_or_unset(outcome.interrupt_json),
        pauses=[pause_message(one) for one in outcome.pauses] if outcome.pauses else UNSET,
        tags=tags_field(outcome.tags),
        breakpoints=list(outcome.breakpoints) or UNSET,
        compensating=outcome.compensating or UNSET,
        truncated=outcome.truncated or UNSET,
    )


def outcome_record(message: m.Outcome) -> Outcome:
    """An outcome that was received."""
    return Outcome(
        flow_key=message.flow_key,
        workflow=message.workflow,
        status=Status(message.status),
        state_json=bytes(message.state),
        error=error_info(message.error),
        cancel_reason=or_none(message.cancel_reason),
        interrupt_json=raw_bytes(message.interrupt_payload),
        pauses=[pause_record(one) for one in or_default(message.pauses, ())],
        tags=tags_record(message.tags),
        breakpoints=or_default(message.breakpoints, ()),
        compensating=message.compensating is True,
        truncated=message.truncated is True,
    )


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome as JSON, complete."""
    return encode(outcome_message(outcome))


# --- lists ---


def flow_list_reply(flows: Sequence[FlowSummary], cursor: str, limit: int) -> m.FlowListReply:
    """A page of a list of at most `limit` flows as it travels."""
    searched_to = list_cursors.searched_to(cursor) if cursor and len(flows) < limit else None
    return m.FlowListReply(
        flows=[summary_message(one) for one in flows], cursor=cursor or UNSET, searched_to=time_or_unset(searched_to)
    )


def summary_message(flow: FlowSummary) -> m.FlowSummary:
    """One flow of a list as it travels."""
    return m.FlowSummary(
        flow_key=flow.flow_key,
        thread_key=flow.thread_key,
        workflow=flow.workflow,
        status=flow_status(flow.status),
        created_at=rfc3339(flow.created_at),
        updated_at=rfc3339(flow.updated_at),
        priority=flow.priority,
        task=flow.task or UNSET,
        due_at=time_or_unset(flow.due_at),
        error=error_values(flow.error),
        cancel_reason=or_unset(flow.cancel_reason),
        started_at=time_or_unset(flow.started_at),
        fairness_key=flow.fairness_key or UNSET,
        tags=tags_field(flow.tags),
        compensating=flow.compensating or UNSET,
        waits_for=waits_for_message(flow.waits_for),
    )


def summary_record(message: m.FlowSummary) -> FlowSummary:
    """One flow of a list that was received."""
    return FlowSummary(
        flow_key=message.flow_key,
        thread_key=message.thread_key,
        workflow=message.workflow,
        status=Status(message.status),
        created_at=micros(message.created_at),
        updated_at=micros(message.updated_at),
        priority=message.priority,
        task=or_none(message.task),
        due_at=micros_or_none(message.due_at),
        error=error_info(message.error),
        cancel_reason=or_none(message.cancel_reason),
        started_at=micros_or_none(message.started_at),
        fairness_key=or_none(message.fairness_key) or "",
        tags=tags_record(message.tags),
        compensating=message.compensating is True,
        waits_for=waits_for_record(message.waits_for),
    )


def graph_message(info: GraphInfo) -> m.GraphEntry:
    """One registered graph as it travels."""
    return m.GraphEntry(name=info.name, digest=info.digest, updated_at=rfc3339(info.updated_at))


def graph_record(message: m.GraphEntry) -> GraphInfo:
    """One registered graph of a list that was received."""
    return GraphInfo(message.name, message.digest, micros(message.updated_at))


def shard_health_message(health: ShardHealth) -> m.ShardHealth:
    """The health of one shard as it travels; there is no other direction, since clients read the message itself."""
    return m.ShardHealth(
        shard=health.shard,
        ready=not health.reason,
        reason=" ".join(health.reason.split()) or UNSET,
        seen_ms=or_unset(health.silent_ms),
    )
