"""The signals between replicas and the announcements of changes, as types (wire sections 4 and 5)."""

from __future__ import annotations

from .message_fields import FlowStatus, Integer, Key, Message, StepId, TaskName, Time, When


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


class PeerFlow(Message):
    """A flow that stopped."""

    flow_key: Key
    status: FlowStatus


class PeerNotifyStatusChange(Message):
    """Flows stopped."""

    flows: list[PeerFlow]


class Event(Message):
    """A flow's status changed; ids without tokens."""

    flow_id: StepId
    thread_id: StepId
    workflow: str
    status: FlowStatus
    at: Time
