"""From request bytes to messages with clear refusals, and from records to reply bytes."""

from __future__ import annotations

import re
import typing
from difflib import get_close_matches
from functools import lru_cache
from typing import TypeVar

import msgspec
import orjson
from msgspec import UNSET, Raw, UnsetType

from dwarf_nats.errors import BadRequest, DwarfError
from dwarf_nats.workflow import records
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.limits import UNBOUNDED
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.state import check_json
from dwarf_nats.workflow.status import Status

from . import headers as h
from . import messages as m
from .times import rfc3339

S = TypeVar("S", bound=msgspec.Struct)
V = TypeVar("V")

encode = msgspec.json.Encoder().encode
EMPTY = b"{}"
_AT = re.compile(r" - at `([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$")
_EXPECTED = re.compile(r"Expected `([^`]*)`(.*?)(?:, got `([^`]*)`)?$")
_JSON_NAMES = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false", "null": "null",
               "array": "an array", "object": "an object", "datetime": "a time in RFC 3339 with a zone"}  # fmt: skip
MAX_HEADER_TEXT = 1000
MAX_BODY_TEXT = 16_000


@lru_cache(maxsize=256)
def _decoder(kind: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(kind)


def decode(kind: type[S], payload: bytes, what: str = "the request") -> S:
    """Decode a request; an empty payload counts as `{}`.

    Raises `BadRequest` for JSON that is none, and for unknown (with the nearest known), missing or mistyped fields.
    """
    try:
        message: S = _decoder(kind).decode(payload or EMPTY)
    except msgspec.ValidationError as error:
        raise BadRequest(explain(kind, str(error), what)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(_broken(payload, what, error)) from None
    if b"\\u0000" in payload:
        _refuse_nul(message, "")
    return message


def _broken(payload: bytes, what: str, error: Exception) -> str:
    if not payload.strip():
        return f"{what} is blank: send a JSON object or an empty payload"
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as better:
        return f"{what} is not valid JSON: {better}"
    return f"{what} is not valid JSON: {error}"


def _refuse_nul(message: msgspec.Struct, path: str) -> None:
    for field in msgspec.structs.fields(message):
        value = getattr(message, field.name)
        if isinstance(value, str) and "\0" in value:
            raise BadRequest(f"field `{path}{field.encode_name}` has a NUL character")
        if isinstance(value, msgspec.Struct):
            _refuse_nul(value, f"{path}{field.encode_name}.")


def explain(kind: type[msgspec.Struct], text: str, what: str) -> str:
    """A validation error of msgspec in words of the wire."""
    where = _AT.search(text)
    path = where[1].removeprefix("$").removeprefix(".") if where else ""
    text = text[: where.start()] if where else text
    inside = f" in `{path}`" if path else ""
    if unknown := _UNKNOWN.fullmatch(text):
        known = _fields_at(kind, path)
        near = get_close_matches(unknown[1], known, n=1, cutoff=0.0)
        hint = f"; did you mean `{near[0]}`?" if near else "; it takes no fields"
        return f"{what} has an unknown field `{unknown[1][:80]}`{inside}{hint}"
    if missing := _MISSING.fullmatch(text):
        return f"{what} lacks the field `{path + '.' if path else ''}{missing[1]}`"
    if expected := _EXPECTED.fullmatch(text):
        wanted = " or ".join(_JSON_NAMES.get(one.strip(), one.strip()) for one in expected[1].split("|"))
        got = f", got {_JSON_NAMES.get(expected[3], expected[3])}" if expected[3] else ""
        return f"{f'field `{path}`' if path else what} must be {wanted}{expected[2]}{got}"
    if text.startswith("Invalid enum value") and path:
        return f"field `{path}` has an {text[0].lower()}{text[1:]}; use one of {', '.join(_choices(kind, path))}"
    return f"{f'field `{path}`' if path else what}: {text[:1].lower()}{text[1:]}"


def _field_types(kind: type[msgspec.Struct]) -> dict[str, object]:
    hints = typing.get_type_hints(kind)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(kind)}


def _struct_in(hint: object) -> type[msgspec.Struct] | None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    return next((found for part in typing.get_args(hint) if (found := _struct_in(part)) is not None), None)


def _fields_at(kind: type[msgspec.Struct], path: str) -> list[str]:
    current: type[msgspec.Struct] | None = kind
    for name in filter(None, path.replace("[...]", "").split(".")):
        current = _struct_in(_field_types(current).get(name)) if current is not None else None
    return [] if current is None else list(_field_types(current))


def _choices(kind: type[msgspec.Struct], path: str) -> list[str]:
    *parents, last = path.split(".")
    current: type[msgspec.Struct] | None = kind
    for name in parents:
        current = _struct_in(_field_types(current).get(name.removesuffix("[...]"))) if current is not None else None

    def literals(hint: object) -> list[str]:
        if typing.get_origin(hint) is typing.Literal:
            return [str(one) for one in typing.get_args(hint)]
        return [one for part in typing.get_args(hint) for one in literals(part)]

    return literals(_field_types(current).get(last)) if current is not None else []


# --- requests to values ---


def given(value: V | UnsetType, default: V) -> V:
    """The value, or the default where the field was left out."""
    return default if isinstance(value, UnsetType) else value


def raw_bytes(value: Raw | UnsetType) -> bytes | None:
    """The JSON text of a raw field, `None` where it was left out."""
    return None if isinstance(value, UnsetType) else bytes(value)


def flow_options(options: m.Options | UnsetType, msg_id: str | None = None) -> FlowOptions | None:
    """Options of a request joined with its `Nats-Msg-Id` header (an idempotency key).

    Raises `BadRequest` if header and option differ, the header is empty, or the baggage is no sound JSON; how deep it may be is
    the engine's affair.
    """
    if msg_id == "":
        raise BadRequest(f"the header {h.MSG_ID} is empty: leave it out, or give it an idempotency key")
    if isinstance(options, UnsetType):
        return FlowOptions(idempotency_key=msg_id) if msg_id is not None else None
    key = given(options.idempotency_key, None)
    if key is not None and msg_id is not None and key != msg_id:
        raise BadRequest(
            f"the header {h.MSG_ID} and the option `idempotencyKey` differ: send one of them, or the same in both"
        )
    baggage = raw_bytes(options.baggage)
    if baggage is not None:
        check_json(baggage, "field `options.baggage`", UNBOUNDED)
    return FlowOptions(
        priority=given(options.priority, None),
        fairness_key=given(options.fairness_key, ""),
        fairness_weight=given(options.fairness_weight, 1.0),
        start_at=given(options.start_at, None),
        baggage=None if baggage is None else Raw(baggage),
        idempotency_key=msg_id if key is None else key,
        notify=given(options.notify, None),
        time_budget_ms=given(options.time_budget_ms, None),
        thread=given(options.thread_key, None),
        delete_on_completion=given(options.delete_on_completion, False),
    )


def query(filters: m.Filters) -> Query:
    """The filters of a list or purge."""
    return Query(
        status=None if isinstance(filters.status, UnsetType) else Status(filters.status),
        workflow=given(filters.workflow, None),
        thread=given(filters.thread_key, None),
        task=given(filters.task, None),
        fairness_key=given(filters.fairness_key, None),
        priority=given(filters.priority, None),
        older_than_ms=given(filters.older_than_ms, None),
        newer_than_ms=given(filters.newer_than_ms, None),
        shard=given(filters.shard, None),
        search=given(filters.search, None),
        limit=given(filters.limit, None),
    )


# --- values to replies ---


def _or_unset(value: V | None) -> V | UnsetType:
    return UNSET if value is None else value


def _time(micros: int | None) -> str | UnsetType:
    return UNSET if micros is None else rfc3339(micros)


def _raw(text: bytes | None) -> Raw | UnsetType:
    return UNSET if text is None else Raw(text)


def _error(error: ErrorInfo | None) -> dict[str, typing.Any] | UnsetType:
    return UNSET if error is None else error.as_dict()


def outcome_message(outcome: records.Outcome) -> m.Outcome:
    """An outcome as it travels."""
    return m.Outcome(
        flow_key=outcome.flow_key,
        workflow=outcome.workflow,
        status=outcome.status.value,  # type: ignore[arg-type]  # a flow is never pending
        state=Raw(outcome.state_json),
        error=_error(outcome.error),
        cancel_reason=_or_unset(outcome.cancel_reason),
        interrupt_payload=_raw(outcome.interrupt_json),
        truncated=outcome.truncated or UNSET,
    )


def encode_outcome(outcome: records.Outcome) -> bytes:
    """An outcome as JSON, whole."""
    return encode(outcome_message(outcome))


def step_message(step: records.Step) -> m.Step:
    """A step as it travels, its subgraph's history with it."""
    message = _step_alone(step)
    pending = [(step, message)]
    while pending:  # not by calling itself, so that no depth is too much (P4)
        above, written = pending.pop()
        if above.sub_history:
            written.sub_history = [_step_alone(one) for one in above.sub_history]
            pending += zip(above.sub_history, written.sub_history, strict=True)
    return message


def _step_alone(step: records.Step) -> m.Step:
    return m.Step(
        step_key=step.step_key,
        step_id=step.step_id,
        depth=step.depth,
        task=step.task,
        attempt=step.attempt,
        status=step.status.value,
        created_at=rfc3339(step.created_at),
        updated_at=rfc3339(step.updated_at),
        started_at=_time(step.started_at),
        error=_error(step.error),
        predecessor_id=_or_unset(step.predecessor_id),
        successor_id=_or_unset(step.successor_id),
        state=_raw(step.state_json),
        changes=_raw(step.changes_json),
        interrupt_payload=_raw(step.interrupt_json),
        prev_key=_or_unset(step.prev_key),
        next_key=_or_unset(step.next_key),
        subgraph=step.subgraph or UNSET,
        sub_workflow=_or_unset(step.sub_workflow),
        sub_flow_key=_or_unset(step.sub_flow_key),
        problems=step.problems or UNSET,
        truncated=step.truncated or UNSET,
    )


def graph_entry(info: records.GraphInfo) -> m.GraphEntry:
    """One registered graph as it travels."""
    return m.GraphEntry(name=info.name, digest=info.digest, updated_at=rfc3339(info.updated_at))


def summary_message(flow: records.FlowSummary) -> m.FlowSummary:
    """One flow of a list as it travels."""
    return m.FlowSummary(
        flow_key=flow.flow_key,
        thread_key=flow.thread_key,
        workflow=flow.workflow,
        status=flow.status.value,  # type: ignore[arg-type]  # a flow is never pending
        created_at=rfc3339(flow.created_at),
        updated_at=rfc3339(flow.updated_at),
        priority=flow.priority,
        task=flow.task or UNSET,
        error=_error(flow.error),
        cancel_reason=_or_unset(flow.cancel_reason),
        started_at=_time(flow.started_at),
        fairness_key=flow.fairness_key or UNSET,
    )


def shard_message(shard: records.ShardInfo) -> m.Shard:
    """Health and size of one shard as they travel."""
    return m.Shard(
        shard=shard.shard,
        error=shard.error,
        latency_ms=shard.latency_ms,
        flows=shard.flows,
        steps=shard.steps,
        joining=shard.joining or UNSET,
    )


def encode_error(error: DwarfError, room: int | None = None) -> tuple[bytes, bytes]:
    """A refusal as header block and body; so short that both together fit into `room` bytes, if they can."""
    for longest in (MAX_BODY_TEXT, 4_000, 1_000, 200, 40):
        block, body = _encode_error(error, longest)
        if room is None or len(block) + len(body) <= room:
            break
    return block, body


def _encode_error(error: DwarfError, longest: int) -> tuple[bytes, bytes]:
    """A refusal with at most so many characters of text, and of each further field."""
    text = error.message if len(error.message) <= longest else error.message[:longest] + "…"
    line = " ".join(text[: min(longest, MAX_HEADER_TEXT)].split())
    block = h.write_headers(((h.ERROR_CODE, str(error.code)), (h.ERROR_TEXT, line)))
    # What cannot be written (a lone surrogate quoted back) must not cost the caller the refusal.
    details = {_camel(name): value for name, value in error.details.items() if _is_short(value, longest)}
    clean = text.encode("utf-8", "replace").decode()
    return block, encode({"error": {**details, "code": error.code, "message": clean}})


def _is_short(value: object, longest: int) -> bool:
    try:
        return value is not None and len(encode(value)) <= longest
    except (TypeError, ValueError, RecursionError):
        return False


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
