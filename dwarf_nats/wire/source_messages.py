"""The messages about sources, and their conversion to records (R1, R2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, UnsetType

from dwarf_nats.workflow.sources import BODY, Source, SourceInfo, SourceSignal, SourceStart, SourceState
from dwarf_nats.workflow.state import check_json, decode_value, encode_value

from .message_fields import AnyJson, Maybe, Message, Object, Request, Time
from .times import micros, rfc3339

SourceName = Annotated[str, Meta(description="A-Z a-z 0-9 _ -, at most 64 characters.", examples=["orders"])]
SourceSubject = Annotated[str, Meta(description="The subject of the messages; wildcards are allowed.")]
StreamName = Annotated[
    str, Meta(description="The JetStream stream to read; without one each message is used once at most.")
]
Template = Annotated[Raw, Meta(description="JSON; a text that begins with = is an expression over the message.")]
TemplateObject = Annotated[
    Raw,
    Meta(description="As a template; the fields of the options of a create.", extra_json_schema={"type": "object"}),
]
Deliver = Annotated[
    Literal["all", "new"],
    Meta(description="The messages of a stream that the source has never read: all (the default), or new ones only."),
]


class SourceStartMessage(Request):
    """The flow that a message starts. Each field may have expressions over the message (R1)."""

    workflow: str
    state: Maybe[Template] = UNSET
    options: Maybe[TemplateObject] = UNSET


class SourceSignalMessage(Request):
    """The event that a message signals. Each field may have expressions over the message (R1)."""

    event: str
    key: Maybe[str] = UNSET
    data: Maybe[Template] = UNSET


class SourcePutRequest(Request):
    """Turn the messages of a subject into flows or events; replaces the source of this name (R1)."""

    name: SourceName
    subject: SourceSubject
    stream: Maybe[StreamName] = UNSET
    start: Maybe[SourceStartMessage] = UNSET
    signal: Maybe[SourceSignalMessage] = UNSET
    paused: Maybe[bool] = UNSET
    deliver: Maybe[Deliver] = UNSET


class SourceRequest(Request):
    """Name a source (R1)."""

    name: SourceName


class SourceStartEntry(Message):
    """As `SourceStartMessage`, in a reply (R1)."""

    workflow: str
    state: Maybe[AnyJson] = UNSET
    options: Maybe[Object] = UNSET


class SourceSignalEntry(Message):
    """As `SourceSignalMessage`, in a reply (R1)."""

    event: str
    key: Maybe[str] = UNSET
    data: Maybe[AnyJson] = UNSET


class SourceReply(Message):
    """A source, and how it stands (R1, R2)."""

    name: str
    subject: str
    updated_at: Time
    state: Annotated[str, Meta(description="running, paused, or waiting, of which the reason says for what.")]
    stream: Maybe[str] = UNSET
    start: Maybe[SourceStartEntry] = UNSET
    signal: Maybe[SourceSignalEntry] = UNSET
    paused: bool = False
    deliver: Maybe[str] = UNSET
    reason: Maybe[str] = UNSET
    pending: Maybe[Annotated[int, Meta(description="Messages that wait in the stream.")]] = UNSET
    in_hand: Maybe[
        Annotated[int, Meta(description="Messages delivered and not done, those included that come again.")]
    ] = UNSET
    rejected: int = 0
    last_error: Maybe[str] = UNSET
    last_error_at: Maybe[Time] = UNSET


class SourceListReply(Message):
    """All sources, by name (R1)."""

    sources: list[SourceReply]


class Rejected(Message):
    """A message that a source could not use (R2)."""

    source: str
    subject: str
    reason: str
    at: Time
    stream: Maybe[str] = UNSET
    sequence: Maybe[int] = UNSET


# --- conversion ---


def _value(text: Raw | UnsetType, default: Any, what: str) -> Any:
    if isinstance(text, UnsetType):
        return default
    check_json(bytes(text), what)
    return decode_value(text)


def source_record(message: SourcePutRequest) -> Source:
    """The source of a request. Raises `BadRequest` for JSON that is not sound; the rest is for `check_source`."""
    start, signal = message.start, message.signal
    return Source(
        name=message.name,
        subject=message.subject,
        stream="" if isinstance(message.stream, UnsetType) else message.stream,
        start=None
        if isinstance(start, UnsetType)
        else SourceStart(
            workflow=start.workflow,
            state=_value(start.state, BODY, "start.state"),
            options=_value(start.options, None, "start.options"),
        ),
        signal=None
        if isinstance(signal, UnsetType)
        else SourceSignal(
            event=signal.event,
            key="" if isinstance(signal.key, UnsetType) else signal.key,
            data=_value(signal.data, BODY, "signal.data"),
        ),
        paused=message.paused is True,
        deliver="all" if isinstance(message.deliver, UnsetType) else message.deliver,
    )


def source_request(source: Source) -> SourcePutRequest:
    """A source as a request. Raises `BadRequest` for values that JSON cannot hold."""
    start, signal = source.start, source.signal
    return SourcePutRequest(
        name=source.name,
        subject=source.subject,
        stream=source.stream or UNSET,
        start=UNSET
        if start is None
        else SourceStartMessage(
            workflow=start.workflow,
            state=_raw(start.state, BODY, "start.state"),
            options=_raw(start.options, None, "start.options"),
        ),
        signal=UNSET
        if signal is None
        else SourceSignalMessage(
            event=signal.event, key=signal.key or UNSET, data=_raw(signal.data, BODY, "signal.data")
        ),
        paused=source.paused or UNSET,
        deliver=UNSET if source.deliver == "all" else source.deliver,
    )


def _raw(value: Any, default: Any, what: str) -> Raw | UnsetType:
    return UNSET if value == default else Raw(encode_value(value, what))


def source_message(info: SourceInfo) -> SourceReply:
    """A source as a reply has it."""
    asked, state = source_request(info.source), info.state
    return SourceReply(
        name=asked.name,
        subject=asked.subject,
        stream=asked.stream,
        start=UNSET
        if isinstance(asked.start, UnsetType)
        else SourceStartEntry(workflow=asked.start.workflow, state=asked.start.state, options=asked.start.options),
        signal=UNSET
        if isinstance(asked.signal, UnsetType)
        else SourceSignalEntry(event=asked.signal.event, key=asked.signal.key, data=asked.signal.data),
        paused=info.source.paused,
        deliver=asked.deliver,
        updated_at=rfc3339(info.updated_at),
        state=state.state,
        reason=state.reason or UNSET,
        pending=UNSET if state.pending is None else state.pending,
        in_hand=UNSET if state.in_hand is None else state.in_hand,
        rejected=info.rejected,
        last_error=info.last_error or UNSET,
        last_error_at=UNSET if info.last_error_at is None else rfc3339(info.last_error_at),
    )


def source_info(message: SourceReply) -> SourceInfo:
    """The record of a reply."""
    start, signal = message.start, message.signal
    source = Source(
        name=message.name,
        subject=message.subject,
        stream="" if isinstance(message.stream, UnsetType) else message.stream,
        start=None
        if isinstance(start, UnsetType)
        else SourceStart(
            workflow=start.workflow,
            state=BODY if isinstance(start.state, UnsetType) else decode_value(start.state),
            options=None if isinstance(start.options, UnsetType) else decode_value(start.options),
        ),
        signal=None
        if isinstance(signal, UnsetType)
        else SourceSignal(
            event=signal.event,
            key="" if isinstance(signal.key, UnsetType) else signal.key,
            data=BODY if isinstance(signal.data, UnsetType) else decode_value(signal.data),
        ),
        paused=message.paused,
        deliver="new" if message.deliver == "new" else "all",
    )
    return SourceInfo(
        source=source,
        updated_at=micros(message.updated_at),
        state=SourceState(
            message.state,
            "" if isinstance(message.reason, UnsetType) else message.reason,
            None if isinstance(message.pending, UnsetType) else message.pending,
            None if isinstance(message.in_hand, UnsetType) else message.in_hand,
        ),
        rejected=message.rejected,
        last_error=None if isinstance(message.last_error, UnsetType) else message.last_error,
        last_error_at=None if isinstance(message.last_error_at, UnsetType) else micros(message.last_error_at),
    )


def rejected_message(source: Source, sequence: int, subject: bytes, *, reason: str, at: int) -> Rejected:
    """The announcement of a message that could not be used. `sequence`: 0 for one of no stream."""
    return Rejected(
        source=source.name,
        stream=source.stream or UNSET,
        sequence=sequence or UNSET,
        subject=subject.decode("utf-8", "replace"),
        reason=reason,
        at=rfc3339(at),
    )
