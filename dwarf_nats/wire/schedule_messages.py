"""The messages about schedules (wire section 1; R3). `messages` has their names, too."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta

from .message_fields import FlowId, Maybe, Message, Millis, Object, Request, Subject, Time, Truncated, When

ScheduleName = Annotated[
    str, Meta(description="Tokens of A-Z a-z 0-9 _ - joined by single dots, at most 128 characters.")
]
StateTemplate = Annotated[
    Object, Meta(description="The state of each flow, as a template that knows scheduledAt and firedAt.")
]
OptionsTemplate = Annotated[Object, Meta(description="The options of each flow, as a template like `state`.")]
CronText = Annotated[
    str, Meta(description="Minute, hour, day of month, month, day of week; or six fields with the second first.")
]
EveryMs = Annotated[Millis, Meta(description="Milliseconds from one due time to the next, instead of `cron`.")]
Timezone = Annotated[str, Meta(description="An IANA name such as Europe/Berlin; default UTC.")]
JitterMs = Annotated[Millis, Meta(description="Each due time fires up to so much later.")]
OverlapName = Annotated[
    Literal["skip", "allow", "queue", "cancel"],
    Meta(description="What becomes of a due time while the last flow has not ended; default skip."),
]
CatchUpMs = Annotated[Millis, Meta(description="Age up to which a missed due time fires later; default 60000.")]
RunOutcomeName = Literal["started", "skipped", "missed", "failed"]


class SchedulePutRequest(Request):
    """Keep a schedule under its name, in place of one that had it (R3)."""

    name: ScheduleName
    workflow: Subject
    state: Maybe[StateTemplate] = UNSET
    options: Maybe[OptionsTemplate] = UNSET
    cron: Maybe[CronText] = UNSET
    every_ms: Maybe[EveryMs] = UNSET
    timezone: Maybe[Timezone] = UNSET
    jitter_ms: Maybe[JitterMs] = UNSET
    overlap: Maybe[OverlapName] = UNSET
    catch_up_ms: Maybe[CatchUpMs] = UNSET
    from_: Maybe[When] = msgspec.field(default=UNSET, name="from")
    until: Maybe[When] = UNSET
    paused: Maybe[bool] = UNSET


class ScheduleRun(Message):
    """The outcome of a due time. `message`: why no flow was started (R3)."""

    due_at: Time
    outcome: RunOutcomeName
    fired_at: Maybe[Time] = UNSET
    flow_id: Maybe[FlowId] = UNSET
    message: Maybe[str] = UNSET


class ScheduleReply(Message):
    """A schedule as it was put, with its last ten runs, the newest first, and its next ten due times (R3).

    In a list it has neither state nor options, and the last run and the next due time only.
    """

    name: str
    workflow: str
    last: list[ScheduleRun]
    next: list[Time]
    description: Annotated[str, Meta(description="When it is due, in plain words.")]
    created_at: Time
    updated_at: Time
    state: Maybe[StateTemplate] = UNSET
    options: Maybe[OptionsTemplate] = UNSET
    cron: Maybe[CronText] = UNSET
    every_ms: Maybe[EveryMs] = UNSET
    timezone: Maybe[Timezone] = UNSET
    jitter_ms: Maybe[JitterMs] = UNSET
    overlap: Maybe[OverlapName] = UNSET
    catch_up_ms: Maybe[CatchUpMs] = UNSET
    from_: Maybe[Time] = msgspec.field(default=UNSET, name="from")
    until: Maybe[Time] = UNSET
    paused: Maybe[bool] = UNSET
    warnings: Maybe[Annotated[list[str], Meta(description="What looks like a mistake.")]] = UNSET
    truncated: Maybe[Truncated] = UNSET


class ScheduleRequest(Request):
    """Name a schedule."""

    name: ScheduleName


class ScheduleListRequest(Request):
    """List schedules by name, of one workflow if it is named (R3)."""

    workflow: Maybe[Subject] = UNSET
    limit: Maybe[Annotated[int, Meta(ge=1, le=1000)]] = UNSET
    cursor: Maybe[str] = UNSET


class ScheduleListReply(Message):
    """A page of schedules; `cursor` leads to the next one (R3)."""

    schedules: list[ScheduleReply]
    cursor: Maybe[str] = UNSET


class ScheduleBackfillRequest(Request):
    """Start a flow for each due time of a past range that has none, at most 1,000 (R3)."""

    name: ScheduleName
    from_: When = msgspec.field(name="from")
    to: When


class ScheduleBackfillReply(Message):
    """The number of flows that were started (R3)."""

    fired: int
