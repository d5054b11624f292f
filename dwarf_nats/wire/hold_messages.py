"""The messages about holds (K2; wire section 1). `messages` has their names, too."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from .message_fields import Maybe, Message, Request, Subject, TaskName, Time, When

_Reason = Annotated[str, Meta(description="For people: it is shown with every step that the hold stops.")]


class HoldPutRequest(Request):
    """Stop a task or a workflow, one of them, or change that hold (K2)."""

    task: Maybe[TaskName] = UNSET
    workflow: Maybe[Subject] = UNSET
    reason: Maybe[_Reason] = UNSET
    until: Maybe[Annotated[When, Meta(description="When the hold ends by itself; left out: never.")]] = UNSET


class HoldRequest(Request):
    """Name a hold by what it stops: a task or a workflow (K2)."""

    task: Maybe[TaskName] = UNSET
    workflow: Maybe[Subject] = UNSET


class Hold(Message):
    """A hold on a task or on a workflow (K2)."""

    since: Time
    steps: Annotated[int, Meta(description="Steps that are due and kept by it.")]
    task: Maybe[TaskName] = UNSET
    workflow: Maybe[Subject] = UNSET
    reason: Maybe[_Reason] = UNSET
    until: Maybe[Annotated[Time, Meta(description="When it ends by itself.")]] = UNSET
    actor: Maybe[Annotated[str, Meta(description="Who put it, as far as that is known.")]] = UNSET


class HoldListReply(Message):
    """All holds, the oldest first (K2)."""

    holds: list[Hold]
