"""The messages of explanations, as types, and what a list says of them (Q2; wire section 1)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from dwarf_nats.workflow import explanation as records

from .message_fields import AnyJson, FlowStatus, Key, Maybe, Message, TaskName, Time, Truncated
from .step_messages import Branch, Progress
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
    "paused",
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
    progress: Maybe[Annotated[Progress, Meta(description="The last progress of its task, without data.")]] = UNSET
    branch: Maybe[Branch] = UNSET
    attempt: Maybe[_Attempt] = UNSET
    max_attempts: Maybe[int] = UNSET
    error: Maybe[dict[str, Any]] = UNSET
    payload: Maybe[AnyJson] = UNSET
    event: Maybe[str] = UNSET
    key: Maybe[Annotated[str, Meta(description="Of the event, or that under which the limit counts it.")]] = UNSET
    limit: Maybe[Annotated[str, Meta(description="The limit for which it waits.")]] = UNSET
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


def waits_for_message(wait: records.WaitsFor | None) -> WaitsFor | UnsetType:
    """What a flow waits for, as it travels in a summary."""
    if wait is None:
        return UNSET
    return WaitsFor(
        step_id=wait.step_id,
        task=wait.task,
        reason=wait.reason.value,
        since=rfc3339(wait.since),
        until=UNSET if wait.until is None else rfc3339(wait.until),
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
        until=None if isinstance(message.until, UnsetType) else micros(message.until),
        text=message.text,
    )
