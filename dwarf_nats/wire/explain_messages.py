"""The messages of explanations, as types, and their records (Q2; wire section 1)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, UnsetType

from dwarf_nats.workflow import explanation as records
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.status import Status

from .message_fields import AnyJson, FlowStatus, Key, Maybe, Message, TaskName, Time, Truncated
from .times import micros, rfc3339

WaitReason = Literal[
    "created",
    "scheduled",
    "queued",
    "running",
    "retry",
    "interrupt",
    "breakpoint",
    "event",
    "subgraph",
    "no_responders",
    "unavailable",
    "overloaded",
    "bus_away",
]
Sentence = Annotated[str, Meta(description="One or two sentences for a person.")]
Remedy = Annotated[str, Meta(description="The command that would help; left out if there is none.")]
_Until = Annotated[Time, Meta(description="When it ends by itself, or is looked at again.")]
_Attempt = Annotated[int, Meta(description="Retries so far.")]
_Counts = Annotated[
    dict[str, int],
    Meta(description="If it is truncated: living steps by reason, those of flows that it called included."),
]


class Wait(Message):
    """What one living step of a flow waits for (Q2). Which fields there are depends on `reason`."""

    step_key: Annotated[Key, Meta(description="Steers exactly this step: a capability, keep it out of logs.")]
    step_id: int
    task: str
    url: TaskName
    reason: WaitReason
    since: Time
    text: Sentence
    until: Maybe[_Until] = UNSET
    remedy: Maybe[Remedy] = UNSET
    because: Maybe[Literal["workers", "priority", "limit", "rate"]] = UNSET
    worker: Maybe[Annotated[str, Meta(description="The worker that runs it, if it has named itself.")]] = UNSET
    replica: Maybe[Annotated[str, Meta(description="The replica that has it.")]] = UNSET
    deadline: Maybe[Annotated[Time, Meta(description="When its task must have answered.")]] = UNSET
    attempt: Maybe[_Attempt] = UNSET
    max_attempts: Maybe[int] = UNSET
    error: Maybe[dict[str, Any]] = UNSET
    payload: Maybe[AnyJson] = UNSET
    event: Maybe[str] = UNSET
    key: Maybe[str] = UNSET
    workflow: Maybe[str] = UNSET
    flow_key: Maybe[Key] = UNSET
    waits: Maybe[
        Annotated[list[Wait], Meta(description="Of the flow that it called, as those of the flow itself.")]
    ] = UNSET


class ExplanationReply(Message):
    """Why a flow stands where it stands: `waits` are those of its living steps, the oldest first (Q2)."""

    flow_key: Key
    status: FlowStatus
    text: Sentence
    waits: list[Wait]
    remedy: Maybe[Remedy] = UNSET
    truncated: Maybe[Truncated] = UNSET
    counts: Maybe[_Counts] = UNSET


class WaitsFor(Message):
    """What the oldest living step of a flow waits for (Q2)."""

    step_id: int
    task: str
    reason: WaitReason
    since: Time
    text: Sentence
    until: Maybe[_Until] = UNSET


def explanation_message(explanation: records.Explanation) -> ExplanationReply:
    """An explanation as it travels."""
    return ExplanationReply(
        flow_key=explanation.flow_key,
        status=explanation.status.value,  # type: ignore[arg-type]  # a flow is never pending
        text=explanation.text,
        remedy=explanation.remedy or UNSET,
        waits=_wait_messages(explanation.waits),
        truncated=explanation.truncated or UNSET,
        counts={reason.value: count for reason, count in explanation.counts.items()} or UNSET,
    )


def explanation_record(message: ExplanationReply) -> records.Explanation:
    """An explanation that was received."""
    counts = {} if isinstance(message.counts, UnsetType) else message.counts
    return records.Explanation(
        flow_key=message.flow_key,
        status=Status(message.status),
        text=message.text,
        remedy=_text(message.remedy),
        waits=_wait_records(message.waits),
        truncated=message.truncated is True,
        counts={records.Reason(reason): count for reason, count in counts.items()},
    )


def _wait_messages(waits: list[records.Wait]) -> list[Wait]:
    top = [_wait_message(one) for one in waits]
    pending = list(zip(waits, top, strict=True))
    for record, message in pending:  # without recursion, so that no depth is too much (P4)
        if record.waits:
            message.waits = [_wait_message(one) for one in record.waits]
            pending += zip(record.waits, message.waits, strict=True)
    return top


def _wait_records(waits: list[Wait]) -> list[records.Wait]:
    top = [_wait_record(one) for one in waits]
    pending = list(zip(waits, top, strict=True))
    for message, record in pending:
        if not isinstance(message.waits, UnsetType):
            record.waits = [_wait_record(one) for one in message.waits]
            pending += zip(message.waits, record.waits, strict=True)
    return top


def _wait_message(wait: records.Wait) -> Wait:
    return Wait(
        step_key=wait.step_key,
        step_id=wait.step_id,
        task=wait.task,
        url=wait.url,
        reason=wait.reason.value,
        since=rfc3339(wait.since),
        until=_time(wait.until),
        text=wait.text,
        remedy=wait.remedy or UNSET,
        because=UNSET if wait.because is None else wait.because.value,
        worker=wait.worker or UNSET,
        replica=wait.replica or UNSET,
        deadline=_time(wait.deadline),
        attempt=wait.attempt or UNSET,
        max_attempts=UNSET if wait.max_attempts is None else wait.max_attempts,
        error=UNSET if wait.error is None else wait.error.as_dict(),
        payload=UNSET if wait.payload_json is None else Raw(wait.payload_json),
        event=wait.event or UNSET,
        key=wait.key if wait.event else UNSET,
        workflow=wait.workflow or UNSET,
        flow_key=wait.flow_key or UNSET,
    )


def _wait_record(message: Wait) -> records.Wait:
    return records.Wait(
        step_key=message.step_key,
        step_id=message.step_id,
        task=message.task,
        url=message.url,
        reason=records.Reason(message.reason),
        since=micros(message.since),
        until=_micros(message.until),
        text=message.text,
        remedy=_text(message.remedy),
        because=None if isinstance(message.because, UnsetType) else records.Because(message.because),
        worker=_text(message.worker),
        replica=_text(message.replica),
        deadline=_micros(message.deadline),
        attempt=0 if isinstance(message.attempt, UnsetType) else message.attempt,
        max_attempts=None if isinstance(message.max_attempts, UnsetType) else message.max_attempts,
        error=None if isinstance(message.error, UnsetType) else ErrorInfo.from_values(message.error),
        payload_json=None if isinstance(message.payload, UnsetType) else bytes(message.payload),
        event=_text(message.event),
        key=_text(message.key),
        workflow=_text(message.workflow),
        flow_key=_text(message.flow_key),
    )


def waits_for_message(wait: records.WaitsFor | None) -> WaitsFor | UnsetType:
    """What a flow waits for, as it travels in a summary."""
    if wait is None:
        return UNSET
    return WaitsFor(
        step_id=wait.step_id,
        task=wait.task,
        reason=wait.reason.value,
        since=rfc3339(wait.since),
        until=_time(wait.until),
        text=wait.text,
    )


def waits_for_record(message: WaitsFor | UnsetType) -> records.WaitsFor | None:
    """What a flow waits for, as it was received in a summary."""
    if isinstance(message, UnsetType):
        return None
    return records.WaitsFor(
        step_id=message.step_id,
        task=message.task,
        reason=records.Reason(message.reason),
        since=micros(message.since),
        until=_micros(message.until),
        text=message.text,
    )


def _time(at: int | None) -> str | UnsetType:
    return UNSET if at is None else rfc3339(at)


def _micros(text: str | UnsetType) -> int | None:
    return None if isinstance(text, UnsetType) else micros(text)


def _text(value: str | UnsetType) -> str:
    return "" if isinstance(value, UnsetType) else value
