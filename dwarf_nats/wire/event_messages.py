"""The messages about events (E1): signals, and their receipts."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from .message_fields import AnyJson, Maybe, Message, Millis, Request, Subject

EventKey = Annotated[str, Meta(description="Any text of at most 256 bytes; empty if it is left out.")]
EventId = Annotated[str, Meta(description="Signalled again while the event is kept, it counts once for event and key.")]
KeepMs = Annotated[
    Millis, Meta(description="Milliseconds to keep it for a step to come; default 86400000, 0: not at all.")
]


class FlowSignalRequest(Request):
    """Hand an event to every step that waits for it, or keep it for the first to come (E1)."""

    event: Subject
    key: Maybe[EventKey] = UNSET
    data: Maybe[AnyJson] = UNSET
    id: Maybe[EventId] = UNSET
    keep_ms: Maybe[KeepMs] = UNSET


class SignalRequest(Request):
    """The same, to the subject of the event: the name in the body may be left out (E1)."""

    event: Maybe[Subject] = UNSET
    key: Maybe[EventKey] = UNSET
    data: Maybe[AnyJson] = UNSET
    id: Maybe[EventId] = UNSET
    keep_ms: Maybe[KeepMs] = UNSET


class FlowSignalReply(Message):
    """The number of steps that received the event, and whether it is kept for one to come (E1)."""

    delivered: int
    kept: bool
