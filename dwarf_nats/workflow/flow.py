"""The carrier a task function may ask for: state in, changes and wishes out (S2, X5, X6, P1, P2)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeVar, overload

import msgspec

from dwarf_nats.workflow.answer import MAX_DELAY_MS, Answer, Retry, Subgraph, TaskCall
from dwarf_nats.workflow.state import NULL, Raw, State, check_json, decode_value, encode_value, state_from, to_values
from dwarf_nats.workflow.task_error import SubgraphError, TaskError

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULT = Retry()


class Parked(BaseException):
    """Ends an execution whose step is to wait for a resume or a child. The runner catches it; a task never does."""


class Flow:
    """One execution of one step, as its task sees it.

    `get` sees what the execution has set before. Nothing is sent until the task returns. If it raises, its changes are
    dropped, unless it asked for a retry that is granted (S6). After an interrupt or a subgraph the task runs again from the
    top, its changes already in the state.
    """

    def __init__(self, call: TaskCall) -> None:
        self._call = call
        self._changes: State = {}
        self._goto: str | None = None
        self._sleep_ms = 0
        self._retry: Retry | None = None
        self._interrupt: Raw | None = None
        self._subgraph: Subgraph | None = None
        self._resumed = call.resumed
        self._child_ended = call.subgraph_result is not None or call.subgraph_error is not None

    @classmethod
    def from_call(cls, call: TaskCall) -> Flow:
        """The carrier for one dispatch."""
        return cls(call)

    # -- where we are --------------------------------------------------------------------------------------------

    @property
    def flow_key(self) -> str:
        """The flow's key: a capability, not for logs."""
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
        """How often this step was retried: 0 the first time (X5)."""
        return self._call.attempt

    @property
    def created_at(self) -> datetime:
        """When the flow was created, UTC."""
        return _when(self._call.flow_created_at)

    @property
    def updated_at(self) -> datetime:
        """When the flow's status changed last, UTC."""
        return _when(self._call.flow_updated_at)

    @property
    def deadline(self) -> datetime:
        """When an answer comes too late, UTC."""
        return _when(self._call.deadline)

    @property
    def traceparent(self) -> str:
        """The W3C context of this dispatch's span, for services asked from here; empty if nobody traces (T2)."""
        return self._call.traceparent

    @property
    def tracestate(self) -> str:
        """What goes with `traceparent`; mostly empty."""
        return self._call.tracestate

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: the flow was cancelled, the deadline passed, the worker stops.

        Coroutine functions are cancelled by themselves; a long loop in a plain function looks here and returns.
        """
        return self._call.cancelled

    @property
    def baggage(self) -> Any:
        """What the flow's creator gave along."""
        return decode_value(self._call.baggage) if bytes(self._call.baggage) else None

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Mapping[str, Any]:
        """The state as the task received it, read-only; `get` also sees what was set since."""
        return MappingProxyType(to_values(self._call.state))

    @property
    def changes(self) -> Mapping[str, Any]:
        """What this execution has set so far, read-only; `None` marks a deleted field (S3)."""
        return MappingProxyType(to_values(self._changes))

    @property
    def names(self) -> frozenset[str]:
        """The fields there are now."""
        gone = {name for name, value in self._changes.items() if bytes(value) == b"null"}
        return frozenset((self._call.state.keys() | self._changes.keys()) - gone)

    def raw(self, name: str) -> Raw | None:
        """The JSON text of a field as it is now; `None` if there is no such field."""
        value = self._changes.get(name)
        if value is None:
            return self._call.state.get(name)
        return None if bytes(value) == b"null" else value

    @overload
    def get(self, name: str, default: Any = None) -> Any: ...
    @overload
    def get(self, name: str, default: T, type: type[T]) -> T: ...
    @overload
    def get(self, name: str, default: Any = None, type: Any = None) -> Any: ...
    def get(self, name: str, default: Any = None, type: Any = None) -> Any:  # noqa: A002
        """The value of a field, or `default` if it is absent; with `type`, converted to it (dataclasses, structs, …).

        Raises `TaskError` (400) for a value that is not of the type.
        """
        value = self.raw(name)
        if value is None:
            return default
        parsed = decode_value(value)
        if type is None:
            return parsed
        try:
            return msgspec.convert(parsed, type)
        except msgspec.ValidationError as error:
            raise TaskError(f"state field `{name}`: {error}", code=400) from None

    def set(self, name: str, value: Any) -> None:
        """Change a field. `None` deletes it. The value is taken as it is now.

        Raises `BadRequest` for what cannot be stored as JSON (S1).
        """
        what = f"state field `{name}`"
        text = encode_value(value, what)
        check_json(text, what)
        self._changes[name] = Raw(text)

    def update(self, values: Mapping[str, Any]) -> None:
        """Change several fields."""
        for name, value in values.items():
            self.set(name, value)

    def delete(self, *names: str) -> None:
        """Delete fields."""
        for name in names:
            self._changes[name] = NULL

    def clear(self) -> None:
        """Delete every field there is."""
        self._changes = dict.fromkeys(self._call.state, NULL)

    def transform(self, name: str, function: Callable[[Any], Any], default: Any = None, type: Any = None) -> Any:  # noqa: A002
        """Set a field to `function(its value, or default)` and return the new value."""
        value = function(self.get(name, default, type))
        self.set(name, value)
        return value

    # -- what comes next -----------------------------------------------------------------------------------------

    def goto(self, node: str) -> None:
        """Go on along the goto edge to this node (name or url) and no other (X6)."""
        self._goto = node

    def sleep(self, delay: float | timedelta) -> None:
        """Delay what comes next, in seconds (X6). Returns at once: the delay begins when the task is done."""
        self._sleep_ms = _milliseconds(delay, "sleep")

    def retry(
        self,
        max_attempts: int | None = None,
        initial_delay: float | timedelta | None = None,
        multiplier: float | None = None,
        max_delay: float | timedelta | None = None,
        give_up_after: float | timedelta | None = None,
    ) -> None:
        """Run this step again (X5), delays in seconds: at first after 0.1, then each time after `multiplier` (2) times as
        long, at most after `max_delay` (60). Without `max_attempts` and `give_up_after` it goes on for ever.

        What was set or returned is kept, and the next attempt sees it. Raise as well to say what went wrong, should it be
        given up; what was set before counts then too, as long as the retry is granted (S6).
        """
        if max_attempts is not None and max_attempts < 1:
            raise TaskError(
                f"retry: max_attempts counts the first execution, so it is at least 1, got {max_attempts}", 400
            )
        if multiplier is not None and not _finite(multiplier):
            raise TaskError(f"retry: multiplier must be a number of at least 0, got {multiplier}", 400)
        self._retry = Retry(
            max_attempts,
            _DEFAULT.initial_delay_ms if initial_delay is None else _milliseconds(initial_delay, "initial_delay"),
            _DEFAULT.multiplier if multiplier is None else min(multiplier, sys.float_info.max),
            _DEFAULT.max_delay_ms if max_delay is None else _milliseconds(max_delay, "max_delay"),
            None if give_up_after is None else _milliseconds(give_up_after, "give_up_after"),
        )

    def interrupt(self, payload: Any = None) -> Any:
        """Pause the flow with this payload; returns what it was resumed with (P2).

        The first time this ends the execution: what was set before is kept, and the task runs again after the resume.
        """
        if self._resumed is not None:
            data, self._resumed = self._resumed, None
            return decode_value(data)
        text = encode_value(payload, "interrupt payload")
        check_json(text, "interrupt payload")
        self._interrupt = Raw(text)
        raise Parked("interrupt")

    def subgraph(self, workflow: str, input: Mapping[str, Any] | None = None) -> dict[str, Any]:  # noqa: A002
        """Run a child flow with exactly `input` as its state; returns its final state (P1).

        The first time this ends the execution, as `interrupt` does. Raises `SubgraphError` if the child failed.
        """
        if self._child_ended:
            self._child_ended = False
            if self._call.subgraph_error is not None:
                raise SubgraphError(self._call.subgraph_error)
            result: dict[str, Any] = decode_value(self._call.subgraph_result or Raw(b"{}"))
            return result
        self._subgraph = Subgraph(workflow, state_from(input, "subgraph input"))
        raise Parked("subgraph")

    def answer(self) -> Answer:
        """What the task answers by all this."""
        return Answer(
            changes=dict(self._changes),
            goto=self._goto,
            sleep_ms=self._sleep_ms,
            interrupt=self._interrupt,
            subgraph=self._subgraph,
            retry=self._retry,
        )


def _when(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _milliseconds(delay: float | timedelta, what: str) -> int:
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not _finite(seconds):
        raise TaskError(f"{what}: a delay in seconds cannot be {seconds}", code=400)
    return math.ceil(min(seconds, MAX_DELAY_MS // 1000) * 1000)


def _finite(number: float) -> bool:
    """Whether it is a number of at least 0, however large an integer it is."""
    return number >= 0 and number != math.inf
