"""Checks of schedules, and the flows they make: what reads templates (R3)."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import templates
from dwarf_nats.workflow.conditions import fields_of
from dwarf_nats.workflow.cron import cron_times, time_zone
from dwarf_nats.workflow.limits import UNLIMITED, Limits
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.option_json import options_from_json
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.schedules import (
    MAX_JITTER_MS,
    MAX_MS,
    MIN_EVERY_MS,
    Schedule,
    check_schedule_name,
    micros_of,
    rfc3339_short,
)
from dwarf_nats.workflow.state import Raw, State, check_state

_KNOWN = {"scheduledAt", "firedAt"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def flow_of(
    schedule: Schedule, due: int, fired: int, key: str, limits: Limits = UNLIMITED
) -> tuple[State, FlowOptions]:
    """Return state and options of the flow of a due time. Raises `BadRequest` with the place, `TooLarge`."""
    known = {
        "scheduledAt": Raw(orjson.dumps(rfc3339_short(due))),
        "firedAt": Raw(orjson.dumps(rfc3339_short(fired))),
    }
    where = f"schedule {schedule.name!r}, "
    text = bytes(templates.render(schedule.state or {}, {}, where=f"{where}state", extra=known))
    limits.check_bytes(len(text), "the state")
    state = check_state(text, f"{where}state", limits.max_depth)
    options = bytes(templates.render(schedule.options or {}, {}, where=f"{where}options", extra=known))
    return state, options_from_json(options, f"{where}options", key)


def check_schedule(schedule: Schedule) -> None:
    """Raise `BadRequest` that names the place and a remedy if it is no sound schedule."""
    check_schedule_name(schedule.name)
    where = f"schedule {schedule.name!r}, "
    try:
        check_subject_name(schedule.workflow, "workflow")
        _check_times(schedule)
    except BadRequest as error:
        raise BadRequest(f"{where}{error.message}") from None
    if schedule.cron:
        try:
            cron_times(schedule.cron, "UTC")
        except BadRequest as error:
            raise BadRequest(f"{where}cron: {error.message}") from None
    for field in ("state", "options"):
        for problem in templates.problems(getattr(schedule, field) or {}, field):
            raise BadRequest(f"{where}{problem}")
        for place, source in templates.expressions(getattr(schedule, field) or {}, field):
            for name in set(fields_of(source)) - _KNOWN:
                raise BadRequest(
                    f"{where}{place}: the expression {source[:200]!r} reads {name!r}: a schedule knows"
                    " scheduledAt and firedAt, as texts"
                )
    now = micros_of(datetime.now(UTC))
    due = schedule.after(now)
    moment = due if due is not None else now
    flow_of(schedule, moment, moment, key="key")


def _check_times(schedule: Schedule) -> None:
    if bool(schedule.cron) is bool(schedule.every_ms):
        both = "both cron and everyMs are given" if schedule.cron else "neither cron nor everyMs is given"
        raise BadRequest(f"{both}: give one of them, such as cron '0 3 * * *' or everyMs 60000")
    if not schedule.cron:
        _check_range("everyMs", schedule.every_ms, MIN_EVERY_MS, MAX_MS)
        if schedule.timezone != "UTC":
            raise BadRequest("timezone has no meaning with everyMs: leave it out, or use cron")
        if schedule.jitter_ms >= schedule.every_ms:
            raise BadRequest(f"jitterMs must be less than everyMs ({schedule.every_ms}), got {schedule.jitter_ms}")
    try:
        time_zone(schedule.timezone)
    except BadRequest as error:
        raise BadRequest(f"timezone: {error.message}") from None
    _check_range("jitterMs", schedule.jitter_ms, 0, MAX_JITTER_MS)
    _check_range("catchUpMs", schedule.catch_up_ms, 0, MAX_MS)
    for name, at in (("from", schedule.from_), ("until", schedule.until)):
        if at is not None and (at.tzinfo is None or at < _EPOCH):
            raise BadRequest(f"{name} must be a time with a zone since 1970, such as 2026-12-01T00:00:00Z")
    if schedule.from_ is not None and schedule.until is not None and schedule.until < schedule.from_:
        raise BadRequest("until is before from: it would never be due")


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BadRequest(f"{name} must be between {least} and {most}, got {value}")
