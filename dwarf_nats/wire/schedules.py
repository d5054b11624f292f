"""Schedules as records and as messages, one function for each direction (R3)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.limits import UNBOUNDED
from dwarf_nats.workflow.schedules import (
    DEFAULT_CATCH_UP_MS,
    Overlap,
    RunOutcome,
    Schedule,
    ScheduleInfo,
    ScheduleRun,
)
from dwarf_nats.workflow.state import check_json, encode_value

from . import messages as m
from .codec import encode, micros_or_none, or_default, or_unset, time_or_unset
from .times import micros, rfc3339


def schedule_record(request: m.SchedulePutRequest) -> Schedule:
    """The schedule of a request. Raises `BadRequest`."""
    return Schedule(
        name=request.name,
        workflow=request.workflow,
        state=_object(request.state, "state"),
        options=_object(request.options, "options"),
        cron=or_default(request.cron, ""),
        every_ms=or_default(request.every_ms, 0),
        timezone=or_default(request.timezone, "UTC"),
        jitter_ms=or_default(request.jitter_ms, 0),
        overlap=Overlap(or_default(request.overlap, "skip")),
        catch_up_ms=or_default(request.catch_up_ms, DEFAULT_CATCH_UP_MS),
        from_=or_default(request.from_, None),
        until=or_default(request.until, None),
        paused=or_default(request.paused, default=False),
    )


def schedule_request(schedule: Schedule) -> m.SchedulePutRequest:
    """The request that puts a schedule; values that are the default are left out. Raises `BadRequest`."""
    return m.SchedulePutRequest(
        name=schedule.name,
        workflow=schedule.workflow,
        from_=_zoned(schedule.from_, "from"),
        until=_zoned(schedule.until, "until"),
        **_given(schedule),
    )


def schedule_message(info: ScheduleInfo, *, short: bool = False) -> m.ScheduleReply:
    """A schedule as it travels. `short`: as in a list."""
    schedule = info.schedule
    given = _given(schedule)
    if short:
        given |= {"state": UNSET, "options": UNSET}
    return m.ScheduleReply(
        name=schedule.name,
        workflow=schedule.workflow,
        from_=_text(schedule.from_),
        until=_text(schedule.until),
        last=[_run_message(run) for run in info.last],
        next=[rfc3339(due) for due in info.next],
        description=info.description,
        created_at=rfc3339(info.created_at),
        updated_at=rfc3339(info.updated_at),
        warnings=list(info.warnings) or UNSET,
        **given,
    )


def schedule_info(reply: m.ScheduleReply) -> ScheduleInfo:
    """A schedule of a reply."""
    schedule = Schedule(
        name=reply.name,
        workflow=reply.workflow,
        state=_object(reply.state, "state"),
        options=_object(reply.options, "options"),
        cron=or_default(reply.cron, ""),
        every_ms=or_default(reply.every_ms, 0),
        timezone=or_default(reply.timezone, "UTC"),
        jitter_ms=or_default(reply.jitter_ms, 0),
        overlap=Overlap(or_default(reply.overlap, "skip")),
        catch_up_ms=or_default(reply.catch_up_ms, DEFAULT_CATCH_UP_MS),
        from_=_when(reply.from_),
        until=_when(reply.until),
        paused=or_default(reply.paused, default=False),
    )
    return ScheduleInfo(
        schedule=schedule,
        last=[_run_record(run) for run in reply.last],
        next=[micros(due) for due in reply.next],
        description=reply.description,
        created_at=micros(reply.created_at),
        updated_at=micros(reply.updated_at),
        warnings=or_default(reply.warnings, []),
    )


def encoded(info: ScheduleInfo, room: int) -> bytes:
    """Encode a schedule; state, then options, and then the messages of its runs are left out if it does not fit."""
    reply = schedule_message(info)
    body = encode(reply)
    for field in ("state", "options"):
        if len(body) > room:
            setattr(reply, field, UNSET)
            reply.truncated = True
            body = encode(reply)
    if len(body) > room:
        shorter = [msgspec.structs.replace(run, message=None) for run in info.last]
        reply.last = [_run_message(run) for run in shorter]
        body = encode(reply)
    return body


def encoded_list(infos: list[ScheduleInfo], cursor: str, room: int) -> bytes:
    """Encode a page of schedules, as many as fit; the cursor goes on behind the last of them."""
    entries = [schedule_message(one, short=True) for one in infos]
    body = encode(m.ScheduleListReply(schedules=entries, cursor=cursor or UNSET))
    while len(body) > room and len(entries) > 1:
        del entries[max(1, min(len(entries) - 1, len(entries) * room // len(body))) :]
        body = encode(m.ScheduleListReply(schedules=entries, cursor=entries[-1].name))
    return body


# -- parts


def _given(schedule: Schedule) -> dict[str, Any]:
    """The fields of a schedule that are not what they are if left out."""
    return {
        "state": _template(schedule.state, "state"),
        "options": _template(schedule.options, "options"),
        "cron": schedule.cron or UNSET,
        "every_ms": schedule.every_ms or UNSET,
        "timezone": UNSET if schedule.timezone == "UTC" else schedule.timezone,
        "jitter_ms": schedule.jitter_ms or UNSET,
        "overlap": UNSET if schedule.overlap is Overlap.SKIP else schedule.overlap.value,
        "catch_up_ms": UNSET if schedule.catch_up_ms == DEFAULT_CATCH_UP_MS else schedule.catch_up_ms,
        "paused": schedule.paused or UNSET,
    }


def _object(text: Raw | UnsetType, name: str) -> dict[str, Any] | None:
    if isinstance(text, UnsetType):
        return None
    value = check_json(bytes(text), f"field `{name}`", UNBOUNDED)
    if not isinstance(value, dict):
        raise BadRequest(f"field `{name}` must be an object")
    return value


def _template(value: dict[str, Any] | None, name: str) -> Raw | UnsetType:
    return UNSET if value is None else Raw(encode_value(value, name))


def _zoned(at: datetime | None, name: str) -> datetime | UnsetType:
    if at is not None and at.tzinfo is None:
        raise BadRequest(f"{name} needs a time zone: use datetime.now(UTC) or .astimezone()")
    return or_unset(at)


def _text(at: datetime | None) -> str | UnsetType:
    return UNSET if at is None else at.isoformat().replace("+00:00", "Z")


def _when(text: str | UnsetType) -> datetime | None:
    return None if isinstance(text, UnsetType) else datetime.fromisoformat(text)


def _run_message(run: ScheduleRun) -> m.ScheduleRun:
    return m.ScheduleRun(
        due_at=rfc3339(run.due_at),
        outcome=run.outcome.value,
        fired_at=time_or_unset(run.fired_at),
        flow_id=or_unset(run.flow_id),
        message=or_unset(run.message),
    )


def _run_record(run: m.ScheduleRun) -> ScheduleRun:
    return ScheduleRun(
        due_at=micros(run.due_at),
        outcome=RunOutcome(run.outcome),
        fired_at=micros_or_none(run.fired_at),
        flow_id=or_default(run.flow_id, None),
        message=or_default(run.message, None),
    )
