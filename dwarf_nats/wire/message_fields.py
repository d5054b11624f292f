"""The field types and the two base classes of all messages (wire section 1)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Meta, Raw, UnsetType

from dwarf_nats.workflow.status import Status

T = TypeVar("T")
Maybe: TypeAlias = T | UnsetType
"""A field that may be left out; `UNSET` then."""

FlowStatus = Literal["created", "running", "interrupted", "completed", "failed", "cancelled"]


def flow_status(status: Status) -> FlowStatus:
    """The status of a flow as it travels. A flow is never pending, as steps are."""
    return cast(FlowStatus, status.value)


StepStatus = Literal["created", "pending", "running", "interrupted", "completed", "failed", "cancelled"]
ActionKind = Annotated[
    str,
    Meta(
        description="Of a step that asks no task.",
        extra_json_schema={"enum": ["set", "workflow", "request", "publish", "wait", "ask", "sleep"]},
    ),
]
Object = Annotated[Raw, Meta(description="A JSON object.", extra_json_schema={"type": "object"})]
AnyJson = Annotated[Raw, Meta(description="Any JSON.")]
When = Annotated[datetime, Meta(tz=True, description="RFC 3339.")]
Time = Annotated[str, Meta(description="RFC 3339, UTC.", extra_json_schema={"format": "date-time"})]
MOST = 2**63 - 1
"""Largest integer of any field: databases and other languages hold no larger one."""
Integer = Annotated[int, Meta(ge=-MOST - 1, le=MOST)]
Millis = Annotated[int, Meta(ge=0, le=MOST, description="Milliseconds.")]
TimeoutMs = Annotated[int, Meta(ge=0, le=MOST, description="Milliseconds; 0: do not wait; default 30000; capped.")]
Priority = Annotated[int, Meta(ge=1, le=MOST, description="1 is served first.")]
Key = Annotated[str, Meta(description="{shard}-{id}-{16 letters or digits}", examples=["1-42-a1B2c3D4e5F6g7H8"])]
StepId = Annotated[str, Meta(description="Token-free id of a step.", examples=["1-42"])]
FlowId = Annotated[
    str,
    Meta(description="Token-free id of a flow, which another flow may have called.", examples=["1-42"]),
]
Truncated = Annotated[bool, Meta(description="Something did not fit the bus and was left out.")]
TaskName = Annotated[
    str, Meta(description="The url of a task, or the subject of a request or message as the graph has it.")
]
Compensated = Annotated[
    bool, Meta(description="Its completed steps are being compensated; after that it fails or is cancelled.")
]
Subject = Annotated[str, Meta(description="Tokens of A-Z a-z 0-9 _ - joined by single dots.")]


class Request(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Base of requests: unknown fields are refused."""


class Message(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True, gc=False):
    """Base of replies and announcements: unknown fields are ignored."""
