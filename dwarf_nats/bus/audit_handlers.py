"""The handler of the audit trail (M3)."""

from __future__ import annotations

from dataclasses import replace

from msgspec import UNSET

from dwarf_nats.wire import messages as m
from dwarf_nats.wire.audits import audit_message, audit_query
from dwarf_nats.wire.codec import encode, or_default

from .engine_api import EngineApi
from .handlers import RequestContext, handles


@handles("audit.list")
async def audit_list(engine: EngineApi, request: m.AuditListRequest, context: RequestContext) -> bytes:
    wanted, room = audit_query(request), context.max_reply_bytes()
    while True:
        records, cursor = await engine.list_audit(wanted, or_default(request.cursor, ""))
        body = encode(m.AuditListReply(records=[audit_message(one) for one in records], cursor=cursor or UNSET))
        if len(body) <= room or len(records) <= 1:
            return body
        wanted = replace(wanted, limit=max(1, len(records) * room // (len(body) + 1)))
