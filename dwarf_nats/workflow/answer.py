"""The call of a task and its answer, between the engine and the task's runner (X3, X4; wire section 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from dwarf_nats.workflow.state import Raw, State, encode_state
from dwarf_nats.workflow.tags import TagChanges

if TYPE_CHECKING:
    from dwarf_nats.workflow.output import Output
    from dwarf_nats.workflow.progress import Progress

_LONGEST_WRITTEN = 6
"""Bytes of the longest character in JSON text: `\\u0001`."""


@dataclass(slots=True)
class ErrorInfo:
    """An error of a step or flow. `extra`: the further fields that the task put into its error object."""

    message: str
    code: int = 500
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**self.extra, "message": self.message, "code": self.code}

    def stored(self) -> str:
        """The error as stored JSON text; characters that cannot be stored are escaped."""
        try:
            return orjson.dumps(self.as_dict()).decode()
        except (TypeError, orjson.JSONEncodeError):  # such as lone surrogates in the text of an exception
            message = self.message.encode("utf-8", "backslashreplace").decode()
            return orjson.dumps({"message": message, "code": self.code}).decode()

    def within(self, max_bytes: int) -> ErrorInfo:
        """The error cut to about `max_bytes` of JSON text, escapes included: first `extra` goes, then the end of the message.

        Characters are not cut apart.
        """
        if len(self.stored().encode()) <= max_bytes:
            return self
        text = self.message.encode("utf-8", "backslashreplace").decode()
        cut = _within(text, max_bytes)
        return ErrorInfo(cut if cut == text else f"{cut}…", self.code, {"cut": True})

    @classmethod
    def from_stored(cls, text: str | None) -> ErrorInfo | None:
        """Read a stored error; `None` for no text."""
        return None if text is None else cls.from_values(orjson.loads(text))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> ErrorInfo:
        """The error of an object as `as_dict` makes it."""
        extra = dict(values)
        return cls(str(extra.pop("message", "")), int(extra.pop("code", 500)), extra)


MAX_DELAY_MS = 2**53 // 1000
"""Longest delay, some 285 years: a longer one is cut to this, so that due times stay within 64 bits."""


def _within(text: str, max_bytes: int) -> str:
    """The longest beginning of a text whose JSON has at most `max_bytes` bytes."""
    written = orjson.dumps(text)[1:-1]
    if len(written) <= max_bytes:
        return text
    for end in range(max_bytes, max(0, max_bytes - _LONGEST_WRITTEN), -1):
        try:
            cut: str = orjson.loads(b'"%b"' % written[:end])
        except orjson.JSONDecodeError:  # the cut is within a character or an escape
            continue
        return cut
    return ""


@dataclass(slots=True, frozen=True)
class Retry:
    """A request to run the step again (X5). Delays in milliseconds; `None` means no bound.

    The defaults are the same on the wire and in Python: no retry runs without a pause unless it asks for none.
    """

    max_attempts: int | None = None
    initial_delay_ms: int = 100
    multiplier: float = 2.0
    max_delay_ms: int = 60_000
    give_up_after_ms: int | None = None


@dataclass(slots=True, frozen=True)
class EventWait:
    """A request to wait for an event (E2). Without `timeout_ms` it waits without end."""

    event: str
    key: str = ""
    timeout_ms: int | None = None


@dataclass(slots=True, frozen=True)
class Subgraph:
    """A request for a child flow (P1)."""

    workflow: str
    input: State = field(default_factory=dict)


class Disposition(StrEnum):
    """The kind of a failed call: an error of the step, backpressure, or a trip of the breaker (wire section 2)."""

    ERROR = "error"
    BACKPRESSURE = "backpressure"
    BREAKER = "breaker"


@dataclass(slots=True)
class Answer:
    """A task's answer. With `error` set, `disposition` is the kind of failure and `cause` its reason.

    Causes: `backpressure`; for a breaker trip `no_responders`, `forbidden`, `unavailable`, `overloaded`; and for errors
    that the task did not report itself, `timeout` (it did not answer), `too_large` and `not_sent` (it was not called).
    """

    changes: State = field(default_factory=dict)
    goto: str | None = None
    sleep_ms: int = 0
    interrupt: Raw | None = None
    subgraph: Subgraph | None = None
    retry: Retry | None = None
    wait: EventWait | None = None
    interrupt_timeout_ms: int | None = None
    """Beside an interrupt: its deadline (P6)."""
    self_sleep_us: int | None = None
    """The step itself waits so long, and is completed then (N7); `sleep_ms` delays those that follow."""
    tags: TagChanges | None = None
    """Tags of the flow to set, or with `None` to remove (Q1). They are kept if the changes are."""
    error: ErrorInfo | None = None
    disposition: Disposition = Disposition.ERROR
    cause: str = ""


class Compensating(msgspec.Struct, frozen=True, kw_only=True):
    """The completed step that a compensation is for, and why its flow ends (N9). `changes`: what it had changed, as JSON.

    `error` of a flow that fails, `cancel_reason` of one that is cancelled.
    """

    step_key: str
    changes: Raw
    error: ErrorInfo | None = None
    cancel_reason: str | None = None


class TaskCall(msgspec.Struct, kw_only=True):
    """The call of a task for one step. Times are microseconds since the epoch by the database's clock; `budget` is seconds.

    `cancelled` becomes true when the answer is not needed any more: the flow was cancelled, the deadline passed, or the worker
    stops.
    """

    flow_key: str
    step_key: str
    workflow: str
    task: str
    url: str
    attempt: int
    state: State
    baggage: Raw
    flow_created_at: int
    flow_updated_at: int
    deadline: int
    budget: float
    resumed: Raw | None = None
    interrupt_timed_out: bool = False
    """The deadline of its interrupt passed (P6)."""
    event: Raw | None = None
    """The end of its wait for an event, as JSON: `{"data", "id", "at"}` or `{"timedOut": true}` (E2)."""
    subgraph_result: Raw | None = None
    subgraph_error: str | None = None
    compensating: Compensating | None = None
    """The step that is compensated, if this is a compensation (N9)."""
    checkpoint: Raw | None = None
    """The data of the last progress of an earlier execution of the step, as JSON (B7)."""
    report: Callable[[str, Progress], None] | None = None
    """Takes the key of the step and a progress, on the event loop (B7); `None` where nobody wants to know."""
    root_id: int = 0
    """The flow at the top of those that called this one, whose stream gets the output (B8); 0: this flow itself."""
    stream: str = ""
    """On the side of the worker: the subject of the step's output, as the request names it (B8)."""
    emit: Callable[[Output], None] | None = None
    """Takes a piece of output, on the event loop (B8); `None` where it reaches nobody."""
    cancelled: bool = False
    traceparent: str = ""
    """The W3C trace context of the call's span; empty without tracing (T2)."""
    tracestate: str = ""

    @property
    def names(self) -> frozenset[str]:
        """The names of the fields of its state."""
        return frozenset(self.state)

    def raw(self, name: str) -> Raw | None:
        """The JSON text of a field of its state; `None` if there is no such field."""
        return self.state.get(name)

    def text(self) -> bytes:
        """Its whole state as JSON text."""
        return encode_state(self.state)
