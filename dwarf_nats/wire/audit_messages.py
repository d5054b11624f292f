"""The messages of the audit trail (M3)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta

from .message_fields import FlowId, Maybe, Message, Millis, Request, Time

Actor = Annotated[str, Meta(description="Who asked, as far as is known.")]
OperationName = Annotated[str, Meta(description="The subject without its prefix.", examples=["flow.cancel"])]


class AuditListRequest(Request):
    """List audit records, newest first (M3). Filters are combinable; `limit` is 100 unless given."""

    flow_id: Maybe[FlowId] = UNSET
    actor: Maybe[Actor] = UNSET
    operation: Maybe[OperationName] = UNSET
    older_than_ms: Maybe[Millis] = UNSET
    newer_than_ms: Maybe[Millis] = UNSET
    limit: Maybe[Annotated[int, Meta(ge=1, le=1000)]] = UNSET
    cursor: Maybe[str] = UNSET


class AuditError(Message):
    """Why an operation was refused."""

    code: int
    message: str


class AuditEntry(Message):
    """One operation that steered or was refused (M3); fields without a value are left out."""

    at: Time
    operation: OperationName
    actor: Actor
    outcome: Annotated[
        str,
        Meta(
            description="Whether it was carried out; unknown while it is under way, and if the replica died in it.",
            extra_json_schema={"enum": ["ok", "refused", "unknown"]},
        ),
    ]
    flow_id: Maybe[FlowId] = UNSET
    name: Maybe[Annotated[str, Meta(description="Of what it was about, if that is no flow.")]] = UNSET
    reason: Maybe[str] = UNSET
    error: Maybe[AuditError] = UNSET
    details: Maybe[Annotated[dict[str, Any], Meta(description="What was asked, and what came of it.")]] = UNSET


class AuditListReply(Message):
    """A page of records; no cursor on the last."""

    records: list[AuditEntry]
    cursor: Maybe[str] = UNSET
