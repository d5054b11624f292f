"""The living steps of flows and what surrounds them, as a store reads them for an explanation (Q2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from dwarf_nats.rules.rows import From


class LivingGroup(NamedTuple):
    """Living steps that wait in the same way, counted; its fields mean what those of `LivingStep` do."""

    url: str
    status: str
    parked: int
    not_before: int
    attempt: int
    payload_size: int | None
    slept: int
    cause: str | None
    steps: int
    """How many."""


@dataclass(slots=True)
class LivingStep:
    """One living step. Without its state, and without the payload of its interrupt."""

    step_id: int
    token: str
    flow_id: int
    node: str
    url: str
    status: str
    parked: int
    attempt: int
    error: str | None
    not_before: int
    created_at: int
    started_at: int | None
    updated_at: int
    lease_expires: int | None
    payload_size: int | None
    """About how many bytes its payload has; `None` if it has none, as at a breakpoint."""
    slept: int
    """1 if it sleeps, or has waited for an event."""
    wait_event: str | None
    wait_key: str | None
    wait_until: int | None
    compensates: int | None
    priority: int
    predecessor_id: int | None
    replica: Annotated[str | None, From("r", "name")]
    """The replica that has claimed it."""
    replica_seen_at: Annotated[int | None, From("r", "seen_at")]
    bus_away_since: Annotated[int | None, From("r")]
    """Since when that replica holds its steps because its connection to the task services is away."""
    cause: Annotated[str | None, From("t")]
    """The cause for which the breaker of its task is tripped; `None` if it is not."""
    tripped_at: Annotated[int | None, From("t")]
    limit_slot: Annotated[str | None, From("w", "slot")]
    """The limit and key for which it waits, `limit/key` (K1)."""
    limit_because: Annotated[str | None, From("w", "because")]
    progress: str | None
    """The JSON of the last progress that was written (B7)."""
    progress_at: int | None
    ordinal: int
    branches: Annotated[int | None, From("p", "cohort_size")]
    """Branches of the fan-out that it is in; `None` outside one."""
    fan_out: Annotated[str | None, From("p", "node")]
    """The node that fanned out."""


@dataclass(slots=True)
class LivingFlow:
    """One living flow of a tree."""

    flow_id: int
    token: str
    workflow: str
    graph_digest: str
    surgraph_flow_id: int | None
    surgraph_step_id: int | None
    start_at: int | None
    time_budget_ms: int | None


class Moment(NamedTuple):
    """The database's clock, and the best priority of which steps are ready; `None` if none is."""

    now: int
    best_priority: int | None


class SeenReplica(NamedTuple):
    """A replica in the database, and the time of its last heartbeat."""

    name: str
    seen_at: int


@dataclass(slots=True, kw_only=True)
class Living:
    """The living part of a tree of flows below one of them, that one included.

    `steps`: those that wait for something other than a flow in `flows`, the oldest first. `callers`: the steps above them, by
    id. If there are more than were asked for, `groups` counts all.
    """

    moment: Moment
    flows: Mapping[int, LivingFlow]
    steps: Sequence[LivingStep]
    callers: Mapping[int, LivingStep]
    payloads: Mapping[int, str]
    replicas: Sequence[SeenReplica]
    groups: Sequence[LivingGroup] = field(default_factory=list)
    more: bool = False


class FailedStep(NamedTuple):
    """A step that failed, in a flow that did; `failures`: how many steps of that flow did."""

    step_id: int
    token: str
    node: str
    error: str | None
    failures: int
