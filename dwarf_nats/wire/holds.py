"""Holds: records and messages, one function for each direction, side by side (see `codec`)."""

from __future__ import annotations

from msgspec import UNSET

from dwarf_nats.workflow.records import HoldInfo

from .codec import micros_or_none, or_default, time_or_unset
from .hold_messages import Hold
from .times import micros, rfc3339


def hold_message(hold: HoldInfo) -> Hold:
    """A hold as it travels."""
    return Hold(
        task=hold.task or UNSET,
        workflow=hold.workflow or UNSET,
        reason=hold.reason or UNSET,
        since=rfc3339(hold.since),
        until=time_or_unset(hold.until),
        actor=hold.actor or UNSET,
        steps=hold.steps,
    )


def hold_record(message: Hold) -> HoldInfo:
    """A hold that was received."""
    return HoldInfo(
        task=or_default(message.task, ""),
        workflow=or_default(message.workflow, ""),
        reason=or_default(message.reason, ""),
        since=micros(message.since),
        until=micros_or_none(message.until),
        actor=or_default(message.actor, ""),
        steps=message.steps,
    )
