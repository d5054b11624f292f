"""Records that operations return (O5-O9, O16). Times are microseconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.explanation import WaitsFor
from dwarf_nats.workflow.nodes import NodeKind
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.step_details import Branch, FailedAttempt, StepPause
from dwarf_nats.workflow.tags import TagValue
from dwarf_nats.workflow.typed_values import Mismatch, decode_as

T = TypeVar("T")
_parse = msgspec.json.Decoder().decode


@dataclass(slots=True, kw_only=True)
class Pause:
    """One pause of a flow, or of a flow that it called (P5).

    `step_key` continues exactly this pause: it is a capability. `since` and `until` are microseconds since the epoch; `until`
    is the deadline of an interrupt that has one. `payload_json` is absent at a breakpoint, and if it was left out because it
    is too large; `step` then reads it.
    """

    step_key: str
    task: str
    kind: Literal["interrupt", "breakpoint"]
    since: int
    until: int | None = None
    payload_json: bytes | None = None

    @property
    def payload(self) -> Any:
        """The payload of the interrupt as a Python value."""
        return None if self.payload_json is None else _parse(self.payload_json)


@dataclass(slots=True)
class Outcome:
    """The outcome of a flow, so far (O5).

    `error` is set exactly if it failed, `cancel_reason` if it was cancelled, `interrupt_json` if an interrupt paused it.
    `state_json` is `{}` while the flow is created or running. `pauses`: what it is paused by, the oldest pause first (P5).
    `truncated`: the outcome was too large, and parts were left out; a state that was left out reads as `{}`.
    """

    flow_key: str
    workflow: str
    status: Status
    state_json: bytes = b"{}"
    _: KW_ONLY
    error: ErrorInfo | None = None
    cancel_reason: str | None = None
    interrupt_json: bytes | None = None
    pauses: list[Pause] = field(default_factory=list)
    truncated: bool = False
    compensating: bool = False
    """It is running because completed steps are being compensated; after that it fails or is cancelled (N9)."""
    tags: dict[str, TagValue] = field(default_factory=dict)
    """Its tags; of a flow that was called, those of the flow at the top (Q1)."""
    breakpoints: Sequence[str] = ()
    """The nodes before which it pauses (O12), of a snapshot."""

    @property
    def state(self) -> dict[str, Any]:
        """The state as Python values."""
        value: dict[str, Any] = _parse(self.state_json)
        return value

    def as_(self, type: type[T]) -> T:  # noqa: A002
        """The state as a dataclass, a struct, a `TypedDict` or a pydantic model::

            order = (await client.run("order", {"order_id": "o-7"})).as_(Order)

        Raises `BadRequest` for a state that does not fit, with the place in it, and for one that was left out.
        """
        if self.truncated and self.state_json == b"{}":
            raise BadRequest("the state was too large for the bus and left out: read its parts with history and step")
        try:
            found: T = decode_as(self.state_json, type)
        except Mismatch as error:
            raise BadRequest(f"the state of a {self.status} flow of {self.workflow!r}: {error}") from None
        return found

    @property
    def interrupt_payload(self) -> Any:
        """The payload of the oldest interrupt as a Python value."""
        return None if self.interrupt_json is None else _parse(self.interrupt_json)


@dataclass(slots=True, frozen=True)
class FlowCounts:
    """The number of root flows of each status, up to a bound (O9). `more`: statuses of which there are more than counted.

    `searched_to`: only flows created since this time were counted; `None` if all were.
    """

    counts: Mapping[Status, int]
    more: frozenset[Status] = frozenset()
    searched_to: int | None = None


@dataclass(slots=True, frozen=True)
class KeyBacklog:
    """The due steps of a fairness key, counted up to a limit. `oldest_us`: microseconds since the oldest came due."""

    fairness_key: str
    steps: int
    oldest_us: int


@dataclass(slots=True, frozen=True)
class PriorityBacklog:
    """The due steps of a priority, counted up to a limit, and of the fairness `keys` that have most of them."""

    priority: int
    steps: int
    fairness_keys: int
    oldest_us: int
    keys: Sequence[KeyBacklog] = ()


@dataclass(slots=True, frozen=True)
class EventReceipt:
    """The answer to a signal (E1): how many steps received the event, and whether it is kept for one to come."""

    delivered: int
    kept: bool


@dataclass(slots=True, kw_only=True)
class Step:
    """One step. In a history `state_json`, `changes_json` and the neighbours' keys are absent (O7).

    A step that called a sub-workflow has its name, the key of that flow and its history. `truncated`: something was left out
    because it would not have fit the bus. Of a step read by its key that is `state_json`, `changes_json` or a payload; of a
    step in a history it is part of `sub_history`, which `sub_flow_key` reads.
    """

    step_key: str
    step_id: int
    depth: int
    task: str
    attempt: int
    status: Status
    created_at: int
    updated_at: int
    started_at: int | None = None
    error: ErrorInfo | None = None
    predecessor_id: int | None = None
    successor_id: int | None = None
    state_json: bytes | None = None
    changes_json: bytes | None = None
    interrupt_json: bytes | None = None
    prev_key: str | None = None
    next_key: str | None = None
    subgraph: bool = False
    sub_workflow: str | None = None
    sub_flow_key: str | None = None
    sub_history: list[Step] = field(default_factory=list)
    kind: NodeKind = NodeKind.TASK
    """`task` if a task is asked, else the action of the engine (N8)."""
    due_at: int | None = None
    """When it is due, if it sleeps, waits for its next attempt or is scheduled."""
    queued_at: int | None = None
    """When it became due, for its last execution: from then on it waited to begin, in the queue, for a limit or a hold (Q3)."""
    claimed_at: int | None = None
    """When a replica took it for that execution; absent while it waits, and if a later execution has ended (Q3)."""
    problems: list[str] = field(default_factory=list)
    """Conditions that could not be evaluated when the step ended, and why (G9)."""
    handled_error: ErrorInfo | None = None
    """The error whose edge the step took; it counts as completed (Q3)."""
    branch: Branch | None = None
    """Its place in the innermost fan-out around it (Q3)."""
    attempts: list[FailedAttempt] = field(default_factory=list)
    """Earlier attempts that failed, in their order; of many, the newest (L3)."""
    pause: StepPause | None = None
    """What it is paused by."""
    progress: Progress | None = None
    """The last progress of the step, unless it has completed (B7)."""
    truncated: bool = False


@dataclass(slots=True, kw_only=True)
class FlowSummary:
    """One line of `list` (O9)."""

    flow_key: str
    thread_key: str
    workflow: str
    status: Status
    created_at: int
    updated_at: int
    priority: int
    fairness_key: str = ""
    started_at: int | None = None
    task: str | None = None
    due_at: int | None = None
    """When the step of that task is due, if it sleeps, waits for its next attempt or is scheduled."""
    error: ErrorInfo | None = None
    cancel_reason: str | None = None
    compensating: bool = False
    """Its completed steps are being compensated (N9)."""
    waits_for: WaitsFor | None = None
    """What its oldest living step waits for (Q2); nothing once it has ended."""
    tags: dict[str, TagValue] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ShardInfo:
    """Health and size of one shard (O16). `error` is empty for a healthy one.

    `joining`: not every replica knows the shard yet, so no new flows are placed there (O17).
    """

    shard: int
    error: str = ""
    latency_ms: float = 0.0
    flows: int = 0
    steps: int = 0
    joining: bool = False
    cordoned: bool = False
    """It takes no new flows."""
    weight: float = 1.0
    """Its share of new flows, beside those of the other shards."""
    backlog: Sequence[PriorityBacklog] = ()
    """Steps that are due and not taken up, of the best priorities."""


@dataclass(slots=True, frozen=True)
class ShardHealth:
    """The health of one shard on one replica. `reason`: why the replica cannot do its duties there; empty if it does.

    `silent_ms`: since its database last answered, `None` if it never has. `dead`: jobs that have ended and should not.
    """

    shard: int
    reason: str = ""
    silent_ms: int | None = None
    dead: Sequence[str] = ()


@dataclass(slots=True)
class GraphInfo:
    """One registered graph. `digest` is the SHA-256 of its canonical JSON, in hex."""

    name: str
    digest: str
    updated_at: int
    warnings: tuple[str, ...] = ()
    """Likely mistakes in the graph, if it was just put (G11)."""


@dataclass(slots=True, frozen=True, kw_only=True)
class StatusChanged:
    """A flow's status became `status` (wire section 5). Ids are token-free (`1-42`)."""

    flow_id: str
    thread_id: str
    workflow: str
    status: Status
    at: int
    sequence: int
    """Grows with every change of one flow."""


@dataclass(slots=True, frozen=True, kw_only=True)
class HoldInfo:
    """A hold on a task or on a workflow (K2). Times are microseconds since the epoch.

    `until`: when it ends by itself, `None` if it does not. `actor`: who put it, if that is known. `steps`: how many it keeps.
    """

    task: str = ""
    workflow: str = ""
    reason: str = ""
    since: int
    until: int | None = None
    actor: str = ""
    steps: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class TaskHealth:
    """A task that one replica holds back.

    `rate`: operations per second its valve allows now, `None` if any number. While its breaker is tripped: since when and why,
    how many probes went out, and from when the next one may; times in microseconds, 0 if it is not.
    """

    url: str
    rate: float | None = None
    tripped_at: int = 0
    cause: str = ""
    probes: int = 0
    probe_at: int = 0
