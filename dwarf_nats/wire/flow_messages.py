"""The messages about flows and replicas, as types; `messages` has these names and all others."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta

from .explain_messages import WaitsFor
from .graph_messages import DurabilityName
from .message_fields import (
    MOST,
    AnyJson,
    Compensated,
    FlowStatus,
    Key,
    Maybe,
    Message,
    Object,
    Priority,
    Request,
    Subject,
    TaskName,
    Time,
    TimeoutMs,
    Truncated,
    When,
)
from .pause_messages import Pause
from .tag_messages import TagsJson


class Options(Request):
    """How a flow is scheduled and carried (O1)."""

    priority: Maybe[Priority] = UNSET
    fairness_key: Maybe[str] = UNSET
    fairness_weight: Maybe[Annotated[float, Meta(gt=0)]] = UNSET
    start_at: Maybe[When] = UNSET
    baggage: Maybe[AnyJson] = UNSET
    idempotency_key: Maybe[str] = UNSET
    notify: Maybe[Subject] = UNSET
    time_budget_ms: Maybe[Annotated[int, Meta(ge=1, le=MOST)]] = UNSET
    thread_key: Maybe[Key] = UNSET
    delete_on_completion: Maybe[bool] = UNSET
    tags: Maybe[TagsJson] = UNSET
    durability: Maybe[DurabilityName] = UNSET


class FlowCreateRequest(Request):
    """Make a flow of a workflow, or of the graph given inline (O1)."""

    workflow: Maybe[Subject] = UNSET
    graph: Maybe[Object] = UNSET
    state: Maybe[Object] = UNSET
    options: Maybe[Options] = UNSET
    start: Maybe[bool] = UNSET


class FlowCreateTaskRequest(Request):
    """Make a flow of one task (O1)."""

    task: Subject
    state: Maybe[Object] = UNSET
    options: Maybe[Options] = UNSET
    start: Maybe[bool] = UNSET


class FlowStartRequest(Request):
    """Start a created flow (O2)."""

    flow_key: Key
    notify: Maybe[Subject] = UNSET


class FlowRunRequest(Request):
    """Create, start and await (O3)."""

    workflow: Maybe[Subject] = UNSET
    graph: Maybe[Object] = UNSET
    state: Maybe[Object] = UNSET
    options: Maybe[Options] = UNSET
    timeout_ms: Maybe[TimeoutMs] = UNSET


class FlowWaitRequest(Request):
    """Wait for a flow to stop (O4)."""

    flow_key: Key
    timeout_ms: Maybe[TimeoutMs] = UNSET


class FlowRequest(Request):
    """Names a flow."""

    flow_key: Key


class FlowHistoryRequest(Request):
    """A page of a flow's history (O7); `limit` is 100 unless given."""

    flow_key: Key
    limit: Maybe[Annotated[int, Meta(ge=1, le=1000)]] = UNSET
    cursor: Maybe[str] = UNSET


class StepRequest(Request):
    """Names a step."""

    step_key: Key


class FlowCancelRequest(Request):
    """Cancel a flow (O10)."""

    flow_key: Key
    reason: Maybe[str] = UNSET


class FlowOverridesRequest(Request):
    """Restart a flow, with fields of the state replaced (O13)."""

    flow_key: Key
    overrides: Maybe[Object] = UNSET


class StepOverridesRequest(Request):
    """Restart from a step, with fields of the state replaced (O13)."""

    step_key: Key
    overrides: Maybe[Object] = UNSET


class FlowBreakBeforeRequest(Request):
    """Set or clear a breakpoint (O12)."""

    flow_key: Key
    task: str
    enabled: Maybe[bool] = UNSET


class FlowContinueRequest(Request):
    """Make the next flow of a thread (O15)."""

    thread_key: Key
    state: Maybe[Object] = UNSET
    options: Maybe[Options] = UNSET
    start: Maybe[bool] = UNSET


class TaskBreakerRequest(Request):
    """Names a task by its url (O16)."""

    task: TaskName


class EmptyRequest(Request):
    """Nothing to say; an empty payload will do."""


