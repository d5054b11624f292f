"""Flows that call flows: the children of settled steps are started and removed, the parents of ended flows woken (P1-P3)."""

from __future__ import annotations

from collections.abc import Sequence

from dwarf_nats.rules import breakpoints
from dwarf_nats.rules.settlement import FlowEnd, Settlement, SettleResult, WokenStep
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, FlowRef
from dwarf_nats.store.commands import Cascade, InsertFlows, Query
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.store.statements import graphs
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
update dwarf_steps set resumed = null, subgraph_result = null, subgraph_error = null, parked_changes = null,
  wait_event = null, wait_key = null, wait_until = null, event = null, interrupt_timed_out = 0
where step_id {in:$1}
"""
# `surgraph_flow_id is not null` is implied, but lets a plan that was made without the values use the partial index.
CHILDREN = """
with recursive below(flow_id) as (
  select flow_id from dwarf_flows
  where root_id = $1 and surgraph_step_id = $2 and surgraph_flow_id is not null
  union all
  select f.flow_id from below b join dwarf_flows f
  on f.root_id = $1 and f.surgraph_flow_id = b.flow_id and f.surgraph_flow_id is not null)
select flow_id from below
"""
# Flows that called others, however deep, once one of these has completed: whoever claims their steps from now on knows.
MARK_COMPENSABLE = """
with recursive above(flow_id) as (
  select cast($1 as bigint)
  union all
  select f.surgraph_flow_id from above a join dwarf_flows f on f.flow_id = a.flow_id where f.surgraph_flow_id is not null)
update dwarf_flows set compensable = 1 where flow_id in (select flow_id from above) and compensable = 0
"""
BREAKPOINTS = "select breakpoints from dwarf_flows where flow_id = $1"


def forget(steps: Sequence[ClaimedStep]) -> Cascade:
    """Clear what the steps were resumed with, and remove the children they had (X5)."""
    if not steps:
        return
    yield Query(FORGET, ([step.step_id for step in steps],))
    for step in steps:
        rows = yield Query(CHILDREN, (step.flow.root_id, step.step_id))
        if rows:
            gone = [flow_id for (flow_id,) in rows]
            yield Query("delete from dwarf_steps where flow_id {in:$1}", (gone,))
            yield Query("delete from dwarf_flows where flow_id {in:$1}", (gone,))


def start(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """Park steps and insert the children they wait for, at once (P1)."""
    if not group:
        return
    yield Query(PARK, ([one.step.step_id for one in group],))
    flows = []
    for one in group:
        assert one.child is not None
        if one.step.step_id in settled.with_breakpoints:
            ((stored,),) = yield Query(BREAKPOINTS, (one.step.flow.flow_id,))
            one.child.flow.breakpoints = breakpoints.read(stored)
        flows.append(one.child)
    for digest, graph in sorted({flow.flow.digest: flow.flow.graph for flow in flows}.items()):
        # The graph was saved before this was decided, which may be long ago if the database was away.
        if not (yield Query(graphs.IS_KEPT, (digest,))) and graph is not None:
            yield Query(graphs.SAVE, (digest, graph.to_json().decode()))
    yield InsertFlows(flows)


def wake_parents(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """Make steps pending whose child has ended, with its final state or its error (P1, X8)."""
    ended: list[tuple[FlowContext | FlowRef, FlowEnd]] = [
        (one.step.flow, one.end) for one in group if one.end is not None
    ]
    ended += [(flow, end) for flow, end, *_ in settled.ended if end.status.terminal]
    for flow, end in ended:
        if isinstance(flow, FlowContext) and flow.surgraph_step_id is not None:
            result, error = end_of_child(end.status, end.state_json.decode(), end.error)
            rows = yield Query(WAKE, (flow.surgraph_step_id, result, error))
            settled.woken += [WokenStep(*row) for row in rows]
            if end.status is Status.COMPLETED and flow.graph is not None and flow.graph.compensates:
                yield Query(MARK_COMPENSABLE, (flow.surgraph_flow_id,))


def end_of_child(status: Status, state: str, error: ErrorInfo | None) -> tuple[str | None, str | None]:
    """Return result and stored error of a child for the step that waits for it; one of them is `None`."""
    if status is Status.COMPLETED:
        return state, None
    return None, (error if error is not None else ErrorInfo(f"the sub-workflow was {status}")).stored()
