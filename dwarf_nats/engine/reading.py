"""Rows into what the reading operations return (O5-O9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dwarf_nats.rules import fan_in
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.records import FlowSummary, Outcome, Step
from dwarf_nats.workflow.rows import FlowRow, StepRow
from dwarf_nats.workflow.state import decode_state, encode_state, merge
from dwarf_nats.workflow.status import Status


def flow_key(shard: int, flow: FlowRow) -> str:
    return f"{shard}-{flow.flow_id}-{flow.token}"


def outcome_of(shard: int, flow: FlowRow) -> Outcome:
    """Where the flow stands (O5)."""
    status = flow.status
    return Outcome(
        flow_key(shard, flow),
        flow.workflow,
        status,
        (flow.final_state or "{}").encode() if status.terminal else b"{}",
        ErrorInfo.from_stored(flow.error) if status is Status.FAILED else None,
        (flow.cancel_reason or "") if status is Status.CANCELLED else None,
    )


def step_of(shard: int, row: StepRow, *, whole: bool) -> Step:
    """A step; with its state and changes if `whole`."""
    return Step(
        f"{shard}-{row.step_id}-{row.token}",
        row.step_id,
        row.depth,
        row.node,
        row.attempt,
        row.status,
        row.created_at,
        row.updated_at,
        row.started_at,
        ErrorInfo.from_stored(row.error),
        row.predecessor_id,
        row.successor_id,
        row.state.encode() if whole else None,
        row.changes.encode() if whole else None,
    )


def summary_of(shard: int, row: Sequence[Any]) -> FlowSummary:
    """One line of a page."""
    (flow_id, token, thread_id, thread_token, workflow, status, error, reason, created, started, updated, priority,
     fairness_key, task) = row  # fmt: skip
    return FlowSummary(
        f"{shard}-{flow_id}-{token}",
        f"{shard}-{thread_id}-{thread_token}",
        workflow,
        Status(status),
        created,
        updated,
        priority,
        fairness_key,
        started,
        task,
        ErrorInfo.from_stored(error),
        reason,
    )


def final_state_of(graph: Graph, steps: list[StepRow]) -> bytes:
    """The final state of a flow that ends on the way (X9): inside a fan-out what the fan-in would have received, else the
    input of the steps without successor."""
    if not steps:
        return b"{}"
    open_spawns = [
        one for one in steps if one.cohort_size is not None and one.arrivals < one.cohort_size and not one.spawn_id
    ]
    if open_spawns:
        one = open_spawns[-1]
        spawn = fan_in.Spawn(one.step_id, 0, 0, one.depth, one.node, one.state, one.changes)
        members = [
            fan_in.Member(
                row.step_id, row.ordinal, row.depth, row.status is Status.COMPLETED, bool(row.arrived), row.changes, 0
            )
            for row in steps
            if row.spawn_id == one.step_id
        ]
        return fan_in.final_state(graph, spawn, members)
    last = steps[-1]
    return encode_state(merge(decode_state(last.state), decode_state(last.changes)))
