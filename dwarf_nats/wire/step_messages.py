"""The messages about steps, as types (wire section 1)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta

from .message_fields import ActionKind, AnyJson, Key, Maybe, Message, Object, StepStatus, Time, Truncated


class Branch(Message):
    """The place of a step in the innermost fan-out around it: branch `index`, from 0, of `count` branches (Q3)."""

    index: int
    count: int
    of: Annotated[str, Meta(description="The node that fanned out.")]


class FailedAttempt(Message):
    """An earlier attempt of a step, which failed (L3)."""

    attempt: Annotated[int, Meta(description="From 0.")]
    started_at: Time
    ended_at: Time
    error: dict[str, Any]


class StepPause(Message):
    """A pause of a step; `until` is the deadline of an interrupt that has one."""

    kind: Literal["interrupt", "breakpoint"]
    since: Time
    until: Maybe[Time] = UNSET
    payload: Maybe[Annotated[AnyJson, Meta(description="Of an interrupt; left out if it is too large.")]] = UNSET


class Progress(Message):
    """The last progress of a step that has not completed (B7)."""

    at: Time
    fraction: Maybe[Annotated[float, Meta(ge=0, le=1)]] = UNSET
    text: Maybe[str] = UNSET
    data: Maybe[Annotated[AnyJson, Meta(description="Given to the next execution of the step as `checkpoint`.")]] = (
        UNSET
    )


class Step(Message):
    """One step (O7); fields without a value are left out."""

    step_key: Key
    step_id: int
    depth: int
    task: str
    attempt: int
    status: StepStatus
    created_at: Time
    updated_at: Time
    started_at: Maybe[Time] = UNSET
    error: Maybe[dict[str, Any]] = UNSET
    predecessor_id: Maybe[int] = UNSET
    successor_id: Maybe[int] = UNSET
    state: Maybe[Object] = UNSET
    changes: Maybe[Object] = UNSET
    interrupt_payload: Maybe[AnyJson] = UNSET
    prev_key: Maybe[Key] = UNSET
    next_key: Maybe[Key] = UNSET
    subgraph: Maybe[bool] = UNSET
    sub_workflow: Maybe[str] = UNSET
    sub_flow_key: Maybe[Key] = UNSET
    sub_history: Maybe[list[Step]] = UNSET
    kind: Maybe[ActionKind] = UNSET
    due_at: Maybe[Time] = UNSET
    queued_at: Maybe[Annotated[Time, Meta(description="When it became due, for its last execution.")]] = UNSET
    claimed_at: Maybe[
        Annotated[Time, Meta(description="When a replica took it for that execution; absent if that is not known.")]
    ] = UNSET
    problems: Maybe[
        Annotated[list[str], Meta(description="Conditions that could not be evaluated when the step ended, and why.")]
    ] = UNSET
    handled_error: Maybe[
        Annotated[dict[str, Any], Meta(description="The error whose edge the step took; it counts as completed.")]
    ] = UNSET
    branch: Maybe[Branch] = UNSET
    attempts: Maybe[
        Annotated[
            list[FailedAttempt],
            Meta(description="Earlier attempts that failed, in their order; of many, the newest."),
        ]
    ] = UNSET
    pause: Maybe[StepPause] = UNSET
    progress: Maybe[Progress] = UNSET
    truncated: Maybe[Truncated] = UNSET


class HistoryReply(Message):
    """A page of a flow's steps by depth and id (O7); no cursor on the last."""

    steps: list[Step]
    cursor: Maybe[str] = UNSET
