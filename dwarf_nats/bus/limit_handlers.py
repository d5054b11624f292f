"""The handlers of limits (wire: section 1; K1)."""

from __future__ import annotations

from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import encode
from dwarf_nats.wire.decoding import EMPTY
from dwarf_nats.wire.limit_messages import limit_entry, limit_record

from .engine_api import EngineApi
from .handlers import RequestContext, handles


@handles("limit.put")
async def limit_put(engine: EngineApi, request: m.LimitDocument, _context: RequestContext) -> bytes:
    await engine.put_limit(limit_record(request))
    return EMPTY


@handles("limit.list")
async def limit_list(engine: EngineApi, _request: m.EmptyRequest, _context: RequestContext) -> bytes:
    return encode(m.LimitListReply(limits=[limit_entry(one) for one in await engine.list_limits()]))


@handles("limit.delete")
async def limit_delete(engine: EngineApi, request: m.LimitRequest, _context: RequestContext) -> bytes:
    await engine.delete_limit(request.name)
    return EMPTY
