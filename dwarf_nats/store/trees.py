"""Flows that call flows, and pauses that reach up to the root: the part of a settlement that touches other flows (P1-P3)."""

from __future__ import annotations

from collections.abc import Sequence

from dwarf_nats.rules import breakpoints
from dwarf_nats.rules.settlement import EndedFlow, FlowEnd, Settlement, SettleResult, WokenStep
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, FlowRef
from dwarf_nats.store import graphs
from dwarf_nats.store.commands import Cascade, InsertFlows, Query
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.status import Parked, Status

# The generation moves on, so that the same settlement written twice does not start a second child (X1).
PARK = f"""
update dwarf_steps set parked = {Parked.CHILD:d}, lease_seq = lease_seq + 1, parked_changes = changes where step_id {{in:$1}}
"""
WAKE = f"""
update dwarf_steps set status = 'pending', parked = {PARKED}, subgraph_result = $2, subgraph_error = $3,
  not_before = {{now}}, updated_at = {{now}}
where step_id = $1 and status = 'running' and parked = {Parked.CHILD:d}
returning step_id, priority
"""
FORGET = """
update dwarf_steps set resumed = null, subgraph_result = null, subgraph_error = null, parked_changes = null
where step_id {in:$1}
"""
# `surgraph_flow_id is not null` says nothing new, but lets a plan made without the values use the partial index.
CHILDREN = """
with recursive below(flow_id) as (
  select flow_id from dwarf_flows
  where root_id = $1 and surgraph_step_id = $2 and surgraph_flow_id is not null
  union all
  select f.flow_id from below b join dwarf_flows f
  on f.root_id = $1 and f.surgraph_flow_id = b.flow_id and f.surgraph_flow_id is not null)
select flow_id from below
"""
LOCK_FLOW = """
select flow_id, token, workflow, status, thread_id,
  notify, surgraph_flow_id
from dwarf_flows where flow_id = $1 {for_update}
"""
# A transaction may have begun before one that has already committed a pause: asked while the root is locked, so that a pause
# somebody has seen stays the oldest.
STAND_LAST = """
update dwarf_steps set updated_at = {greatest}(updated_at, 1 + coalesce((
  select max(s.updated_at) from dwarf_steps s
  where s.status = 'interrupted' and s.step_id <> $1 and s.flow_id in (
    select flow_id from dwarf_flows
    where flow_id = $2 or (root_id = $2 and surgraph_flow_id is not null))), 0))
where step_id = $1
"""
INTERRUPT = """
update dwarf_flows set status = 'interrupted', updated_at = {greatest}({now}, updated_at + 1) where flow_id = $1
returning updated_at
"""


def forget(steps: Sequence[ClaimedStep]) -> Cascade:
    """What the steps were resumed with is forgotten, and the children they had are removed (X5)."""
    if not steps:
        return
    yield Query(FORGET, ([step.step_id for step in steps],))
    for step in steps:
        rows = yield Query(CHILDREN, (step.flow.root_id, step.step_id))
        if rows:
            gone = [int(row[0]) for row in rows]
            yield Query("delete from dwarf_steps where flow_id {in:$1}", (gone,))
            yield Query("delete from dwarf_flows where flow_id {in:$1}", (gone,))


def start_children(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """The steps are parked and their children born, at once (P1)."""
    if not group:
        return
    yield Query(PARK, ([one.step.step_id for one in group],))
    flows = []
    for one in group:
        assert one.child is not None
        if one.step.step_id in settled.with_breakpoints:
            rows = yield Query("select breakpoints from dwarf_flows where flow_id = $1", (one.step.flow.flow_id,))
            one.child.flow.breakpoints = breakpoints.read(rows[0][0])
        flows.append(one.child)
    for digest, graph in sorted({flow.flow.digest: flow.flow.graph for flow in flows}.items()):
        # The graph was saved before this was decided, which may be long ago if the database was away.
        if not (yield Query(graphs.LEFT, (digest,))) and graph is not None:
            yield Query(graphs.SAVE, (digest, graph.to_json().decode()))
    yield InsertFlows(flows)


def pause(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """The flows of paused steps, and every flow that waits for them, are interrupted; the first pause wins (P2)."""
    for one in sorted(group, key=lambda one: (one.step.flow.root_id, one.step.step_id)):
        assert one.pause is not None
        payload = one.pause.payload
        if payload is None:
            yield Query("update dwarf_steps set breakpoint_hit = 1 where step_id = $1", (one.step.step_id,))
        else:
            text = bytes(payload).decode()
            yield Query("update dwarf_steps set interrupt_payload = $2 where step_id = $1", (one.step.step_id, text))
        end = FlowEnd(Status.INTERRUPTED, one.pause.state_json, None, payload)
        flow_id: int | None = one.step.flow.flow_id
        first = True
        while flow_id is not None:
            rows = yield Query(LOCK_FLOW, (flow_id,))
            number, token, workflow, status, thread_id, notify, above = rows[0]
            first = first and status == Status.RUNNING
            if first:
                changed = yield Query(INTERRUPT, (flow_id,))
                name = FlowRef(f"{one.step.flow.shard}-{number}-{token}", flow_id, workflow, thread_id, notify)
                settled.ended.append(EndedFlow(name, end, int(changed[0][0])))
            flow_id = above
        yield Query(STAND_LAST, (one.step.step_id, one.step.flow.root_id))


def wake_parents(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """Steps whose child has ended run again, with its final state or its error (P1, X8)."""
    ended: list[tuple[FlowContext | FlowRef, FlowEnd]] = [
        (one.step.flow, one.end) for one in group if one.end is not None
    ]
    ended += [(flow, end) for flow, end, _ in settled.ended if end.status.terminal]
    for flow, end in ended:
        parent = flow.surgraph_step_id if isinstance(flow, FlowContext) else None
        if parent is not None:
            result, error = end_of_child(end.status, end.state_json.decode(), end.error)
            rows = yield Query(WAKE, (parent, result, error))
            settled.woken += [WokenStep(int(row[0]), int(row[1])) for row in rows]


def end_of_child(status: Status, state: str, error: ErrorInfo | None) -> tuple[str | None, str | None]:
    """Result and error text of a child for the step that waits for it."""
    if status is Status.COMPLETED:
        return state, None
    return None, error.message if error is not None else f"the sub-workflow was {status}"
