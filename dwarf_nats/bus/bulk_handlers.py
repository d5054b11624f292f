"""The handler of bulk operations (wire: section 1; M1)."""

from __future__ import annotations

from msgspec import UnsetType

from dwarf_nats.wire import messages as m
from dwarf_nats.wire import truncation
from dwarf_nats.wire.codec import or_default, query
from dwarf_nats.wire.tag_messages import tag_changes
from dwarf_nats.workflow.bulk import Bulk, BulkAction
from dwarf_nats.workflow.limits import UNBOUNDED
from dwarf_nats.workflow.state import check_json

from .engine_api import EngineApi
from .handlers import RequestContext, handles


@handles("flow.bulk")
async def bulk(engine: EngineApi, request: m.FlowBulkRequest, context: RequestContext) -> bytes:
    data = or_default(request.data, None)
    if data is not None:
        check_json(bytes(data), "field `data`", UNBOUNDED)  # the engine checks the depth
    order = Bulk(
        action=BulkAction(request.action),
        query=query(request.query),
        reason=or_default(request.reason, ""),
        data=data,
        tags=None if isinstance(request.tags, UnsetType) else tag_changes(request.tags, "field `tags`"),
        dry_run=or_default(request.dry_run, default=False),
        limit=or_default(request.limit, None),
        cursor=or_default(request.cursor, ""),
    )
    return truncation.bulk(await engine.bulk(order), context.max_reply_bytes())
