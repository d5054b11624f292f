"""Steps and flows as the rules handle them: claimed, about to be created, or referred to.

The values with many fields are structs that take keywords only, so that no two fields can be swapped by mistake. A struct is
made in about half the time of a dataclass with slots (`docs/design/0025-values-by-keyword.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from dwarf_nats.rules.state_refs import NO_REFS, Refs
from dwarf_nats.workflow.state import State, merge

if TYPE_CHECKING:
    from dwarf_nats.rules.limiting import Over
    from dwarf_nats.workflow.answer import Compensating, ErrorInfo
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.progress import Progress
    from dwarf_nats.workflow.state import Raw
    from dwarf_nats.workflow.status import Status
    from dwarf_nats.workflow.tags import Tags


class StepRef(msgspec.Struct, frozen=True, gc=False):
    """A step by its id and token."""

    step_id: int
    token: str


NewIds = Callable[[], StepRef]
"""Gives the id and token of a step that is about to be created."""


class ReadyStep(NamedTuple):
    """A pending step as the ready queues hear of it. `not_before`: when it is due, microseconds on the shard's clock."""

    step_id: int
    priority: int
    not_before: int


class StoppedFlow(NamedTuple):
    """A flow that stopped, by its key, and the status it has since then."""

    key: str
    status: Status


@dataclass(slots=True)
class FlowRef:
    """A flow that the settlement of another flow's step has touched, as far as the outside is told of it."""

    key: str
    flow_id: int
    workflow: str
    thread_id: int
    notify: str
    surgraph_flow_id: int | None = None
    created_at: int = 0
    """0: not known."""


class FlowContext(msgspec.Struct, kw_only=True):
    """The facts of a flow that its steps share and a dispatch needs. Times in microseconds since the epoch."""

    shard: int
    flow_id: int
    token: str
    workflow: str
    digest: str
    graph: Graph | None
    baggage: Raw
    priority: int
    fairness_key: str
    fairness_weight: float
    time_budget_ms: int | None
    notify: str
    thread_id: int
    created_at: int
    updated_at: int
    root_id: int = 0
    """The root of its tree: itself, or the flow at the top of those that called it."""
    surgraph_flow_id: int | None = None
    surgraph_step_id: int | None = None
    """The step that waits for this flow (P1)."""
    breakpoints: tuple[str, ...] = ()
    """Nodes, by name or url, before which it pauses (O12)."""
    trace: str = ""
    """The context of its root span, as `traceparent` and, after a blank, `tracestate` (T2)."""
    compensable: bool = False
    """Flows that it called have completed, and may have to be compensated with it (N9)."""
    logged: set[str] = msgspec.field(default_factory=set)
    """Nodes whose unevaluable conditions were logged already (G9)."""

    @property
    def key(self) -> str:
        return f"{self.shard}-{self.flow_id}-{self.token}"

    @property
    def public_id(self) -> str:
        return f"{self.shard}-{self.flow_id}"

    @property
    def may_compensate(self) -> bool:
        """True if completed steps, of this flow or of flows it called, may have to be compensated when it fails (N9)."""
        return self.compensable or self.graph is None or self.graph.compensates


