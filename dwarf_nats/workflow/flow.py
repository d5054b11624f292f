"""The `Flow` a task function may take as an argument: its state, and what it changes and asks for (S2, X5, X6, P1, P2)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar, overload

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.answer import MAX_DELAY_MS, Answer, EventWait, Retry, Subgraph, TaskCall
from dwarf_nats.workflow.call_facts import CallFacts
from dwarf_nats.workflow.emitting import emit_output
from dwarf_nats.workflow.names import check_event_key, check_subject_name
from dwarf_nats.workflow.progress_reports import UNCHANGED, ProgressReports
from dwarf_nats.workflow.state import (
    NULL,
    Raw,
    State,
    check_json,
    decode_value,
    encode_state,
    encode_value,
    merge,
    state_from,
    to_values,
)
from dwarf_nats.workflow.tags import TagChanges, TagValue, checked_changes
from dwarf_nats.workflow.task_error import SubgraphError, TaskError, WaitTimeout
from dwarf_nats.workflow.typed_values import Mismatch, decode_as

T = TypeVar("T")
D = TypeVar("D", int, None)
_DEFAULT = Retry()


class Suspended(BaseException):
    """Ends an execution whose step waits for a resume or a child flow. The runner catches it; tasks must not."""


class Flow(CallFacts):
    """One execution of one step, for its task function.

    `get` returns values that this execution has set before. Nothing is sent until the task returns. If it raises, its changes
    are dropped, unless it asked for a retry that is granted (S6). After an interrupt or a subgraph the task runs again from
    its beginning, with its changes in the state.
    """

    def __init__(self, call: TaskCall) -> None:
        super().__init__(call)
        self._changes: State = {}
        self._goto: str | None = None
        self._sleep_ms = 0
        self._retry: Retry | None = None
        self._interrupt: Raw | None = None
        self._interrupt_timeout_ms: int | None = None
        self._subgraph: Subgraph | None = None
        self._resumed = call.resumed
        self._interrupt_timed_out = call.interrupt_timed_out
        self._wait: EventWait | None = None
        self._event = call.event
        self._tags: dict[str, TagValue | None] = {}
        self._progress: ProgressReports | None = None
        self._child_ended = call.subgraph_result is not None or call.subgraph_error is not None

    @classmethod
    def from_call(cls, call: TaskCall) -> Flow:
        """The `Flow` for one call."""
        return cls(call)

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Mapping[str, Any]:
        """The state as the task received it, read-only; `get` also returns values set since."""
        return MappingProxyType(to_values(self._call.state))

    @property
    def changes(self) -> Mapping[str, Any]:
        """The changes of this execution so far, read-only; `None` marks a deleted field (S3)."""
        return MappingProxyType(to_values(self._changes))

    @property
    def names(self) -> frozenset[str]:
        """The names of all fields, changes included."""
        gone = {name for name, value in self._changes.items() if bytes(value) == b"null"}
        return frozenset((self._call.state.keys() | self._changes.keys()) - gone)

    def raw(self, name: str) -> Raw | None:
        """The JSON text of a field, changes included; `None` if there is no such field.

        Example: `text = flow.raw("total")`
        """
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
        """Return the value of a field, or `default` if it is absent; with `type`, converted to it (models, structs, …).

        Raises `TaskError` (400) for a value that is not of the type.

        Example: `total = flow.get("total", 0, type=int)`
        """
        value = self.raw(name)
        if value is None:
            return default
        if type is None:
            return decode_value(value)
        try:
            return decode_as(value, type)
        except Mismatch as error:
            raise TaskError(f"state field `{name}`: {error}", code=400, final=True) from None

    def text(self) -> bytes:
        """The whole state as JSON text, changes included.

        Example: `size = len(flow.text())`
        """
        return encode_state(merge(self._call.state, self._changes))

    def state_as(self, type: type[T]) -> T:  # noqa: A002
        """Return the whole state, changes included, as a dataclass, a struct, a `TypedDict` or a pydantic model::

            order = flow.state_as(Order)

        Raises `TaskError` (400) for a state that does not fit, with the place in it.
        """
        try:
            found: T = decode_as(self.text(), type)
        except Mismatch as error:
            raise TaskError(f"the state: {error}", code=400, final=True) from None
        return found

    def set(self, name: str, value: Any) -> None:
        """Set a field; `None` deletes it. Later changes of a mutable value have no effect.

        Raises `BadRequest` for a value that cannot be stored as JSON (S1).

        Example: `flow.set("receipt", "r-7")`
        """
        what = f"state field `{name}`"
        text = encode_value(value, what)
        check_json(text, what)
        self._changes[name] = Raw(text)

    def update(self, values: Mapping[str, Any]) -> None:
        """Set several fields, as `set` does.

        Example: `flow.update({"receipt": "r-7", "paid": True})`
        """
        for name, value in values.items():
            self.set(name, value)

    def delete(self, *names: str) -> None:
        """Delete fields.

        Example: `flow.delete("draft", "note")`
        """
        for name in names:
            self._changes[name] = NULL

    def clear(self) -> None:
        """Delete all fields.

        Example: `flow.clear()`
        """
        self._changes = dict.fromkeys(self._call.state, NULL)

    def transform(self, name: str, function: Callable[[Any], Any], default: Any = None, type: Any = None) -> Any:  # noqa: A002
        """Set a field to `function(its value, or default)` and return the new value.

        Example: `count = flow.transform("count", lambda n: n + 1, default=0)`
        """
        value = function(self.get(name, default, type))
        self.set(name, value)
        return value

    def tag(self, tags: TagChanges | None = None, /, **named: TagValue | None) -> None:
        """Set tags of the flow, by which it is found; `None` removes one (Q1). They are kept if the changes are.

        `tag(customer=4711, urgent=None)`; names that are no Python names come in a mapping. Raises `TaskError` (400) for a bad
        one, and for more than a flow may have.

        Example: `flow.tag(customer=4711, urgent=None)`
        """
        try:
            self._tags = checked_changes({**self._tags, **(tags or {}), **named}, "tags")
        except BadRequest as error:
            raise TaskError(f"tag: {error.message}", 400) from None

    # -- while it runs -------------------------------------------------------------------------------------------

    def progress(self, fraction: float | None = None, text: str | None = None, data: Any = UNCHANGED) -> None:
        """Tell how far the task has come; returns at once (B7).

        `fraction` (0 to 1) and `text` are shown to people. `data`, any JSON, is the `checkpoint` of the next execution, should
        this one not end the step; if left out, the last one stays, and `None` removes it. Of more than ten calls in a second
        some are left out, never the last. Raises `TaskError` for another fraction (400), and for more than 4 KiB (413).

        Example: `flow.progress(0.5, "page 50 of 100", {"page": 50})`
        """
        self._progress = self._progress or ProgressReports(self._call)
        self._progress.report(fraction, text, data)

    def emit(self, data: Any) -> None:
        """Send a piece of output to whoever follows the flow at this moment (`client.stream`); returns at once (B8).

        `data`: a text, such as a token of a language model, bytes, or any JSON. It is not kept, and arrives at most once.
        Raises `TaskError` for what is no JSON (400), and for more than 256 KiB (413).

        Example: `flow.emit("hello ")`
        """
        emit_output(self._call, data)

    # -- next steps ----------------------------------------------------------------------------------------------

    def goto(self, node: str) -> None:
        """Continue along the goto edge to this node (name or url), and along no other edge (X6).

        Example: `flow.goto("ship")`
        """
        self._goto = node

    def sleep(self, delay: float | timedelta) -> None:
        """Delay the next steps by this many seconds (X6). Returns at once: the delay begins when the task is done.

        Example: `flow.sleep(30)`
        """
        self._sleep_ms = _milliseconds(delay, "sleep")

    def retry(
        self,
        max_attempts: int | None = None,
        initial_delay: float | timedelta | None = None,
        multiplier: float | None = None,
        max_delay: float | timedelta | None = None,
        give_up_after: float | timedelta | None = None,
    ) -> None:
        """Run this step again (X5).

        Delays are seconds: `initial_delay` (0.1) before the first retry, each further delay `multiplier` (2) times as
        long, up to `max_delay` (60). Without `max_attempts` and `give_up_after` retries go on for ever. Changes are
        kept, and the next attempt sees them. To report the error in case retries are given up, raise it as well;
        changes made before are kept as long as the retry is granted (S6). Raises `TaskError` (400) for a value out of
        range.

        Example: `flow.retry(max_attempts=5, initial_delay=1)`
        """
        if max_attempts is not None and max_attempts < 1:
            raise TaskError(
                f"retry: max_attempts counts the first execution, so it is at least 1, got {max_attempts}", 400
            )
        if multiplier is not None and not _finite(multiplier):
            raise TaskError(f"retry: multiplier must be a number of at least 0, got {multiplier}", 400)
        self._retry = Retry(
            max_attempts=max_attempts,
            initial_delay_ms=_milliseconds_or(initial_delay, "initial_delay", _DEFAULT.initial_delay_ms),
            multiplier=_DEFAULT.multiplier if multiplier is None else min(multiplier, sys.float_info.max),
            max_delay_ms=_milliseconds_or(max_delay, "max_delay", _DEFAULT.max_delay_ms),
            give_up_after_ms=_milliseconds_or(give_up_after, "give_up_after", None),
        )

    def interrupt(self, payload: Any = None, timeout: float | timedelta | None = None) -> Any:
        """Pause the flow with this payload; returns the data it was resumed with (P2).

        The first call ends the execution: changes made before are kept, and the task runs again after the resume. `timeout`:
        seconds after which the task runs again although nobody has resumed it; the call then raises `WaitTimeout` (P6).

        Example: `answer = flow.interrupt({"total": flow.get("total")}, timeout=3600)`
        """
        if self._interrupt_timed_out:
            self._interrupt_timed_out = False
            raise WaitTimeout("nobody resumed the step before the deadline of its interrupt")
        if self._resumed is not None:
            data, self._resumed = self._resumed, None
            return decode_value(data)
        text = encode_value(payload, "interrupt payload")
        check_json(text, "interrupt payload")
        self._interrupt_timeout_ms = None if timeout is None else _milliseconds(timeout, "timeout")
        self._interrupt = Raw(text)
        raise Suspended("interrupt")

    def wait_for(self, event: str, key: str = "", timeout: float | timedelta | None = None) -> Any:
        """Wait until an event is signalled with this key; returns the event's data (E2).

        The first call ends the execution, as `interrupt` does. An event that came before is received as well, while it is kept.
        `timeout`: seconds after which `WaitTimeout` is raised instead.

        Example: `payment = flow.wait_for("payment.settled", "o-7", timeout=86_400)`
        """
        if self._event is not None:
            ended, self._event = decode_value(self._event), None
            if ended.get("timedOut"):
                raise WaitTimeout(f"no event {event} came before the deadline of the wait")
            return ended.get("data")
        try:
            check_subject_name(event, "event")
            check_event_key(key, "key")
        except BadRequest as error:
            raise TaskError(f"wait_for: {error.message}", 400) from None
        self._wait = EventWait(event, key, None if timeout is None else _milliseconds(timeout, "timeout"))
        raise Suspended("wait")

    def subgraph(self, workflow: str, input: Mapping[str, Any] | None = None) -> dict[str, Any]:  # noqa: A002
        """Run a child flow with `input` as its whole state; returns its final state (P1).

        The first call ends the execution, as `interrupt` does. Raises `SubgraphError` if the child failed.

        Example: `parcel = flow.subgraph("shipping", {"address": flow.get("address")})`
        """
        if self._child_ended:
            self._child_ended = False
            if self._call.subgraph_error is not None:
                raise SubgraphError(self._call.subgraph_error)
            result: dict[str, Any] = decode_value(self._call.subgraph_result or Raw(b"{}"))
            return result
        self._subgraph = Subgraph(workflow, state_from(input, "subgraph input"))
        raise Suspended("subgraph")

    def answer(self) -> Answer:
        """The answer with everything that the task has set and asked for."""
        return Answer(
            changes=dict(self._changes),
            goto=self._goto,
            sleep_ms=self._sleep_ms,
            interrupt=self._interrupt,
            interrupt_timeout_ms=self._interrupt_timeout_ms,
            wait=self._wait,
            subgraph=self._subgraph,
            retry=self._retry,
            tags=self._tags or None,
        )


def _milliseconds_or(delay: float | timedelta | None, what: str, default: D) -> int | D:
    return default if delay is None else _milliseconds(delay, what)


def _milliseconds(delay: float | timedelta, what: str) -> int:
    """A delay in milliseconds, rounded up. Raises `TaskError` (400) for a delay that is negative or infinite."""
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not _finite(seconds):
        raise TaskError(f"{what}: a delay in seconds cannot be {seconds}", code=400)
    return math.ceil(min(seconds, MAX_DELAY_MS // 1000) * 1000)


def _finite(number: float) -> bool:
    """True for a finite number of at least 0; also for an integer too large for a float."""
    return number >= 0 and number != math.inf
