"""The handlers of holds (K2; wire: section 1)."""

from __future__ import annotations

from msgspec import UnsetType

from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import encode, or_default
from dwarf_nats.wire.decoding import EMPTY
from dwarf_nats.wire.holds import hold_message
from dwarf_nats.wire.times import to_micros

from .engine_api import EngineApi
from .handlers import RequestContext, handles


@handles("hold.put")
async def put(engine: EngineApi, request: m.HoldPutRequest, _context: RequestContext) -> bytes:
    until = None if isinstance(request.until, UnsetType) else to_micros(request.until)
    hold = await engine.put_hold(
        task=or_default(request.task, ""),
        workflow=or_default(request.workflow, ""),
        reason=or_default(request.reason, ""),
        until=until,
    )
    return encode(hold_message(hold))


@handles("hold.list")
async def list_(engine: EngineApi, _request: m.EmptyRequest, _context: RequestContext) -> bytes:
    return encode(m.HoldListReply(holds=[hold_message(one) for one in await engine.list_holds()]))


@handles("hold.delete")
async def delete(engine: EngineApi, request: m.HoldRequest, _context: RequestContext) -> bytes:
    await engine.delete_hold(task=or_default(request.task, ""), workflow=or_default(request.workflow, ""))
    return EMPTY
