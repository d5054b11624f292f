"""The handlers of retention rules (wire: section 1; M2)."""

from __future__ import annotations

from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import encode
from dwarf_nats.wire.decoding import EMPTY
from dwarf_nats.wire.retention_messages import preview_reply, retention_entry, retention_rule

from .engine_api import EngineApi
from .handlers import RequestContext, handles


@handles("retention.put")
async def retention_put(engine: EngineApi, request: m.RetentionDocument, _context: RequestContext) -> bytes:
    await engine.put_retention(retention_rule(request))
    return EMPTY


@handles("retention.list")
async def retention_list(engine: EngineApi, _request: m.EmptyRequest, _context: RequestContext) -> bytes:
    return encode(m.RetentionListReply(rules=[retention_entry(one) for one in await engine.list_retention()]))


@handles("retention.delete")
async def retention_delete(engine: EngineApi, request: m.RetentionRequest, _context: RequestContext) -> bytes:
    await engine.delete_retention(request.name)
    return EMPTY


@handles("retention.preview")
async def retention_preview(engine: EngineApi, request: m.RetentionPreviewRequest, _context: RequestContext) -> bytes:
    return encode(preview_reply(await engine.preview_retention(retention_rule(request))))