class ClaimedStep(msgspec.Struct, kw_only=True):
    """A step claimed by this replica. `state` is its input; `changes` what earlier attempts contributed (S2)."""

    flow: FlowContext
    step_id: int
    token: str
    node: str
    url: str
    depth: int
    attempt: int
    lease_seq: int
    state: State
    changes: State
    spawn_id: int = 0
    """Its lineage: the step that fanned out, 0 outside a cohort."""
    ordinal: int = 0
    age_us: int = 0
    """Since the first dispatch of the step (X5), in microseconds."""
    dispatched_at: int = 0
    """On this replica's clock."""
    resumed: Raw | None = None
    """The data its interrupt was resumed with (P2)."""
    interrupt_timed_out: bool = False
    """The deadline of its interrupt passed (P6)."""
    event: Raw | None = None
    """The end of its wait for an event, as JSON: `{"data", "id", "at"}` or `{"timedOut": true}` (E2)."""
    subgraph_result: Raw | None = None
    subgraph_error: ErrorInfo | None = None
    """The end of its child (P1)."""
    breakpoint_hit: bool = False
    """It has paused at its breakpoint; it does so once (O12)."""
    refs: Refs = NO_REFS
    """The steps that hold the large fields of `state`, where it is not this step."""
    probe: bool = False
    """Let through by a tripped breaker, to find out whether the task serves again (V4)."""
    unmerged: ErrorInfo | None = None
    """It is a fan-in whose input still cannot be merged: it fails with this, and its task is not asked (F3, O13)."""
    reruns: int = 0
    """Operations that made it run again (O13); retries and recoveries do not count."""
    compensating: Compensating | None = None
    """It compensates a completed step (N9)."""
    checkpoint: Raw | None = None
    """The data of the last progress of an earlier execution (B7)."""
    progress: Progress | None = None
    """The last progress of this execution."""
    unsaved_progress: Progress | None = None
    """The same, until it is in the database."""
    cancelled: bool = False
    """Nobody wants its result any more: its flow was cancelled, or rewound, and this replica knows."""
    slot: str = ""
    """The task its worker slot counts for (C6): its own, or if it is set, that of the step that follows on it."""
    permits: Sequence[Over] = ()
    """The permits of limits that this claim holds, which end with it (K1)."""
    begun: bool = False
    """Its execution has begun; before that, an asyncio task that is cancelled would never run, nor tidy up."""
    called_off: bool = False
    """It is to be released as soon as its execution begins."""
    span: Any = None
    """The span of its dispatch, if telemetry is on (T2)."""
    ahead_of: ClaimedStep | None = None
    """The step before it, while that is not written: it went ahead, and its row does not exist yet."""
    follower: ClaimedStep | None = None
    """The step that went ahead on its result."""
    _input: State | None = None

    @property
    def input(self) -> State:
        """The state its task is asked with: `merge(state, changes)`, made once (S2)."""
        if self._input is None:
            self._input = merge(self.state, self.changes)
        return self._input

    @property
    def parked_before(self) -> bool:
        """True if it has waited for a resume, a child or an event already (X4)."""
        return (
            self.resumed is not None
            or self.subgraph_result is not None
            or self.subgraph_error is not None
            or self.event is not None
            or self.interrupt_timed_out
        )

    @property
    def key(self) -> str:
        return f"{self.flow.shard}-{self.step_id}-{self.token}"

    @property
    def public_id(self) -> str:
        return f"{self.flow.shard}-{self.step_id}"

    @property
    def message_id(self) -> str:
        """The id of what it sends: the same on each retry and recovery, another one after a restart (N3).

        It holds a digest of the step's token, so that two deployments that write to one stream never have the same id. The
        token cannot be worked out from it.
        """
        digest = blake2b(self.token.encode(), digest_size=6).digest()
        return f"{self.public_id}-{int.from_bytes(digest) + self.reruns}"

    @property
    def log_fields(self) -> dict[str, object]:
        """Fields of a log line about it, token-free (T3)."""
        flow = self.flow
        return {"flow_id": flow.public_id, "step_id": self.public_id, "workflow": flow.workflow, "task": self.url}


class NewStep(msgspec.Struct, kw_only=True):
    """A successor. If `eager`, it is inserted as already claimed by this replica; `delay_us` holds it back (X6).

    `state_json`: its state as it is written, without the fields in `refs`.
    """

    step_id: int
    token: str
    node: str
    url: str
    depth: int
    state: State
    state_json: bytes
    delay_us: int = 0
    eager: bool = False
    at_once: bool = False
    """The engine carries it out itself, without waiting for anything outside (N8)."""
    spawn_id: int = 0
    ordinal: int = 0
    refs: Refs = NO_REFS


class NewFlow(msgspec.Struct, kw_only=True):
    """A flow to be created with its entry step (O1).

    Started at once if `start`; its step is then pending, or if `eager` running and already claimed by this replica.
    """

    flow: FlowContext
    state: State
    state_json: bytes
    step_id: int
    step_token: str
    node: str
    url: str
    thread_token: str
    start: bool
    eager: bool = False
    start_at: int | None = None
    idempotency_key: str = ""
    request_digest: str = ""
    delete_on_completion: bool = False
    tags: Tags | None = None
    shards: int = 0
    """The number of shards with which the home of its idempotency key was worked out."""
    reserves: bool = False
    """This database is that home: the key is taken with the flow."""
    kept_until: int = 2**62
    """Until when its graph is kept, on the database's clock; later it is not created."""
    assumed: bool = False
    """Its graph was registered for its workflow a moment ago: it is created only if that is still so."""


def eager_step(flow: FlowContext, new: NewStep) -> ClaimedStep:
    """A step that starts eagerly: it is inserted as already claimed by this replica."""
    return ClaimedStep(
        flow=flow,
        step_id=new.step_id,
        token=new.token,
        node=new.node,
        url=new.url,
        depth=new.depth,
        attempt=0,
        lease_seq=1,
        state=new.state,
        changes={},
        spawn_id=new.spawn_id,
        ordinal=new.ordinal,
        refs=new.refs,
    )


def first_step(new: NewFlow) -> ClaimedStep:
    """The entry step of a flow that is created with it running."""
    return ClaimedStep(
        flow=new.flow,
        step_id=new.step_id,
        token=new.step_token,
        node=new.node,
        url=new.url,
        depth=1,
        attempt=0,
        lease_seq=1,
        state=new.state,
        changes={},
    )
