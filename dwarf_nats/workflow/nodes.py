"""Kinds of nodes, and the policies of a node (L1, N1-N9).

A node asks a task, or has an *action* that the engine carries out itself. Values called *template* are JSON values in which a
text that begins with `=` is a CEL expression over the state.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class NodeKind(StrEnum):
    """The kind of a node: `task` for one that asks a task, else the action that the engine carries out."""

    TASK = "task"
    SET = "set"
    WORKFLOW = "workflow"
    REQUEST = "request"
    PUBLISH = "publish"
    WAIT = "wait"
    ASK = "ask"
    SLEEP = "sleep"


class SetFields(msgspec.Struct, frozen=True):
    """Change fields of the state (N1). `fields` is a template object; null removes a field."""

    fields: dict[str, Any]
    kind = NodeKind.SET


class RunWorkflow(msgspec.Struct, frozen=True):
    """Run a sub-workflow and wait for its end (N2). `input` is a template object."""

    workflow: str
    input: dict[str, Any]
    kind = NodeKind.WORKFLOW


class SendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Send one NATS request and wait for its reply (N3). All fields are templates; without a payload it is empty."""

    subject: str
    payload: Any = msgspec.UNSET
    headers: dict[str, Any] = {}
    kind = NodeKind.REQUEST


class PublishMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Publish one message (N4). With `stream` the step waits for the acknowledgement of JetStream."""

    subject: str
    payload: Any = msgspec.UNSET
    headers: dict[str, Any] = {}
    stream: bool = False
    kind = NodeKind.PUBLISH


class WaitForEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Wait for an event (N5). `key` is a template; without `timeout_ms` it waits without end."""

    event: str
    key: str = ""
    timeout_ms: int | None = None
    kind = NodeKind.WAIT


class AskPerson(msgspec.Struct, frozen=True, kw_only=True):
    """Pause with a payload until somebody resumes the step (N6). `payload` is a template."""

    payload: Any = None
    timeout_ms: int | None = None
    kind = NodeKind.ASK


class Sleep(msgspec.Struct, frozen=True, kw_only=True):
    """Wait for a time (N7): `ms` milliseconds, a number or a template, or `until` a time in RFC 3339, a template."""

    ms: int | str | None = None
    until: str | None = None
    kind = NodeKind.SLEEP


Action = SetFields | RunWorkflow | SendRequest | PublishMessage | WaitForEvent | AskPerson | Sleep


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When an error of a step is retried, and after which delay (L1).

    Delays in milliseconds; `None` means no bound. `jitter`: the largest share, 0 to 1, by which a delay is shortened at
    random. `codes`: only errors with one of these codes are retried; empty for all.
    """

    max_attempts: int | None = None
    initial_delay_ms: int = 100
    multiplier: float = 2.0
    max_delay_ms: int = 60_000
    give_up_after_ms: int | None = None
    jitter: float = 0.0
    codes: tuple[int, ...] = ()


class Compensation(msgspec.Struct, frozen=True, kw_only=True):
    """The compensation of completed steps of a node (N9): a task by its `url`, or an `action` of the engine."""

    url: str = ""
    action: SetFields | SendRequest | PublishMessage | None = None


COMPENSATION_SUFFIX = ":compensate"
"""The end of the name of a step that compensates one of the node with the name before it."""
COMPENSATION_RETRY = RetryPolicy(max_attempts=10)
"""The policy of a compensation whose node has none: what was done is undone, unless that fails again and again."""


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """Policies of all nodes of a graph that have none of their own (L1, K3)."""

    timeout_ms: int | None = None
    retry: RetryPolicy | None = None
    queue_timeout_ms: int | None = None


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A declared field of the state (G11). `type`: names of JSON Schema types, one or several; empty for any."""

    types: tuple[str, ...] = ()
    required: bool = False
    default: Any = msgspec.UNSET
    description: str = ""
    sealed: bool = False


ENGINE_URL = "engine:"
"""Beginning of the url of a node that the engine carries out without a service; no task can have such a url."""


def url_of(action: Action) -> str:
    """The name by which valve, breaker, limits and metrics know a node with this action.

    That is the subject as it is written for a request or a message, `engine:<kind>` for the others.
    """
    if isinstance(action, SendRequest | PublishMessage):
        return action.subject
    return f"{ENGINE_URL}{action.kind}"
