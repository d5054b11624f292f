"""The messages of retention rules, and how they are read and written (M2; wire section 1)."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from dwarf_nats.workflow.retention import MAX_AGE_MS, RetentionInfo, RetentionPreview, RetentionRule

from .message_fields import Maybe, Message, Request, Subject, Time, Truncated
from .tag_messages import TagsJson, tags_field, tags_given, tags_record
from .times import micros, rfc3339

RuleName = Annotated[str, Meta(description="A-Z a-z 0-9 _ -")]
EndedStatus = Annotated[str, Meta(description="completed, failed or cancelled; all three if it is left out.")]
OlderThanMs = Annotated[int, Meta(ge=1, le=MAX_AGE_MS, description="Milliseconds since the flow ended.")]
KeepTagged = Annotated[TagsJson, Meta(description="Flows that have all these tags stay.")]


class RetentionDocument(Request):
    """A rule by which ended flows are removed once they are old enough (M2)."""

    name: RuleName
    older_than_ms: OlderThanMs
    workflow: Maybe[Subject] = UNSET
    status: Maybe[EndedStatus] = UNSET
    keep_tagged: Maybe[KeepTagged] = UNSET


class RetentionRequest(Request):
    """Names a rule."""

    name: RuleName


class RetentionPreviewRequest(Request):
    """A rule that is there, by its name alone, or one to be tried, with `olderThanMs` (M2)."""

    name: RuleName
    older_than_ms: Maybe[OlderThanMs] = UNSET
    workflow: Maybe[Subject] = UNSET
    status: Maybe[EndedStatus] = UNSET
    keep_tagged: Maybe[KeepTagged] = UNSET


class RetentionPreviewReply(Message):
    """The flows that a rule would remove now, and when the first of them ended (M2)."""

    flows: int
    oldest: Maybe[Time] = UNSET
    truncated: Maybe[Truncated] = UNSET


class RetentionEntry(Message):
    """A rule, the flows it has removed so far, and when it was last carried out to the end."""

    name: RuleName
    older_than_ms: OlderThanMs
    removed: int
    updated_at: Time
    workflow: Maybe[Subject] = UNSET
    status: Maybe[EndedStatus] = UNSET
    keep_tagged: Maybe[KeepTagged] = UNSET
    last_run: Maybe[Time] = UNSET


class RetentionListReply(Message):
    """The rules, by name."""

    rules: list[RetentionEntry]


def retention_rule(message: RetentionDocument | RetentionPreviewRequest | RetentionEntry) -> RetentionRule:
    """A rule as it was received, not checked yet."""
    return RetentionRule(
        name=message.name,
        workflow=message.workflow or "",
        status=message.status or "",
        older_than_ms=message.older_than_ms or 0,
        keep_tagged=tags_given(message.keep_tagged, "field `keepTagged`") or {},
    )


def retention_document(rule: RetentionRule) -> RetentionDocument:
    """A rule as it is put."""
    return RetentionDocument(
        name=rule.name,
        older_than_ms=rule.older_than_ms,
        workflow=rule.workflow or UNSET,
        status=rule.status or UNSET,
        keep_tagged=tags_field(rule.keep_tagged),
    )


def preview_request(rule: RetentionRule) -> RetentionPreviewRequest:
    """A rule as it is tried; one without an age is named."""
    return RetentionPreviewRequest(
        name=rule.name,
        older_than_ms=rule.older_than_ms or UNSET,
        workflow=rule.workflow or UNSET,
        status=rule.status or UNSET,
        keep_tagged=tags_field(rule.keep_tagged),
    )


def preview_reply(preview: RetentionPreview) -> RetentionPreviewReply:
    """A preview as it travels."""
    return RetentionPreviewReply(
        flows=preview.flows,
        oldest=UNSET if preview.oldest is None else rfc3339(preview.oldest),
        truncated=preview.truncated or UNSET,
    )


def preview_record(reply: RetentionPreviewReply) -> RetentionPreview:
    """A preview as it was received."""
    oldest = None if isinstance(reply.oldest, UnsetType) else micros(reply.oldest)
    return RetentionPreview(reply.flows, oldest, reply.truncated is True)


def retention_entry(info: RetentionInfo) -> RetentionEntry:
    """A rule with its counts, as it travels."""
    rule = info.rule
    return RetentionEntry(
        name=rule.name,
        older_than_ms=rule.older_than_ms,
        removed=info.removed,
        updated_at=rfc3339(info.updated_at),
        workflow=rule.workflow or UNSET,
        status=rule.status or UNSET,
        keep_tagged=tags_field(rule.keep_tagged),
        last_run=UNSET if info.last_run is None else rfc3339(info.last_run),
    )


def retention_info(entry: RetentionEntry) -> RetentionInfo:
    """A rule with its counts, as it was received."""
    rule = RetentionRule(
        name=entry.name,
        workflow=entry.workflow or "",
        status=entry.status or "",
        older_than_ms=entry.older_than_ms,
        keep_tagged=tags_record(entry.keep_tagged),
    )
    last_run = None if isinstance(entry.last_run, UnsetType) else micros(entry.last_run)
    return RetentionInfo(rule, entry.removed, last_run, micros(entry.updated_at))
