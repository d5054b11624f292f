"""The messages about outboxes, and their conversion to records."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from msgspec import UNSET, Meta, UnsetType

from .message_fields import Maybe, Message, Request, Time
from .times import micros, rfc3339

RowId = Annotated[str, Meta(description="Shard and number of a row of an outbox.", examples=["1-42"])]
PageLimit = Annotated[int, Meta(ge=1, le=1000, description="Rows of one page; 100 if it is left out.")]


class OutboxListRequest(Request):
    """List the rows that have not become flows yet, or only those put aside because they cannot be used."""

    rejected: Maybe[bool] = UNSET
    limit: Maybe[PageLimit] = UNSET
    cursor: Maybe[str] = UNSET


class OutboxRequest(Request):
    """Name a row of an outbox."""

    row: RowId


class OutboxRowEntry(Message):
    """One row of an outbox."""

    row: RowId
    workflow: str
    created_at: Time
    attempts: Annotated[int, Meta(description="Attempts that failed.")] = 0
    reason: Maybe[Annotated[str, Meta(description="Why the last attempt failed.")]] = UNSET
    rejected_at: Maybe[Time] = UNSET


class OutboxListReply(Message):
    """A page of rows; without a cursor it is the last one."""

    rows: list[OutboxRowEntry]
    cursor: Maybe[str] = UNSET


class OutboxRowInfo(NamedTuple):
    """A row of an outbox. `row`: shard and number. Times are microseconds since the epoch."""

    row: str
    workflow: str
    created_at: int
    attempts: int
    reason: str | None
    rejected_at: int | None


def row_message(one: OutboxRowInfo) -> OutboxRowEntry:
    """A row as a reply has it."""
    return OutboxRowEntry(
        row=one.row,
        workflow=one.workflow,
        created_at=rfc3339(one.created_at),
        attempts=one.attempts,
        reason=one.reason or UNSET,
        rejected_at=UNSET if one.rejected_at is None else rfc3339(one.rejected_at),
    )


def row_info(one: OutboxRowEntry) -> OutboxRowInfo:
    """The record of a row in a reply."""
    return OutboxRowInfo(
        row=one.row,
        workflow=one.workflow,
        created_at=micros(one.created_at),
        attempts=one.attempts,
        reason=None if isinstance(one.reason, UnsetType) else one.reason,
        rejected_at=None if isinstance(one.rejected_at, UnsetType) else micros(one.rejected_at),
    )
