"""The options of a flow from JSON, as schedules and sources have them: rendered templates (O1, R3)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.tags import checked_tags

_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_PLACE = re.compile(r" - at `\$\.?([^`]*)`")


class _Options(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    priority: int | UnsetType = UNSET
    fairness_key: str = ""
    fairness_weight: float = 1.0
    start_at: datetime | UnsetType = UNSET
    baggage: msgspec.Raw | UnsetType = UNSET
    notify: str | UnsetType = UNSET
    time_budget_ms: int | UnsetType = UNSET
    delete_on_completion: bool = False
    tags: dict[str, Any] | UnsetType = UNSET
    durability: str | UnsetType = UNSET


_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(_Options))
_REFUSED = {
    "idempotencyKey": "leave it out: each flow gets a key of its own",
    "threadKey": "leave it out: a thread and an idempotency key exclude each other",
}


def options_from_json(text: bytes, where: str, idempotency_key: str) -> FlowOptions:
    """Return the options of a JSON object, with this idempotency key. Raises `BadRequest` with the place in `where`."""
    try:
        read = msgspec.json.decode(text, type=_Options)
    except msgspec.ValidationError as error:
        raise BadRequest(_refusal(str(error), where)) from None
    return FlowOptions(
        priority=_or_none(read.priority),
        fairness_key=read.fairness_key,
        fairness_weight=read.fairness_weight,
        start_at=_or_none(read.start_at),
        baggage=None if isinstance(read.baggage, UnsetType) else Raw(bytes(read.baggage)),
        idempotency_key=idempotency_key,
        notify=_or_none(read.notify),
        time_budget_ms=_or_none(read.time_budget_ms),
        delete_on_completion=read.delete_on_completion,
        durability=_or_none(read.durability),
        tags=None if isinstance(read.tags, UnsetType) else checked_tags(read.tags, f"{where}.tags"),
    )


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value


def _refusal(problem: str, where: str) -> str:
    """Say what is wrong with options, in the words of the library, and what to do."""
    unknown = _UNKNOWN.search(problem)
    if unknown is not None:
        remedy = _REFUSED.get(unknown[1]) or f"it is not known: {closest(unknown[1], _NAMES)}"
        return f"{where}.{unknown[1]}: {remedy}"
    place = _PLACE.search(problem)
    what = _PLACE.sub("", problem)
    return f"{where}{'.' + place[1] if place is not None and place[1] else ''}: {what[:1].lower()}{what[1:]}"
