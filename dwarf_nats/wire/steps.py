"""Steps as records and as messages: one function for each direction, side by side (as `codec`)."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.nodes import NodeKind
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.step_details import Branch, FailedAttempt, StepPause

from . import step_messages as t
from .codec import (
    error_info,
    error_values,
    micros_or_none,
    or_default,
    or_none,
    or_unset,
    raw_bytes,
    raw_or_unset,
    time_or_unset,
)
from .times import micros, rfc3339


def step_message(step: Step) -> t.Step:
    """A step as it travels, the history of its subgraph included."""
    message = _step_message_alone(step)
    pending = [(step, message)]
    while pending:  # without recursion, so that no depth is too much (P4)
        record, above = pending.pop()
        if record.sub_history:
            above.sub_history = [_step_message_alone(one) for one in record.sub_history]
            pending += zip(record.sub_history, above.sub_history, strict=True)
    return message


def step_record(message: t.Step) -> Step:
    """A step that was received, the history of its subgraph included."""
    record = _step_record_alone(message)
    pending = [(message, record)]
    while pending:  # without recursion, so that no depth is too much (P4)
        received, above = pending.pop()
        inner = or_none(received.sub_history) or []
        above.sub_history = [_step_record_alone(one) for one in inner]
        pending += zip(inner, above.sub_history, strict=True)
    return record


def _step_message_alone(step: Step) -> t.Step:
    return t.Step(
        step_key=step.step_key,
        step_id=step.step_id,
        depth=step.depth,
        task=step.task,
        attempt=step.attempt,
        status=step.status.value,
        created_at=rfc3339(step.created_at),
        updated_at=rfc3339(step.updated_at),
        started_at=time_or_unset(step.started_at),
        error=error_values(step.error),
        predecessor_id=or_unset(step.predecessor_id),
        successor_id=or_unset(step.successor_id),
        state=raw_or_unset(step.state_json),
        changes=raw_or_unset(step.changes_json),
        interrupt_payload=raw_or_unset(step.interrupt_json),
        prev_key=or_unset(step.prev_key),
        next_key=or_unset(step.next_key),
        subgraph=step.subgraph or UNSET,
        sub_workflow=or_unset(step.sub_workflow),
        sub_flow_key=or_unset(step.sub_flow_key),
        kind=UNSET if step.kind is NodeKind.TASK else step.kind.value,
        due_at=time_or_unset(step.due_at),
        queued_at=time_or_unset(step.queued_at),
        claimed_at=time_or_unset(step.claimed_at),
        problems=step.problems or UNSET,
        handled_error=error_values(step.handled_error),
        branch=UNSET if step.branch is None else branch_message(step.branch),
        attempts=[_attempt(one) for one in step.attempts] if step.attempts else UNSET,
        pause=UNSET if step.pause is None else _pause(step.pause),
        progress=UNSET if step.progress is None else progress_message(step.progress),
        truncated=step.truncated or UNSET,
    )


def _step_record_alone(message: t.Step) -> Step:
    return Step(
        step_key=message.step_key,
        step_id=message.step_id,
        depth=message.depth,
        task=message.task,
        attempt=message.attempt,
        status=Status(message.status),
        created_at=micros(message.created_at),
        updated_at=micros(message.updated_at),
        started_at=micros_or_none(message.started_at),
        error=error_info(message.error),
        predecessor_id=or_none(message.predecessor_id),
        successor_id=or_none(message.successor_id),
        state_json=raw_bytes(message.state),
        changes_json=raw_bytes(message.changes),
        interrupt_json=raw_bytes(message.interrupt_payload),
        prev_key=or_none(message.prev_key),
        next_key=or_none(message.next_key),
        subgraph=message.subgraph is True,
        sub_workflow=or_none(message.sub_workflow),
        sub_flow_key=or_none(message.sub_flow_key),
        kind=NodeKind(or_none(message.kind) or NodeKind.TASK),
        due_at=micros_or_none(message.due_at),
        queued_at=micros_or_none(message.queued_at),
        claimed_at=micros_or_none(message.claimed_at),
        problems=or_none(message.problems) or [],
        handled_error=error_info(message.handled_error),
        branch=None if isinstance(message.branch, UnsetType) else branch_record(message.branch),
        attempts=[_attempt_record(one) for one in or_default(message.attempts, ())],
        pause=None if isinstance(message.pause, UnsetType) else _pause_record(message.pause),
        progress=None if isinstance(message.progress, UnsetType) else progress_record(message.progress),
        truncated=message.truncated is True,
    )


# --- their parts ---


def branch_message(branch: Branch) -> t.Branch:
    """A place in a fan-out as it travels."""
    return t.Branch(index=branch.index, count=branch.count, of=branch.of)


def branch_record(message: t.Branch) -> Branch:
    """A place in a fan-out that was received."""
    return Branch(index=message.index, count=message.count, of=message.of)


def _attempt(attempt: FailedAttempt) -> t.FailedAttempt:
    return t.FailedAttempt(
        attempt=attempt.attempt,
        started_at=rfc3339(attempt.started_at),
        ended_at=rfc3339(attempt.ended_at),
        error=attempt.error.as_dict(),
    )


def _attempt_record(message: t.FailedAttempt) -> FailedAttempt:
    return FailedAttempt(
        attempt=message.attempt,
        started_at=micros(message.started_at),
        ended_at=micros(message.ended_at),
        error=ErrorInfo.from_values(message.error),
    )


def _pause(pause: StepPause) -> t.StepPause:
    return t.StepPause(
        kind=pause.kind,
        since=rfc3339(pause.since),
        until=time_or_unset(pause.until),
        payload=raw_or_unset(pause.payload_json),
    )


def _pause_record(message: t.StepPause) -> StepPause:
    return StepPause(
        kind=message.kind,
        since=micros(message.since),
        until=micros_or_none(message.until),
        payload_json=raw_bytes(message.payload),
    )


def progress_message(progress: Progress) -> t.Progress:
    """A progress as it is shown."""
    return t.Progress(
        at=rfc3339(progress.at),
        fraction=or_unset(progress.fraction),
        text=or_unset(progress.text),
        data=raw_or_unset(progress.data_json),
    )


def progress_record(message: t.Progress) -> Progress:
    """A progress that was received in a step."""
    return Progress(
        at=micros(message.at),
        fraction=or_none(message.fraction),
        text=or_none(message.text),
        data_json=raw_bytes(message.data),
    )
