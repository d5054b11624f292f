"""The facts of a call, as a task function reads them from its `Flow`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dwarf_nats.workflow.answer import TaskCall
from dwarf_nats.workflow.compensated import CompensatedStep, compensated_step
from dwarf_nats.workflow.state import decode_value

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CallFacts:
    """Base of `Flow` with what does not change during an execution."""

    def __init__(self, call: TaskCall) -> None:
        self._call = call

    @property
    def flow_key(self) -> str:
        """The flow's key: a capability, so keep it out of logs."""
        return self._call.flow_key

    @property
    def step_key(self) -> str:
        """The step's key, the same in every execution of this step: the idempotency key for side effects (X11)."""
        return self._call.step_key

    @property
    def workflow(self) -> str:
        """The name of the workflow."""
        return self._call.workflow

    @property
    def task(self) -> str:
        """The name of the node."""
        return self._call.task

    @property
    def url(self) -> str:
        """The address of the task."""
        return self._call.url

    @property
    def attempt(self) -> int:
        """The number of retries of this step so far: 0 the first time (X5)."""
        return self._call.attempt

    @property
    def created_at(self) -> datetime:
        """The time at which the flow was created, in UTC."""
        return _when(self._call.flow_created_at)

    @property
    def updated_at(self) -> datetime:
        """The time of the last change of the flow's status, in UTC."""
        return _when(self._call.flow_updated_at)

    @property
    def deadline(self) -> datetime:
        """The time after which an answer is too late, in UTC."""
        return _when(self._call.deadline)

    @property
    def traceparent(self) -> str:
        """The W3C trace context of this call, to pass on to other services; empty without tracing (T2)."""
        return self._call.traceparent

    @property
    def tracestate(self) -> str:
        """The W3C `tracestate` that belongs to `traceparent`; mostly empty."""
        return self._call.tracestate

    @property
    def output_subject(self) -> str:
        """The NATS subject of what this step emits, for programs that publish there themselves; empty without NATS (B8)."""
        return self._call.stream

    @property
    def cancelled(self) -> bool:
        """True if the answer is not needed any more: the flow was cancelled, the deadline passed, or the worker stops.

        Coroutine functions are cancelled automatically; a long loop in a plain function should check this and return.
        """
        return self._call.cancelled

    @property
    def compensating(self) -> CompensatedStep | None:
        """The completed step that this execution is to undo; `None` unless it is a compensation (N9)."""
        return compensated_step(self._call.compensating)

    @property
    def checkpoint(self) -> Any:
        """The data of the last `progress` of an earlier execution of this step; `None` without any (B7)."""
        return None if self._call.checkpoint is None else decode_value(self._call.checkpoint)

    @property
    def baggage(self) -> Any:
        """The baggage that the flow's creator attached; `None` without any."""
        return decode_value(self._call.baggage) if bytes(self._call.baggage) else None


def _when(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
