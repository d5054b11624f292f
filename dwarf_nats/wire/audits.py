"""Audit records and their filters, from and to the messages of the wire (M3)."""

from __future__ import annotations

from typing import TypeVar

from msgspec import UNSET, UnsetType

from dwarf_nats.workflow.audit import UNKNOWN, AuditQuery, AuditRecord

from . import messages as m
from .codec import or_default
from .times import micros, rfc3339

T = TypeVar("T")
REFUSED, OK, OUTCOME_UNKNOWN = "refused", "ok", "unknown"
"""The outcomes of an operation."""


def audit_query(request: m.AuditListRequest) -> AuditQuery:
    """The filters of a request."""
    return AuditQuery(
        flow_id=or_default(request.flow_id, None),
        actor=or_default(request.actor, None),
        operation=or_default(request.operation, None),
        older_than_ms=or_default(request.older_than_ms, None),
        newer_than_ms=or_default(request.newer_than_ms, None),
        limit=or_default(request.limit, None),
    )


def audit_request(query: AuditQuery, cursor: str) -> m.AuditListRequest:
    """The request for a page."""
    return m.AuditListRequest(
        flow_id=_given(query.flow_id),
        actor=_given(query.actor),
        operation=_given(query.operation),
        older_than_ms=_given(query.older_than_ms),
        newer_than_ms=_given(query.newer_than_ms),
        limit=_given(query.limit),
        cursor=cursor or UNSET,
    )


def _given(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def audit_outcome(record: AuditRecord) -> str:
    """The outcome of a recorded operation."""
    if record.code == UNKNOWN:
        return OUTCOME_UNKNOWN
    return REFUSED if record.code else OK


def audit_message(record: AuditRecord) -> m.AuditEntry:
    """A record as it travels."""
    return m.AuditEntry(
        at=rfc3339(record.at),
        operation=record.operation,
        actor=record.actor,
        outcome=audit_outcome(record),
        flow_id=record.flow_id or UNSET,
        name=record.name or UNSET,
        reason=record.reason or UNSET,
        error=m.AuditError(code=record.code, message=record.message) if record.code > 0 else UNSET,
        details=dict(record.details) or UNSET,
    )


def audit_record(message: m.AuditEntry) -> AuditRecord:
    """A record that was received."""
    error = or_default(message.error, None)
    unknown = UNKNOWN if message.outcome == OUTCOME_UNKNOWN else 0
    return AuditRecord(
        at=micros(message.at),
        operation=message.operation,
        flow_id=or_default(message.flow_id, ""),
        name=or_default(message.name, ""),
        actor=message.actor,
        reason=or_default(message.reason, ""),
        code=error.code if error is not None else unknown,
        message=error.message if error is not None else "",
        details=or_default(message.details, {}),
    )
