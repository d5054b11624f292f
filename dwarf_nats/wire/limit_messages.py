"""The messages of limits, and how they are read and written (K1; wire section 1)."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from dwarf_nats.workflow.limit import MOST, Limit, LimitInfo

from .message_fields import Maybe, Message, Request, Subject, TaskName, Time
from .times import micros, rfc3339

LimitName = Annotated[str, Meta(description="A-Z a-z 0-9 _ -")]
_Count = Annotated[int, Meta(ge=1, le=MOST)]
_Concurrency = Annotated[_Count, Meta(description="So many at once.")]
_PerSecond = Annotated[float, Meta(gt=0, le=MOST, description="So many begin in a second.")]
_Burst = Annotated[
    _Count, Meta(description="So many may begin at one moment after a pause; by default half a second's worth.")
]
_By = Annotated[str, Meta(description="One count for all; fairnessKey or tag:<name> for a count of each.")]


class LimitDocument(Request):
    """A limit of a task or of a workflow: name one of both, and `concurrency`, `perSecond` or both (K1)."""

    name: LimitName
    task: Maybe[TaskName] = UNSET
    workflow: Maybe[Subject] = UNSET
    by: Maybe[_By] = UNSET
    concurrency: Maybe[_Concurrency] = UNSET
    per_second: Maybe[_PerSecond] = UNSET
    burst: Maybe[_Burst] = UNSET


class LimitRequest(Request):
    """Names a limit."""

    name: LimitName


class LimitEntry(Message):
    """A limit, how many it counts at this moment, and how many wait for it; over all its keys."""

    name: LimitName
    running: Annotated[int, Meta(description="Steps at the task, or flows that have begun and not stopped.")]
    waiting: Annotated[int, Meta(description="Steps that wait.")]
    updated_at: Time
    task: Maybe[TaskName] = UNSET
    workflow: Maybe[Subject] = UNSET
    by: Maybe[_By] = UNSET
    concurrency: Maybe[_Concurrency] = UNSET
    per_second: Maybe[_PerSecond] = UNSET
    burst: Maybe[_Burst] = UNSET


class LimitListReply(Message):
    """The limits, by name."""

    limits: list[LimitEntry]


def limit_record(message: LimitDocument | LimitEntry) -> Limit:
    """A limit as it was received, not checked yet."""
    return Limit(
        name=message.name,
        task=message.task or "",
        workflow=message.workflow or "",
        by=message.by or "",
        concurrency=None if isinstance(message.concurrency, UnsetType) else message.concurrency,
        per_second=None if isinstance(message.per_second, UnsetType) else message.per_second,
        burst=None if isinstance(message.burst, UnsetType) else message.burst,
    )


def limit_document(limit: Limit) -> LimitDocument:
    """A limit as it is put."""
    return LimitDocument(
        name=limit.name,
        task=limit.task or UNSET,
        workflow=limit.workflow or UNSET,
        by=limit.by or UNSET,
        concurrency=UNSET if limit.concurrency is None else limit.concurrency,
        per_second=UNSET if limit.per_second is None else limit.per_second,
        burst=UNSET if limit.burst is None else limit.burst,
    )


def limit_entry(info: LimitInfo) -> LimitEntry:
    """A limit with its counts, as it travels."""
    limit = info.limit
    return LimitEntry(
        name=limit.name,
        running=info.running,
        waiting=info.waiting,
        updated_at=rfc3339(info.updated_at),
        task=limit.task or UNSET,
        workflow=limit.workflow or UNSET,
        by=limit.by or UNSET,
        concurrency=UNSET if limit.concurrency is None else limit.concurrency,
        per_second=UNSET if limit.per_second is None else limit.per_second,
        burst=UNSET if limit.burst is None else limit.burst,
    )


def limit_info(entry: LimitEntry) -> LimitInfo:
    """A limit with its counts, as it was received."""
    return LimitInfo(limit_record(entry), entry.running, entry.waiting, micros(entry.updated_at))
