"""A claimed step as its row says it, and as the engine dispatches it. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from dwarf_nats.rules import breakpoints, state_refs
from dwarf_nats.rules.rows import From
from dwarf_nats.rules.steps import ClaimedStep, FlowContext
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.state import Raw, decode_state

BREAKPOINT_HIT = 1
"""It has paused at its breakpoint."""
HAS_PROGRESS = 2
"""An earlier execution has left a progress, which is read apart, so that a claim is no wider for it (B7)."""


class ClaimedRow(msgspec.Struct, gc=False):
    """A step that was just claimed, with what its dispatch needs of its flow (`From("f")`).

    Times are microseconds since the epoch; JSON is text.
    """

    step_id: int
    token: str
    node: str
    url: str
    depth: int
    attempt: int
    lease_seq: int
    """The lease generation of this claim (X1)."""
    state: str
    """Without the fields that `borrowed` refers to."""
    changes: str
    age_us: int
    """Since the step was first dispatched."""
    not_before: int
    spawn_id: int
    ordinal: int
    resumed: str | None
    interrupt_timed_out: int
    event: str | None
    subgraph_result: str | None
    subgraph_error: str | None
    marks: int
    """The sum of what holds: `BREAKPOINT_HIT`, `HAS_PROGRESS`."""
    compensates: int | None
    borrowed: str | None
    cohort_error: str | None
    reruns: int
    flow_id: Annotated[int, From("f")]
    flow_token: Annotated[str, From("f", "token")]
    flow_status: Annotated[str, From("f", "status")]
    workflow: Annotated[str, From("f")]
    graph_digest: Annotated[str, From("f")]
    baggage: Annotated[str, From("f")]
    priority: Annotated[int, From("f")]
    fairness_key: Annotated[str, From("f")]
    fairness_weight: Annotated[float, From("f")]
    time_budget_ms: Annotated[int | None, From("f")]
    notify: Annotated[str, From("f")]
    thread_id: Annotated[int, From("f")]
    flow_created_at: int
    """The time at which the flow was created, or restarted last."""
    flow_updated_at: Annotated[int, From("f", "updated_at")]
    breakpoints: Annotated[str | None, From("f")]
    compensable: Annotated[int, From("f")]
    root_id: Annotated[int, From("f")]
    surgraph_flow_id: Annotated[int | None, From("f")]
    surgraph_step_id: Annotated[int | None, From("f")]
    trace: Annotated[str, From("f")]


def claimed_step(row: ClaimedRow, shard: int, held: state_refs.RefSource) -> ClaimedStep:
    """The claimed step of a row, its state whole. Its flow comes without the graph.

    `held`: what the steps hold from which it borrows. Raises `state_refs.DanglingRef` if one of them was removed.
    """
    return ClaimedStep(
        flow=FlowContext(
            shard=shard,
            flow_id=row.flow_id,
            token=row.flow_token,
            workflow=row.workflow,
            digest=row.graph_digest,
            graph=None,
            baggage=Raw(row.baggage.encode()),
            priority=row.priority,
            fairness_key=row.fairness_key,
            fairness_weight=row.fairness_weight,
            time_budget_ms=row.time_budget_ms,
            notify=row.notify,
            thread_id=row.thread_id,
            created_at=row.flow_created_at,
            updated_at=row.flow_updated_at,
            root_id=row.root_id,
            surgraph_flow_id=row.surgraph_flow_id,
            surgraph_step_id=row.surgraph_step_id,
            breakpoints=breakpoints.read(row.breakpoints),
            trace=row.trace,
            compensable=bool(row.compensable),
        ),
        step_id=row.step_id,
        token=row.token,
        node=row.node,
        url=row.url,
        depth=row.depth,
        attempt=row.attempt,
        lease_seq=row.lease_seq,
        state=held.resolve(row.state, row.borrowed),
        changes=decode_state(row.changes),
        spawn_id=row.spawn_id,
        ordinal=row.ordinal,
        age_us=row.age_us,
        resumed=_raw(row.resumed),
        interrupt_timed_out=bool(row.interrupt_timed_out),
        event=_raw(row.event),
        subgraph_result=_raw(row.subgraph_result),
        subgraph_error=_error_of_child(row.subgraph_error),
        breakpoint_hit=bool(row.marks & BREAKPOINT_HIT),
        refs=state_refs.read(row.borrowed),
        unmerged=ErrorInfo.from_stored(row.cohort_error),
        reruns=row.reruns,
    )


def _error_of_child(text: str | None) -> ErrorInfo | None:
    """The stored error of a child; rows of earlier versions have its message only."""
    if text is None:
        return None
    try:
        return ErrorInfo.from_stored(text)
    except (ValueError, TypeError, AttributeError):
        return ErrorInfo(text)


def _raw(text: str | None) -> Raw | None:
    return None if text is None else Raw(text.encode())
