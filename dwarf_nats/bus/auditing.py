"""Requests that are recorded: what an audit record says of a request and its reply (M3)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from dwarf_nats.actor import printable_actor
from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.workflow.audit import AuditBegun, AuditNote, recorded_text

from .endpoints import Endpoint
from .engine_api import EngineApi
from .handlers import RequestContext

NAMES = ("name", "task", "workflow", "shard", "row")
"""Fields of a request that name what it is about, where that is no flow; the first one counts."""
ASKED = (
    *("task", "enabled", "action", "status", "workflow", "olderThanMs", "newerThanMs", "limit"),
    *("cordoned", "weight", "until", "from", "to", "query"),
)
"""Fields of a request that are recorded: none that can hold a payload, a key or what a search looked for."""
ANSWERED = ("deleted", "matched", "done", "failed", "fired", "digest", "flowKey")
"""Fields of a reply that are recorded: a list as its length, a key as its id."""
_READ = frozenset({"flowKey", "stepKey", "reason", "dryRun", *NAMES, *ASKED})


class _Named(msgspec.Struct):
    """The name in a document."""

    name: str


async def carried_out(
    endpoint: Endpoint, engine: EngineApi, context: RequestContext, *, tried_again: bool = False
) -> bytes:
    """Carry out a request; if its operation is audited, record it before, and how it ended before it is answered.

    Raises as `Endpoint.answer`. A request that could not be read names nothing and did nothing, so it leaves no record. Nor
    does a dry run, a page of no flows, or a request that found a database away if it is `tried_again`: such a one may come
    several times, so it is recorded only when it has ended.
    """
    if not endpoint.operation.audited:
        return await endpoint.answer(engine, context)
    with contextlib.suppress(DwarfError):  # the answer says why it cannot be read
        endpoint.read(context)
    intent = _note(endpoint, context)
    if intent is None:
        return await endpoint.answer(engine, context)
    begun = None if tried_again else await engine.begin_audit(intent)
    try:
        body = await endpoint.answer(engine, context)
    except DwarfError as error:
        if not (tried_again and isinstance(error, Unavailable)):
            await _ended(engine, begun, _refused(intent, error))
        raise
    except asyncio.CancelledError:
        stopped = Unavailable("this replica stopped: it may or may not have been carried out")
        await _ended(engine, begun, _refused(intent, stopped))
        raise
    await _ended(engine, begun, replace(intent, details={**intent.details, **_answered(body)}))
    return body


async def _ended(engine: EngineApi, begun: AuditBegun | None, note: AuditNote) -> None:
    if begun is None:
        await engine.record_audit(note)
    else:
        await engine.complete_audit(begun, note)


def _refused(note: AuditNote, refusal: DwarfError) -> AuditNote:
    return replace(note, code=refusal.code, message=refusal.message)


def _note(endpoint: Endpoint, context: RequestContext) -> AuditNote | None:
    """Return what a request asks for as a record has it; `None` if it leaves no record."""
    asked = _asked(context)
    if asked is None or asked.get("dryRun") is True or asked.get("limit") == 0:
        return None
    flow_key, step_key = asked.get("flowKey", ""), asked.get("stepKey", "")
    named = "" if flow_key or step_key else next((str(asked[name]) for name in NAMES if name in asked), "")
    return AuditNote(
        operation=endpoint.operation.name,
        flow_key=flow_key,
        step_key=step_key,
        name=named,
        actor=printable_actor(context.actor),
        reason=asked.get("reason", ""),
        details={name: _short(asked[name]) for name in ASKED if name in asked},
    )


def _asked(context: RequestContext) -> dict[str, Any] | None:
    """The fields of a request that matter here, by their names on the wire; `None` if it could not be read."""
    if context.request is not None:
        return _fields(context.request)
    try:
        return {"name": msgspec.json.decode(context.payload, type=_Named).name}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    names = zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True)
    found = {name: getattr(struct, attribute) for name, attribute in names if name in _READ}
    return {name: value for name, value in found.items() if value is not UNSET}


def _answered(body: bytes) -> dict[str, Any]:
    """Return the part of a reply that a record keeps."""
    if not body:
        return {}
    reply = msgspec.json.decode(body)
    found = {name: _short(reply[name]) for name in ANSWERED if name in reply}
    if "flowKey" in found:
        found["made"] = found.pop("flowKey")
    return found


def _short(value: Any) -> Any:
    """A value as a record keeps it."""
    if isinstance(value, msgspec.Struct):
        return {name: _short(inner) for name, inner in _fields(value).items() if name in ASKED}
    if isinstance(value, list | dict):
        return len(value)
    if isinstance(value, bool | int | float):
        return value
    return recorded_text(value.isoformat() if isinstance(value, datetime) else str(value))
