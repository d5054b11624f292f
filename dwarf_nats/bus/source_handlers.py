"""The handlers of the operations on sources and outboxes (wire: section 1; R1, R2)."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import encode, options_of_json, or_default
from dwarf_nats.wire.decoding import EMPTY, field_names
from dwarf_nats.wire.outbox_messages import OutboxRowInfo, row_message
from dwarf_nats.wire.source_messages import source_message, source_record
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.source_templates import NOT_ACCEPTED, check_source
from dwarf_nats.workflow.sources import Source
from dwarf_nats.workflow.state import encode_value
from dwarf_nats.workflow.templates import expressions

from .engine_api import EngineApi
from .handlers import RequestContext, handles

OPTIONS = tuple(field_names(m.Options))


@handles("source.put")
async def put(engine: EngineApi, request: m.SourcePutRequest, _context: RequestContext) -> bytes:
    source = source_record(request)
    check_source(source)
    check_options(source)
    return encode(source_message(await engine.put_source(source)))


@handles("source.get")
async def get(engine: EngineApi, request: m.SourceRequest, _context: RequestContext) -> bytes:
    return encode(source_message(await engine.get_source(request.name)))


@handles("source.list")
async def list_(engine: EngineApi, _request: m.EmptyRequest, _context: RequestContext) -> bytes:
    found = [source_message(one) for one in await engine.list_sources()]
    return encode(m.SourceListReply(sources=found))


@handles("source.pause")
async def pause(engine: EngineApi, request: m.SourceRequest, _context: RequestContext) -> bytes:
    return encode(source_message(await engine.pause_source(request.name)))


@handles("source.resume")
async def resume(engine: EngineApi, request: m.SourceRequest, _context: RequestContext) -> bytes:
    return encode(source_message(await engine.resume_source(request.name)))


@handles("source.delete")
async def delete(engine: EngineApi, request: m.SourceRequest, _context: RequestContext) -> bytes:
    await engine.delete_source(request.name)
    return EMPTY


@handles("outbox.list")
async def outbox_list(engine: EngineApi, request: m.OutboxListRequest, _context: RequestContext) -> bytes:
    found = await engine.list_outbox(
        or_default(request.limit, 100),
        or_default(request.cursor, ""),
        rejected=or_default(request.rejected, default=False),
    )
    rows = [
        row_message(
            OutboxRowInfo(
                row=f"{shard}-{one.row_id}",
                workflow=one.workflow,
                created_at=one.created_at,
                attempts=one.attempts,
                reason=one.reason,
                rejected_at=one.rejected_at,
            )
        )
        for shard, one in found.rows
    ]
    return encode(m.OutboxListReply(rows=rows, cursor=found.cursor or UNSET))


@handles("outbox.retry")
async def outbox_retry(engine: EngineApi, request: m.OutboxRequest, _context: RequestContext) -> bytes:
    await engine.retry_outbox(request.row)
    return EMPTY


@handles("outbox.delete")
async def outbox_delete(engine: EngineApi, request: m.OutboxRequest, _context: RequestContext) -> bytes:
    await engine.delete_outbox(request.row)
    return EMPTY


def check_options(source: Source) -> None:
    """Check the options of a source as far as no message decides them. Raises `BadRequest` with the place."""
    options: Any = source.start.options if source.start is not None else None
    if not options:
        return
    for name in options:
        if name not in OPTIONS:
            known = [one for one in OPTIONS if one not in NOT_ACCEPTED]
            raise BadRequest(f"start.options has an unknown field {name[:80]!r}; {closest(name, known)}")
    written_out = {name: value for name, value in options.items() if not list(expressions(value, ""))}
    options_of_json(encode_value(written_out, "start.options"), "start.options")
