"""The signals between replicas and the announcements of changes, as types (wire sections 4 and 5)."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET

from .message_fields import FlowStatus, Integer, Key, Maybe, Message, StepId, TaskName, Time, When


class PeerStep(Message):
    """A step that became pending."""

    step_id: Integer
    priority: Integer
    not_before: When


class PeerEnqueue(Message):
    """Work is pending."""

    shard: Integer
    steps: list[PeerStep]


class PeerSyncValve(Message):
    """The congestion point of a task's valve."""

    task: TaskName
    w: float
    t: When


class PeerTripBreaker(Message):
    """The breaker of a task tripped."""

    task: TaskName


class PeerChangeDefinitions(Message):
    """Definitions were put or deleted: read them."""


class PeerFlow(Message):
    """A flow that stopped."""

    flow_key: Key
    status: FlowStatus


class PeerNotifyStatusChange(Message):
    """Flows stopped."""

    flows: list[PeerFlow]


class PeerExplain(Message):
    """A question to all other replicas: what they know of these steps and tasks."""

    id: str
    shard: Integer
    step_ids: list[Integer]
    tasks: list[TaskName]


class PeerProgress(Message):
    """The last progress of a step, without data."""

    at: When
    fraction: Maybe[float] = UNSET
    text: Maybe[str] = UNSET


class PeerStepFacts(Message):
    """A step that a replica has."""

    step_id: Integer
    phase: Literal["asking", "queued", "held", "writing"]
    worker: str = ""
    deadline: Maybe[When] = UNSET
    progress: Maybe[PeerProgress] = UNSET


class PeerTaskFacts(Message):
    """A task that a replica holds back."""

    task: TaskName
    rate: Maybe[float] = UNSET
    opens_at: Maybe[When] = UNSET
    probe_at: Maybe[When] = UNSET
    cause: str = ""
    at_share: bool = False


class PeerExplained(Message):
    """What a replica knows of the steps and tasks it was asked about."""

    id: str
    replica: str
    workers: Integer
    in_use: Integer
    steps: list[PeerStepFacts]
    tasks: list[PeerTaskFacts]
    draining: bool = False
    holds_steps: bool = False


class Event(Message):
    """A flow's status changed; ids without tokens."""

    flow_id: StepId
    thread_id: StepId
    workflow: str
    status: FlowStatus
    at: Time