class Empty(Message):
    """Done."""


class FlowKeyReply(Message):
    """The flow that was made."""

    flow_key: Key


class Outcome(Message):
    """Where a flow stands (O5)."""

    flow_key: Key
    workflow: str
    status: FlowStatus
    state: Object
    error: Maybe[dict[str, Any]] = UNSET
    cancel_reason: Maybe[str] = UNSET
    interrupt_payload: Maybe[AnyJson] = UNSET
    pauses: Maybe[
        Annotated[list[Pause], Meta(description="What it is paused by, the oldest pause first; 100 at most.")]
    ] = UNSET
    tags: Maybe[TagsJson] = UNSET
    breakpoints: Maybe[Annotated[list[str], Meta(description="Nodes before which it pauses; in a snapshot.")]] = UNSET
    compensating: Maybe[Compensated] = UNSET
    truncated: Maybe[Truncated] = UNSET


class FingerprintReply(Message):
    """Changes whenever anything observable about the flow does (O6)."""

    fingerprint: str
    status: FlowStatus


class MermaidReply(Message):
    """A diagram (D1)."""

    mermaid: str


class FlowGraphReply(Message):
    """The graph that a flow runs, and the SHA-256 of its canonical JSON (G10)."""

    graph: Object
    digest: str


class FlowSummary(Message):
    """One flow of a list (O9); fields without a value are left out."""

    flow_key: Key
    thread_key: Key
    workflow: str
    status: FlowStatus
    created_at: Time
    updated_at: Time
    priority: int
    task: Maybe[str] = UNSET
    due_at: Maybe[Time] = UNSET
    error: Maybe[dict[str, Any]] = UNSET
    cancel_reason: Maybe[str] = UNSET
    started_at: Maybe[Time] = UNSET
    fairness_key: Maybe[str] = UNSET
    tags: Maybe[TagsJson] = UNSET
    compensating: Maybe[Compensated] = UNSET
    waits_for: Maybe[WaitsFor] = UNSET


class FlowListReply(Message):
    """A page of flows; no cursor on the last.

    `searchedTo`: so many flows were looked through that the page ended early. It is short, or empty; flows created since then
    are all in this page or an earlier one, and the cursor goes on from there (O9).
    """

    flows: list[FlowSummary]
    cursor: Maybe[str] = UNSET
    searched_to: Maybe[Time] = UNSET


class FlowCountReply(Message):
    """The number of root flows of each status; a status without any is left out (O9).

    `more`: statuses of which there are more, since not more than 1,000 are counted of each. `searchedTo`: only flows created
    since then were counted.
    """

    counts: dict[str, int]
    more: Maybe[list[FlowStatus]] = UNSET
    searched_to: Maybe[Time] = UNSET


class FlowPurgeReply(Message):
    """How many flows were deleted."""

    deleted: int


class TaskBreakerReply(Message):
    """Whether a task's breaker is tripped (O16)."""

    task: TaskName
    tripped: bool


class ShardHealth(Message):
    """Whether a replica does its duties to one shard; `reason` says why not."""

    shard: int
    ready: bool
    reason: Maybe[str] = UNSET
    seen_ms: Maybe[Annotated[int, Meta(description="Milliseconds since its database last answered.")]] = UNSET


class HealthReply(Message):
    """A replica's own health. `live`: it works at all. `ready`: it can serve now; `reason` says why not."""

    replica: str
    version: str
    live: bool
    ready: bool
    bus: Annotated[bool, Meta(description="Whether it is connected to NATS.")]
    uptime_ms: int
    shards: list[ShardHealth]
    reason: Maybe[str] = UNSET


class HealthListReply(Message):
    """What `dwarf-nats health --json` prints."""

    replicas: list[HealthReply]


class ErrorDetail(Message):
    """A refusal; further fields may follow (a 408 of `run` has `flowKey`)."""

    code: int
    message: str
    flow_key: Maybe[Key] = UNSET


class ErrorReply(Message):
    """The body of every refusal; the headers Nats-Service-Error-Code and Nats-Service-Error say the same."""

    error: ErrorDetail
