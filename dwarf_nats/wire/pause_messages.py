"""The messages about pauses, as types, and their records (wire section 1)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, UnsetType

from dwarf_nats.workflow import records

from .message_fields import AnyJson, Key, Maybe, Message, Object, Request, Time
from .times import micros, rfc3339

_FlowKey = Annotated[str, Meta(description="The flow, to continue its oldest pause; leave out `stepKey` then.")]
_StepKey = Annotated[str, Meta(description="The step, to continue exactly its pause; leave out `flowKey` then.")]


class FlowResumeRequest(Request):
    """Continue an interrupt with data for the task (O11): that of a step, or the oldest of a flow."""

    flow_key: Maybe[_FlowKey] = UNSET
    step_key: Maybe[_StepKey] = UNSET
    data: Maybe[AnyJson] = UNSET


class FlowResumeBreakRequest(Request):
    """Continue a breakpoint with fields of the state replaced (O11): that of a step, or the oldest of a flow."""

    flow_key: Maybe[_FlowKey] = UNSET
    step_key: Maybe[_StepKey] = UNSET
    overrides: Maybe[Object] = UNSET


class Pause(Message):
    """One pause of a flow or of a flow that it called (P5). `payload` of an interrupt; `until`: its deadline, if it has one."""

    step_key: Annotated[Key, Meta(description="Continues exactly this pause: a capability, keep it out of logs.")]
    task: str
    kind: Literal["interrupt", "breakpoint"]
    since: Time
    until: Maybe[Time] = UNSET
    payload: Maybe[AnyJson] = UNSET


def pause_message(pause: records.Pause) -> Pause:
    """A pause as it travels."""
    return Pause(
        step_key=pause.step_key,
        task=pause.task,
        kind=pause.kind,
        since=rfc3339(pause.since),
        until=UNSET if pause.until is None else rfc3339(pause.until),
        payload=UNSET if pause.payload_json is None else Raw(pause.payload_json),
    )


def pause_record(message: Pause) -> records.Pause:
    """A pause that was received."""
    return records.Pause(
        step_key=message.step_key,
        task=message.task,
        kind=message.kind,
        since=micros(message.since),
        until=None if isinstance(message.until, UnsetType) else micros(message.until),
        payload_json=None if isinstance(message.payload, UnsetType) else bytes(message.payload),
    )
