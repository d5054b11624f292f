"""Flows and steps as a store keeps them. Times are microseconds since the epoch; JSON is text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from dwarf_nats.workflow.status import Status


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
    priority: int
    fairness_key: str
    fairness_weight: float
    start_at: int | None
    time_budget_ms: int | None
    baggage: str
    notify: str
    request_digest: str
    final_state: str | None
    error: str | None
    cancel_reason: str | None
    created_at: int
    started_at: int | None
    updated_at: int

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
    not_before: int
    created_at: int
    started_at: int | None
    updated_at: int

    @classmethod
    def columns(cls) -> str:
        return ", ".join(field.name for field in fields(cls))


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
