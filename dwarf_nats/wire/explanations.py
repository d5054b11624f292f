"""Explanations: records and messages, one function for each direction, side by side (see `codec`)."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from dwarf_nats.workflow import explanation as records
from dwarf_nats.workflow.status import Status

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
from .explain_messages import ExplanationReply, Wait
from .message_fields import flow_status
from .steps import branch_message, branch_record, progress_message, progress_record
from .times import micros, rfc3339


def explanation_message(explanation: records.Explanation) -> ExplanationReply:
    """An explanation as it travels."""
    return ExplanationReply(
        flow_key=explanation.flow_key,
        status=flow_status(explanation.status),
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
        remedy=or_default(message.remedy, ""),
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
        until=time_or_unset(wait.until),
        text=wait.text,
        remedy=wait.remedy or UNSET,
        because=UNSET if wait.because is None else wait.because.value,
        worker=wait.worker or UNSET,
        replica=wait.replica or UNSET,
        deadline=time_or_unset(wait.deadline),
        progress=UNSET if wait.progress is None else progress_message(wait.progress),
        branch=UNSET if wait.branch is None else branch_message(wait.branch),
        attempt=wait.attempt or UNSET,
        max_attempts=or_unset(wait.max_attempts),
        error=error_values(wait.error),
        payload=raw_or_unset(wait.payload_json),
        event=wait.event or UNSET,
        key=wait.key if wait.event or wait.key else UNSET,
        limit=wait.limit or UNSET,
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
        until=micros_or_none(message.until),
        text=message.text,
        remedy=or_default(message.remedy, ""),
        because=None if isinstance(message.because, UnsetType) else records.Because(message.because),
        worker=or_default(message.worker, ""),
        replica=or_default(message.replica, ""),
        deadline=micros_or_none(message.deadline),
        progress=None if isinstance(message.progress, UnsetType) else progress_record(message.progress),
        branch=None if isinstance(message.branch, UnsetType) else branch_record(message.branch),
        attempt=or_default(message.attempt, 0),
        max_attempts=or_none(message.max_attempts),
        error=error_info(message.error),
        payload_json=raw_bytes(message.payload),
        event=or_default(message.event, ""),
        key=or_default(message.key, ""),
        limit=or_default(message.limit, ""),
        workflow=or_default(message.workflow, ""),
        flow_key=or_default(message.flow_key, ""),
    )
