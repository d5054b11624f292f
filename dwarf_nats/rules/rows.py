"""Flows and steps as a store keeps them. Times are microseconds since the epoch; JSON is text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from dwarf_nats.rules.steps import ReadyStep, StepRef
from dwarf_nats.workflow.records import Pause
from dwarf_nats.workflow.status import Status


class From(NamedTuple):
    """Another place that a field of a row is read from: the alias of a table, and the column if its name is not the field's.

    Stands in the annotation: `Annotated[int, From("f", "updated_at")]`.
    """

    table: str
    column: str = ""


@dataclass(slots=True, frozen=True)
class HeartbeatReply:
    """The database's answer to a heartbeat, which finds what a lost signal would have told (B1).

    `held`: there are tasks whose steps are held, or steps that are. `due_in`: microseconds until a pending step is due,
    0 if one is; `None` if none waits. `shards`: the number of shards agreed on, `counts` as in `ShardIdentity`.
    `deadline_in`: microseconds until the first deadline of a step that waits, 0 if it has passed; `None` if there is none.
    `schedule_in`: as `deadline_in`, of the first due time of a schedule.
    `definitions`: the revision of the definitions, of which shard 1 alone has any. `schema_is_later`: the schema is of a
    later version than this replica.
    """

    held: bool
    due_in: int | None
    shards: int = 0
    deadline_in: int | None = None
    schedule_in: int | None = None
    definitions: int = 0
    schema_is_later: bool = False
    counts: frozenset[int] = frozenset()


@dataclass(slots=True, frozen=True)
class ShardIdentity:
    """The identity written in a database: its deployment, its shard, and the number of shards (0: not agreed yet).

    `counts`: the numbers agreed on so far, from which the homes of keys follow (`rules.shard_counts`).
    """

    deployment: str
    shard: int
    shards: int
    counts: frozenset[int] = frozenset()


@dataclass(slots=True, frozen=True)
class Reservation:
    """The flow that has an idempotency key, or is to have it. `shard` is 0 if it lies with the key; `age_us`: since when."""

    shard: int
    flow_id: int
    token: str
    request_digest: str
    age_us: int


@dataclass(slots=True)
class FlowRow:
    """One row of `dwarf_flows`, its columns in this order."""

    flow_id: int
    token: str
    workflow: str
    graph_digest: str
    status: Status
    thread_id: int
    thread_token: str
    surgraph_step_id: int | None
    surgraph_flow_id: int | None
    root_id: int
    breakpoints: str | None
    priority: int
    fairness_key: str
    fairness_weight: float
    start_at: int | None
    time_budget_ms: int | None
    baggage: str
    notify: str
    request_digest: str
    final_state: str | None
    """Without what is `final_borrowed` (`state_refs`)."""
    final_borrowed: str | None
    error: str | None
    cancel_reason: str | None
    created_at: int
    started_at: int | None
    updated_at: int
    trace: str
    restarted_at: int | None = None
    """The time of its last restart. The flow is shown as created then, but keeps its place in lists and threads (O13)."""
    compensating: str | None = None
    """The status it takes once the compensations under way are over (N9). Final state, error and reason are there already."""
    compensable: int = 0
    """1 if flows that it called have completed, and may have to be compensated with it."""
    tags: str | None = None
    """Its tags; a flow that was called has none of its own (Q1)."""

    @classmethod
    def columns(cls) -> str:
        return ", ".join(field.name for field in fields(cls))


@dataclass(slots=True)
class StepRow:
    """One row of `dwarf_steps`, its columns in this order."""

    step_id: int
    flow_id: int
    depth: int
    token: str
    node: str
    url: str
    state: str
    """Without the fields that `borrowed` refers to (`state_refs`)."""
    changes: str
    status: Status
    attempt: int
    error: str | None
    predecessor_id: int | None
    successor_id: int | None
    spawn_id: int
    ordinal: int
    arrived: int
    cohort_size: int | None
    arrivals: int
    failures: int
    cohort_error: str | None
    parked: int
    breakpoint_hit: int
    interrupt_payload: str | None
    resumed: str | None
    subgraph_result: str | None
    subgraph_error: str | None
    parked_changes: str | None
    borrowed: str | None
    lease_seq: int
    priority: int
    fairness_key: str
    fairness_weight: float
    not_before: int
    created_at: int
    started_at: int | None
    updated_at: int
    problems: str | None
    """A JSON list of texts."""
    wait_event: str | None = None
    wait_key: str | None = None
    wait_until: int | None = None
    """The deadline of its wait for an event, or of its interrupt."""
    event: str | None = None
    interrupt_timed_out: int = 0
    compensates: int | None = None
    """The step that it compensates."""
    copied_from: int | None = None
    """The step of which a fork made this copy, as completed; a copy is not compensated with its flow (N9, O14)."""
    attempts: str | None = None
    """The attempts that failed (`rules.attempts`)."""
    progress: str | None = None
    """The last progress of an execution (`rules.progress`)."""
    progress_at: int | None = None

    @classmethod
    def columns(cls) -> str:
        return ", ".join(field.name for field in fields(cls))

    @classmethod
    def columns_without_texts(cls) -> str:
        """The columns to select without the texts that may be large, which are then empty."""
        return ", ".join(
            f"'{{}}' as {field.name}" if field.name in _LARGE_TEXTS else field.name for field in fields(cls)
        )


_LARGE_TEXTS = frozenset({"state", "changes", "parked_changes", "resumed", "subgraph_result"})


@dataclass(slots=True)
class SummaryRow:
    """A flow as a page of flows shows it. `task`: the node of its youngest step."""

    flow_id: int
    token: str
    thread_id: int
    thread_token: str
    workflow: str
    status: Status
    error: str | None
    cancel_reason: str | None
    shown_created_at: int
    """When it was created, or restarted last."""
    started_at: int | None
    updated_at: int
    priority: int
    fairness_key: str
    task: str | None
    due_at: int | None
    """When that step is due, if it waits for a time."""
    created_at: int
    """Its place among the pages, which a restart does not change."""
    compensating: str | None
    tags: str | None


class FanOut(NamedTuple):
    """A step that fanned out, as its branches show it. `cohort_size`: the number of its branches."""

    node: str
    cohort_size: int | None


class Called(NamedTuple):
    """A flow that a step called."""

    flow_id: int
    token: str
    workflow: str
    graph_digest: str


@dataclass(slots=True)
class TreeChange:
    """The result of an operation on a tree of flows.

    `changed`: flows whose status is another, as they are now. `due`: steps that became pending. `running`: steps that ran and
    are not wanted any more. `steps`: how many steps the flows had that were restarted together; they run about as many again.
    """

    changed: list[FlowRow] = field(default_factory=list)
    due: list[ReadyStep] = field(default_factory=list)
    running: list[StepRef] = field(default_factory=list)
    steps: int = 0


@dataclass(slots=True)
class TimedOutWaits:
    """The result of timing out `count` waits. `next_in`: microseconds until the next deadline, `None` if there is none.

    A next deadline that has passed belongs to a step that another transaction is changing, or that was beyond the limit.
    """

    change: TreeChange
    count: int
    next_in: int | None


@dataclass(slots=True)
class PausedFlow:
    """The pauses of a flow: the oldest pause's merged state, the pauses that are listed, and whether some are not (P5)."""

    state_json: bytes
    pauses: list[Pause]
    truncated: bool = False


def flow_row(row: Sequence[Any]) -> FlowRow:
    """A fetched row as a value."""
    flow = FlowRow(*row)
    flow.status = Status(flow.status)
    return flow


def step_row(row: Sequence[Any]) -> StepRow:
    """A fetched row as a value."""
    step = StepRow(*row)
    step.status = Status(step.status)
    return step
