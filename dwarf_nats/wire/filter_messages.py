"""The filters of flows, and the requests that list and purge (wire section 1; O9). `messages` has their names, too."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from .message_fields import FlowId, FlowStatus, Integer, Key, Maybe, Millis, Priority, Request
from .tag_messages import TagsJson


class Conditions(Request):
    """Filters, all combinable (O9). Ages are since the last change of the flow's status. A flow must have all `tags` (Q1)."""

    status: Maybe[FlowStatus] = UNSET
    workflow: Maybe[str] = UNSET
    thread_key: Maybe[Key] = UNSET
    task: Maybe[str] = UNSET
    fairness_key: Maybe[str] = UNSET
    priority: Maybe[Priority] = UNSET
    older_than_ms: Maybe[Millis] = UNSET
    newer_than_ms: Maybe[Millis] = UNSET
    shard: Maybe[Integer] = UNSET
    search: Maybe[str] = UNSET
    flow_id: Maybe[FlowId] = UNSET
    tags: Maybe[TagsJson] = UNSET


class Filters(Conditions):
    """Filters, and how many flows."""

    limit: Maybe[Annotated[int, Meta(ge=1, le=1000)]] = UNSET


class FlowListRequest(Filters):
    """List flows, newest first (O9)."""

    cursor: Maybe[str] = UNSET


class FlowCountRequest(Filters):
    """Count flows by status (O9). A `limit` means nothing here."""


class FlowPurgeRequest(Filters):
    """Delete what matches and is not running; at least one of status, workflow, olderThanMs (O9)."""

    limit: Maybe[Annotated[int, Meta(ge=1, le=10_000)]] = UNSET
