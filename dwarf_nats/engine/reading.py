"""Rows into what the reading operations return (O5-O9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.records import FlowSummary, Outcome, Step
from dwarf_nats.workflow.rows import FlowRow, StepRow
from dwarf_nats.workflow.state import decode_state, encode_state, merge
from dwarf_nats.workflow.status import Status


def error_info(text: str | None) -> ErrorInfo | None:
    """A stored error as a value."""
    if text is None:
        return None
    stored: dict[str, Any] = orjson.loads(text)
    return ErrorInfo(str(stored.pop("message", "")), int(stored.pop("code", 500)), stored)


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
        error_info(flow.error) if status is Status.FAILED else None,
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
        error_info(row.error),
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
        error_info(error),
        reason,
    )


def final_state_of(steps: list[StepRow]) -> bytes:
    """The final state of a flow that ends on the way: the input of the steps without successor (X9)."""
    if not steps:
        return b"{}"
    last = steps[-1]
    return encode_state(merge(decode_state(last.state), decode_state(last.changes)))
