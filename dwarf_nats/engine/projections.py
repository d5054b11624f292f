"""Conversion of rows into the records that operations return (O5-O9)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dwarf_nats.errors import NotFound
from dwarf_nats.rules import attempts, fan_in, state_refs
from dwarf_nats.rules.pauses import with_payload
from dwarf_nats.rules.rows import FanOut, FlowRow, PausedFlow, StepRow, SummaryRow
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.limits import UNBOUNDED, UNLIMITED, Limits
from dwarf_nats.workflow.nodes import NodeKind
from dwarf_nats.workflow.progress import Progress, read_progress
from dwarf_nats.workflow.records import FlowSummary, Outcome, Step
from dwarf_nats.workflow.state import decode_state, decode_value, encode_state, merge
from dwarf_nats.workflow.status import Parked, Status
from dwarf_nats.workflow.step_details import Branch, StepPause
from dwarf_nats.workflow.tags import read as read_tags

if TYPE_CHECKING:
    from dwarf_nats.ports import FlowStore
    from dwarf_nats.rules.settlement import FlowEnd
    from dwarf_nats.rules.steps import FlowContext, FlowRef


_NOT_BEGUN = (Status.CREATED, Status.PENDING)


def flow_key(shard: int, flow: FlowRow) -> str:
    """Return the key of a flow."""
    return f"{shard}-{flow.flow_id}-{flow.token}"


def outcome_of(shard: int, flow: FlowRow, paused: PausedFlow | None = None) -> Outcome:
    """Return the outcome of a flow (O5). Its final state must be complete; `paused`: what pauses it, if it is interrupted."""
    status = flow.status
    outcome = Outcome(
        flow_key=flow_key(shard, flow),
        workflow=flow.workflow,
        status=status,
        state_json=(flow.final_state or "{}").encode() if status.terminal else b"{}",
        error=ErrorInfo.from_stored(flow.error) if status is Status.FAILED else None,
        cancel_reason=(flow.cancel_reason or "") if status is Status.CANCELLED else None,
        compensating=flow.compensating is not None,
        tags=read_tags(flow.tags),
    )
    if status is Status.INTERRUPTED and paused is not None:
        outcome.state_json = paused.state_json
        outcome.interrupt_json = paused.pauses[0].payload_json
        outcome.pauses, outcome.truncated = paused.pauses, paused.truncated
    return outcome


async def current_outcome(flows: FlowStore, flow: FlowRow) -> Outcome:
    """Return the outcome of a flow; its pause and the fields its final state refers to are read from the database.

    Raises `NotFound` if the flow is deleted meanwhile.
    """
    if flow.surgraph_flow_id is not None:
        root = await flows.by_id(flow.root_id)
        tags = None if root is None else root.tags
    else:
        tags = flow.tags
    outcome = await _outcome_now(flows, flow)
    outcome.tags = read_tags(tags)
    return outcome


async def _outcome_now(flows: FlowStore, flow: FlowRow) -> Outcome:
    while True:
        if flow.status is Status.INTERRUPTED:
            paused = await flows.paused_by(flow)
            if paused is not None:
                return outcome_of(flows.shard, flow, paused)
        else:
            with contextlib.suppress(state_refs.DanglingRef):
                return outcome_of(flows.shard, await with_final_state(flows, flow))
        again = await flows.by_id(flow.flow_id)  # it was resumed, or runs again, meanwhile
        if again is None:
            raise NotFound(f"no flow {flows.shard}-{flow.flow_id}: it was deleted")
        flow = again


async def with_final_state(flows: FlowStore, flow: FlowRow) -> FlowRow:
    """Return the flow with its complete final state. Raises `state_refs.DanglingRef` if it has changed meanwhile."""
    if flow.final_state is None or flow.final_borrowed is None:
        return flow
    whole = await flows.resolve(flow.final_state, flow.final_borrowed)
    return replace(flow, final_state=encode_state(whole).decode(), final_borrowed=None)


def outcome_at(flow: FlowContext | FlowRef, end: FlowEnd, tags: str | None) -> Outcome:
    """Return the outcome of a flow that has just stopped. `tags`: as they are stored."""
    payload = None if end.payload is None else bytes(end.payload)
    return Outcome(
        flow_key=flow.key,
        workflow=flow.workflow,
        status=end.status,
        state_json=end.state_json,
        error=end.error,
        cancel_reason=(end.cancel_reason or "") if end.status is Status.CANCELLED else None,
        interrupt_json=payload,
        pauses=end.pauses,
        truncated=end.truncated,
        tags=read_tags(tags),
    )


def history_step(shard: int, row: StepRow, graph: Graph | None, fan_outs: Mapping[int, FanOut | StepRow]) -> Step:
    """Return a step of a history, which has no state and no changes. `graph`: of its flow, which knows its kind.

    `fan_outs`: the steps that fanned out to branches, by their ids; the one around this step is looked for there.
    """
    queued_at, claimed_at = _waited(row)
    node = None if graph is None else (graph.nodes if row.compensates is None else graph.compensations).get(row.node)
    return Step(
        step_key=f"{shard}-{row.step_id}-{row.token}",
        step_id=row.step_id,
        depth=row.depth,
        task=row.node,
        attempt=row.attempt,
        status=row.status,
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        error=ErrorInfo.from_stored(row.error) if row.status is not Status.COMPLETED else None,
        predecessor_id=row.predecessor_id,
        successor_id=row.successor_id,
        kind=NodeKind.TASK if node is None else node.kind,
        due_at=row.not_before if row.status in _NOT_BEGUN and row.not_before > row.updated_at else None,
        queued_at=queued_at,
        claimed_at=claimed_at,
        problems=[] if row.problems is None else list(decode_value(row.problems.encode())),
        handled_error=ErrorInfo.from_stored(row.error) if row.status is Status.COMPLETED else None,
        branch=_branch(row, fan_outs),
        attempts=attempts.read(row.attempts),
        progress=_progress(row) if row.status is not Status.COMPLETED else None,
        pause=_pause(row) if row.status is Status.INTERRUPTED else None,
    )


def _waited(row: StepRow) -> tuple[int | None, int | None]:
    """Return when a step became due for its last execution, and when a replica took it for that, as far as its row tells (Q3).

    A row has the start of the first execution. That of a later one is its last change, while it runs and nothing parks it.
    """
    due = max(row.created_at, row.not_before)
    if row.status is Status.CREATED or due > row.updated_at:
        return None, None
    if row.status is Status.PENDING or row.started_at is None:
        return due, None
    if row.started_at >= due:
        return due, row.started_at
    running = row.status is Status.RUNNING and row.parked == Parked.NO
    return due, row.updated_at if running else None


def _branch(row: StepRow, fan_outs: Mapping[int, FanOut | StepRow]) -> Branch | None:
    fan_out = fan_outs.get(row.spawn_id) if row.spawn_id else None
    if fan_out is None or fan_out.cohort_size is None:
        return None
    return Branch(index=row.ordinal, count=fan_out.cohort_size, of=fan_out.node)


def _progress(row: StepRow) -> Progress | None:
    if row.progress is None:
        return None
    return read_progress(row.progress.encode(), row.progress_at or row.updated_at, UNBOUNDED)


def _pause(row: StepRow) -> StepPause:
    payload = row.interrupt_payload
    return StepPause(
        kind="breakpoint" if payload is None else "interrupt",
        since=row.updated_at,
        until=row.wait_until,
        payload_json=None if payload is None else payload.encode(),
    )


def bound_payloads(steps: Iterable[Step]) -> None:
    """Leave out the payloads of pauses that would make a page too large; the first one always stays."""
    paused = [step for step in steps if step.pause is not None and step.pause.payload_json is not None]
    sizes = [len(step.pause.payload_json or b"") for step in paused if step.pause is not None]
    for step, whole in zip(paused, with_payload(sizes), strict=True):
        if not whole and step.pause is not None:
            step.pause = replace(step.pause, payload_json=None)


def step_with_state(shard: int, row: StepRow, graph: Graph | None, fan_outs: Mapping[int, FanOut | StepRow]) -> Step:
    """Return a step with its state, changes and interrupt payload."""
    step = history_step(shard, row, graph, fan_outs)
    step.state_json = row.state.encode()
    step.changes_json = row.changes.encode()
    if row.interrupt_payload is not None:
        step.interrupt_json = row.interrupt_payload.encode()
    return step


def summary_of(shard: int, row: SummaryRow) -> FlowSummary:
    """Return a flow as `list` shows it."""
    return FlowSummary(
        flow_key=f"{shard}-{row.flow_id}-{row.token}",
        thread_key=f"{shard}-{row.thread_id}-{row.thread_token}",
        workflow=row.workflow,
        status=row.status,
        created_at=row.shown_created_at,
        updated_at=row.updated_at,
        priority=row.priority,
        fairness_key=row.fairness_key,
        started_at=row.started_at,
        task=row.task,
        due_at=row.due_at,
        error=ErrorInfo.from_stored(row.error) if row.compensating is None else None,
        cancel_reason=row.cancel_reason if row.compensating is None else None,
        compensating=row.compensating is not None,
        tags=read_tags(row.tags),
    )


def nested_history(
    shard: int, flow_id: int, *, flows: Sequence[FlowRow], steps: Sequence[StepRow], graphs: Mapping[int, Graph]
) -> list[Step]:
    """Return the steps of a flow; a step that called a subgraph has its name and its history (O7).

    `graphs`: of the flows, by their ids.
    """
    children = {flow.surgraph_step_id: flow for flow in flows if flow.surgraph_step_id is not None}
    by_flow: dict[int, list[Step]] = {}
    by_id = {row.step_id: row for row in steps}
    for row in steps:
        step = history_step(shard, row, graphs.get(row.flow_id), by_id)
        by_flow.setdefault(row.flow_id, []).append(step)
        child = children.get(row.step_id)
        if child is not None:
            step.subgraph, step.sub_workflow, step.sub_flow_key = True, child.workflow, flow_key(shard, child)
            # A list of its own for each flow, filled as its steps come: however deep, nothing is walked into (P4).
            step.sub_history = by_flow.setdefault(child.flow_id, [])
    return by_flow.get(flow_id, [])


def final_state_of(graph: Graph, steps: list[StepRow], limits: Limits = UNLIMITED) -> bytes:
    """Return the final state of a flow that ends early (X9), as JSON text.

    Inside a fan-out it is the input that the fan-in would have received, else the input of the steps without a successor.
    """
    steps = [one for one in steps if one.compensates is None]
    if not steps:
        return b"{}"
    open_spawns = [
        one for one in steps if one.cohort_size is not None and one.arrivals < one.cohort_size and not one.spawn_id
    ]
    if open_spawns:
        return fan_in.final_state(graph, *cohort_in(steps, open_spawns[-1]), limits)
    held = state_refs.RefSource((row.step_id, row.state, row.changes) for row in steps)
    last = steps[-1]
    return encode_state(merge(held.resolve(last.state, last.borrowed), decode_state(last.changes)))


def cohort_in(
    steps: Sequence[StepRow], spawn: StepRow, limits: Limits = UNLIMITED
) -> tuple[fan_in.Spawn, list[fan_in.Member]]:
    """Return the cohort of a spawn step among the steps of its flow; without changes if they are more than may be merged."""
    held = state_refs.RefSource((row.step_id, row.state, row.changes) for row in steps)
    rows = [row for row in steps if row.spawn_id == spawn.step_id]
    bulky = sum(len(row.changes) for row in rows) > limits.max_fan_out_bytes
    members = [
        fan_in.Member(
            step_id=row.step_id,
            node=row.node,
            ordinal=row.ordinal,
            depth=row.depth,
            completed=row.status is Status.COMPLETED,
            arrived=bool(row.arrived),
            changes=None if bulky else row.changes,
            resume_at=0,
        )
        for row in rows
    ]
    spawned = fan_in.Spawn(
        step_id=spawn.step_id,
        spawn_id=spawn.spawn_id,
        ordinal=spawn.ordinal,
        depth=spawn.depth,
        node=spawn.node,
        state=held.resolve(spawn.state, spawn.borrowed),
        changes=spawn.changes,
    )
    return spawned, members
