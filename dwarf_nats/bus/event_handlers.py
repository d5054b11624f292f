"""The handlers of signals: as an operation, and by the subject of an event (wire: section 1; E1)."""

from __future__ import annotations

from typing import NamedTuple

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import encode, or_default
from dwarf_nats.workflow.limits import UNBOUNDED
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.records import EventReceipt
from dwarf_nats.workflow.state import NULL, Raw, check_json

from .engine_api import EngineApi
from .handlers import RequestContext, handles


class _Signal(NamedTuple):
    """The arguments of `Engine.signal` beside the event."""

    key: str
    data: Raw
    event_id: str | None
    keep_ms: int | None


@handles("flow.signal")
async def signal(engine: EngineApi, request: m.FlowSignalRequest, context: RequestContext) -> bytes:
    event = check_subject_name(request.event, "event")
    key, data, event_id, keep_ms = _signal(request, context)
    return _receipt(await engine.signal(event, key, data, event_id=event_id, keep_ms=keep_ms))


async def signal_by_subject(engine: EngineApi, request: m.SignalRequest, context: RequestContext) -> bytes:
    """Signal the event that the subject names."""
    event = check_subject_name(context.rest_of_subject, "event")
    if or_default(request.event, event) != event:
        raise BadRequest(
            f"the field `event` names {request.event!r}, and the subject {event!r}: leave the field out, or name the same"
        )
    key, data, event_id, keep_ms = _signal(request, context)
    return _receipt(await engine.signal(event, key, data, event_id=event_id, keep_ms=keep_ms))


def _signal(request: m.FlowSignalRequest | m.SignalRequest, context: RequestContext) -> _Signal:
    """Return the arguments that a request gives. Raises `BadRequest` for two ids."""
    data = or_default(request.data, NULL)
    check_json(bytes(data), "field `data`", UNBOUNDED)  # the engine checks the depth
    event_id = or_default(request.id, context.msg_id)
    if context.msg_id is not None and event_id != context.msg_id:
        raise BadRequest("the field `id` and the header Nats-Msg-Id differ: send one of them")
    return _Signal(or_default(request.key, ""), data, event_id, or_default(request.keep_ms, None))


def _receipt(receipt: EventReceipt) -> bytes:
    return encode(m.FlowSignalReply(delivered=receipt.delivered, kept=receipt.kept))
