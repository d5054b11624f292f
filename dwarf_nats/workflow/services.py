"""Requests and messages of a graph to existing services: what they may hold, and what came of them (N3, N4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from dwarf_nats.workflow.answer import Disposition, ErrorInfo
from dwarf_nats.workflow.names import MAX_NAME, MAX_SUBJECT, subject_problem
from dwarf_nats.workflow.nodes import PublishMessage, SendRequest
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.templates import expression_of, literal

NOT_SENT = "not_sent"
"""The cause of an error for which nothing was sent, such as a template that cannot be evaluated."""
_HEADER = re.compile(r"[!-9;-~]{1,256}", re.ASCII)
_OWN_HEADERS = frozenset({"nats-msg-id", "traceparent", "tracestate"})


def header_problem(name: str) -> str:
    """The reason why a graph cannot give a header of this name; empty if it can."""
    if _HEADER.fullmatch(name) is None:
        return "a name has 1 to 256 printable ASCII characters, none of them a space or a colon"
    if name.lower().startswith("dwarf-") or name.lower() in _OWN_HEADERS:
        return "the engine sets it itself"
    return ""


def literal_subject(action: SendRequest | PublishMessage) -> str | None:
    """The subject of an action, `None` if it is computed."""
    return literal(action.subject) if expression_of(action.subject) is None else None


def message_problems(action: SendRequest | PublishMessage) -> Iterator[tuple[str, str]]:
    """The fields of an action from which no message can be made, such as `subject` and `headers.X`, and what is wrong there.

    Whether the templates are valid is not looked at.
    """
    subject = literal_subject(action)
    if len(action.subject.encode("utf-8", "surrogatepass")) > MAX_SUBJECT:
        yield "subject", f"it has more than {MAX_SUBJECT} bytes as it is written: compute it in a set node before"
    elif subject is not None and (problem := subject_problem(subject)):
        yield "subject", f"nothing can be sent to {subject[:MAX_NAME]!r}: {problem}; choose another subject"
    elif "\0" in action.subject:
        yield "subject", "it has a NUL character: remove it"
    for name in action.headers:
        if problem := header_problem(name):
            yield f"headers.{name[:MAX_NAME]}", f"no header can have this name: {problem}; choose another name"


class ServiceCall(msgspec.Struct, kw_only=True):
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
