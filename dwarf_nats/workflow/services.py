"""A request or message of a graph to an existing service, and what came of it, between the engine and its port (N3, N4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dwarf_nats.workflow.answer import Disposition, ErrorInfo
from dwarf_nats.workflow.state import Raw


class ServiceCall(msgspec.Struct, kw_only=True, frozen=True):
    """One request or message. It holds no key of the engine: `flow_id` and `step_id` are token-free (`1-42`)."""

    name: str
    """The subject as it is written in the graph, by which breaker and metrics know the service."""
    subject: str
    payload: bytes
    headers: Sequence[tuple[str, str]] = ()
    """The graph's own headers."""
    flow_id: str
    step_id: str
    message_id: str
    """The same on each retry and recovery of the step; another one if an operation makes the step run again."""
    attempt: int
    deadline: int
    """Microseconds since the epoch, by the database's clock."""
    budget: float
    """Seconds until the deadline."""
    traceparent: str = ""
    tracestate: str = ""


@dataclass(slots=True)
class ServiceReply:
    """A reply, or the failure. `value`: its JSON text, `None` for an empty reply and for a message that was published.

    With `error` set, `disposition` and `cause` say what kind of failure it is, as in `Answer`.
    """

    value: Raw | None = None
    error: ErrorInfo | None = None
    disposition: Disposition = Disposition.ERROR
    cause: str = ""
