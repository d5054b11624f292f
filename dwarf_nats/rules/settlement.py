"""Settlements: values that list what becomes true when a step's answer is written (architecture: the spine)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.workflow.state import State, encode_state
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import ErrorInfo
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.state import Raw


@dataclass(slots=True)
class FlowFacts:
    """What the steps of one flow share and a dispatch needs. Times in microseconds since the epoch."""

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
    logged: set[str] = field(default_factory=set)
    """Nodes whose unevaluable conditions were logged already (G9)."""

    @property
    def key(self) -> str:
        return f"{self.shard}-{self.flow_id}-{self.token}"


@dataclass(slots=True)
class StepInHand:
    """A step claimed by this replica. `state` is its input; `changes` what earlier attempts contributed (S2)."""

    flow: FlowFacts
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
    probe: bool = False
    """Let through by a tripped breaker, to find out whether the task serves again (V4)."""

    @property
    def key(self) -> str:
        return f"{self.flow.shard}-{self.step_id}-{self.token}"

    @property
    def shown(self) -> str:
        return f"{self.flow.shard}-{self.step_id}"


@dataclass(slots=True)
class NewStep:
    """A successor. Born running it is already claimed by this replica; `delay_us` holds it back (X6)."""

    step_id: int
    token: str
    node: str
    url: str
    depth: int
    state: State
    state_json: bytes
    delay_us: int = 0
    running: bool = False
    spawn_id: int = 0
    ordinal: int = 0


@dataclass(slots=True)
class FlowEnd:
    """The flow's terminal status and final state (X8, X9)."""

    status: Status
    state_json: bytes
    error: ErrorInfo | None = None


@dataclass(slots=True)
class Settlement:
    """What one answer makes true. `status`: completed, failed, or pending (a retry, or given back after `delay_us`)."""

    step: StepInHand
    status: Status
    changes: State
    error: ErrorInfo | None = None
    attempt: int = 0
    delay_us: int = 0
    successor: NewStep | None = None
    branches: list[NewStep] = field(default_factory=list)
    """The cohort this step spawns (F1)."""
    arrives: bool = False
    """The step is the last of its branch: its cohort counts one more arrival, a failed one if it failed (F2, F4)."""
    end: FlowEnd | None = None
    error_json: str | None = None
    problems: Sequence[str] = ()
    """Conditions that could not be evaluated (G9)."""
    _changes_json: bytes | None = None

    def changes_json(self) -> bytes:
        if self._changes_json is None:
            self._changes_json = encode_state(self.changes) if self.changes else b"{}"
        return self._changes_json


@dataclass(slots=True)
class NewFlow:
    """A flow to be created with its entry step (O1). Started at once if `start`; its step is then pending or running."""

    facts: FlowFacts
    state: State
    state_json: bytes
    step_id: int
    step_token: str
    node: str
    url: str
    thread_token: str
    start: bool
    running: bool = False
    start_at: int | None = None
    idempotency_key: str = ""
    request_digest: str = ""
    delete_on_completion: bool = False


NewIds = Callable[[], tuple[int, str]]
"""Gives the id and token of a step that is about to be born."""


class Settled(dict[int, tuple[bool, int]]):
    """Step id → (took effect on a living flow, time), of the settlements that were not fenced off (X1).

    `born`: steps that came to be by what the group did together, pending. `ended`: flows that ended so, with the time.
    """

    def __init__(self, applied: dict[int, tuple[bool, int]]) -> None:
        super().__init__(applied)
        self.born: list[tuple[FlowFacts, NewStep]] = []
        self.ended: list[tuple[FlowFacts, FlowEnd, int]] = []
