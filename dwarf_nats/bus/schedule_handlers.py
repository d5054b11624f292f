"""The handlers of schedules (wire: section 1; R3)."""

from __future__ import annotations

from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import encode, or_default
from dwarf_nats.wire.decoding import EMPTY
from dwarf_nats.wire.schedules import encoded, encoded_list, schedule_record
from dwarf_nats.wire.times import to_micros

from .engine_api import EngineApi
from .handlers import RequestContext, handles


@handles("schedule.put")
async def put(engine: EngineApi, request: m.SchedulePutRequest, context: RequestContext) -> bytes:
    return encoded(await engine.put_schedule(schedule_record(request)), context.max_reply_bytes())


@handles("schedule.get")
async def get(engine: EngineApi, request: m.ScheduleRequest, context: RequestContext) -> bytes:
    return encoded(await engine.get_schedule(request.name), context.max_reply_bytes())


@handles("schedule.list")
async def list_(engine: EngineApi, request: m.ScheduleListRequest, context: RequestContext) -> bytes:
    found, cursor = await engine.list_schedules(
        or_default(request.limit, None), or_default(request.cursor, ""), or_default(request.workflow, None)
    )
    return encoded_list(list(found), cursor, context.max_reply_bytes())


@handles("schedule.delete")
async def delete(engine: EngineApi, request: m.ScheduleRequest, _context: RequestContext) -> bytes:
    await engine.delete_schedule(request.name)
    return EMPTY


@handles("schedule.pause")
async def pause(engine: EngineApi, request: m.ScheduleRequest, context: RequestContext) -> bytes:
    return encoded(await engine.pause_schedule(request.name), context.max_reply_bytes())


@handles("schedule.resume")
async def resume(engine: EngineApi, request: m.ScheduleRequest, context: RequestContext) -> bytes:
    return encoded(await engine.resume_schedule(request.name), context.max_reply_bytes())


@handles("schedule.trigger")
async def trigger(engine: EngineApi, request: m.ScheduleRequest, context: RequestContext) -> bytes:
    return encoded(await engine.trigger_schedule(request.name, context.msg_id), context.max_reply_bytes())


@handles("schedule.backfill")
async def backfill(engine: EngineApi, request: m.ScheduleBackfillRequest, _context: RequestContext) -> bytes:
    fired = await engine.backfill_schedule(request.name, to_micros(request.from_), to_micros(request.to))
    return encode(m.ScheduleBackfillReply(fired=fired))
