"""Explanations: what each living step of a flow waits for, and what would help (Q2). Times are microseconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import ErrorInfo
    from dwarf_nats.workflow.progress import Progress
    from dwarf_nats.workflow.status import Status
    from dwarf_nats.workflow.step_details import Branch

_parse = msgspec.json.Decoder().decode


class Reason(StrEnum):
    """The reason why a step is where it is."""

    CREATED = "created"
    """Its flow is not started."""
    SCHEDULED = "scheduled"
    """It is not due yet: a start time, a sleep, or a short pause after something was away."""
    QUEUED = "queued"
    """It is due and has no worker yet; `because` says why."""
    RUNNING = "running"
    """A replica has it, and its task has not answered."""
    RETRY = "retry"
    """An attempt failed, and the next one is not due yet."""
    INTERRUPT = "interrupt"
    """Somebody must answer."""
    BREAKPOINT = "breakpoint"
    """A breakpoint stopped it."""
    EVENT = "event"
    """It waits for an event."""
    SUBGRAPH = "subgraph"
    """It waits for the flow that it called; `waits` is the explanation of that flow."""
    NO_RESPONDERS = "no_responders"
    """Nobody serves its task."""
    UNAVAILABLE = "unavailable"
    """Its task says that it cannot serve, or may not be asked."""
    OVERLOADED = "overloaded"
    """Its task says that it is overloaded."""
    PAUSED = "paused"
    """Its task or its workflow is on hold."""
    BUS_AWAY = "bus_away"
    """A replica holds it until its connection to the task services is back."""


class Because(StrEnum):
    """The reason why a step that is due has no worker."""

    WORKERS = "workers"
    """All are busy."""
    PRIORITY = "priority"
    """Steps of a better priority come first."""
    LIMIT = "limit"
    """A limit lets no more of its task or workflow run, or its task has its share of the workers."""
    RATE = "rate"
    """A limit lets only so many begin in a second, or its task said that it is busy, and is asked only so often."""


@dataclass(slots=True, kw_only=True)
class Wait:
    """What one living step waits for.

    `step_key` can steer the step: it is a capability. `text` is a sentence for a person, `remedy` the command that would help,
    empty if there is none. `until`: when the wait ends by itself, or is looked at again. The other fields belong to reasons.
    """

    step_key: str
    step_id: int
    task: str
    url: str
    reason: Reason
    since: int
    text: str
    until: int | None = None
    remedy: str = ""
    because: Because | None = None
    worker: str = ""
    """The worker that runs it, if it has named itself."""
    replica: str = ""
    """The replica that has it."""
    deadline: int | None = None
    """When its task must have answered."""
    progress: Progress | None = None
    """The last progress of its task, without data (B7)."""
    branch: Branch | None = None
    """Its place in the innermost fan-out around it (Q3)."""
    attempt: int = 0
    """Retries so far."""
    max_attempts: int | None = None
    error: ErrorInfo | None = None
    """The error of the last attempt."""
    payload_json: bytes | None = None
    event: str = ""
    key: str = ""
    """Of the event; or that under which the limit counts it."""
    limit: str = ""
    """The limit for which it waits (K1)."""
    workflow: str = ""
    flow_key: str = ""
    waits: list[Wait] = field(default_factory=list)

    @property
    def payload(self) -> Any:
        """The payload of the interrupt as a Python value."""
        return None if self.payload_json is None else _parse(self.payload_json)


@dataclass(slots=True, kw_only=True)
class Explanation:
    """Why a flow stands where it stands: in one sentence, and step by step, the oldest wait first.

    If it has many living steps, only the oldest of them are listed: then it is `truncated`, and `counts` has the number of all
    by reason, those of the flows that it called included.
    """

    flow_key: str
    status: Status
    text: str
    remedy: str = ""
    waits: list[Wait] = field(default_factory=list)
    truncated: bool = False
    counts: Mapping[Reason, int] = field(default_factory=dict)


@dataclass(slots=True, frozen=True, kw_only=True)
class WaitsFor:
    """What the oldest living step of a flow waits for, as a list shows it."""

    step_id: int
    task: str
    reason: Reason
    since: int
    text: str
    until: int | None = None
