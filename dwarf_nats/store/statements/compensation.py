"""Compensation in transactions: it begins instead of an end, goes on step by step, and ends with that end (N9).

One text for both databases, and for settlements as well as for operations. All transactions that begin, advance or end
compensations of a tree lock its flows from the leaf to the root first (X10), so they come one after the
other. Design note 0032.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dwarf_nats.rules import compensation, state_refs
from dwarf_nats.rules.compensation import DoneStep, EndingFlow, Planned
from dwarf_nats.rules.lifecycle import FLOW_LIVE
from dwarf_nats.rules.rows import FlowRow, flow_row
from dwarf_nats.rules.settlement import EndedFlow, FlowEnd, Settlement, SettleResult, WokenStep
from dwarf_nats.rules.steps import FlowRef, ReadyStep
from dwarf_nats.store.commands import Cascade, Command, Query, QueryMany
from dwarf_nats.store.dialect import LIVE, PARKED, UNDER_WAY
from dwarf_nats.store.statements.children import WAKE, end_of_child
from dwarf_nats.store.statements.ids import BLOCK_IDS, NEXT_IDS
from dwarf_nats.store.statements.state_refs import HELD
from dwarf_nats.store.statements.trees import CHANGED_AT, descendants
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.keys import Tokens
from dwarf_nats.workflow.limits import ELSEWHERE, Limits, over
from dwarf_nats.workflow.state import encode_state
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import FlowContext
    from dwarf_nats.store.database import Row

T = TypeVar("T")
Steps = Generator[Command, "list[Row]", T]


class _Locked(NamedTuple):
    """A locked flow, in the order of `LOCK_FLOW`."""

    flow_id: int
    status: str
    compensating: str | None
    compensable: int
    graph_digest: str
    surgraph_step_id: int | None
    surgraph_flow_id: int | None


class _Called(NamedTuple):
    """A flow that was called, in the order of `ENDING`. `counts`: its steps may have to be compensated."""

    flow_id: int
    surgraph_flow_id: int | None
    surgraph_step_id: int
    graph_digest: str
    counts: bool


LOCK_FLOW = f"select {', '.join(_Locked._fields)} from dwarf_flows where flow_id = $1 {{for_update}}"
ENDING = """
select flow_id, surgraph_flow_id, surgraph_step_id, graph_digest,
  status = 'completed' or compensating is not null or flow_id {in:$2}
from dwarf_flows where root_id = $1 and surgraph_flow_id is not null
"""
# From those of the tree that are being compensated upwards: there are few, and the tree may be large.
COMPENSATING = """
with recursive above(flow_id, place) as (
  select flow_id, flow_id from dwarf_flows where root_id = $2 and compensating is not null
  union all
  select a.flow_id, f.surgraph_flow_id from above a join dwarf_flows f on f.flow_id = a.place
  where a.place <> $1 and f.surgraph_flow_id is not null)
select flow_id from above where place = $1 order by flow_id
"""
GRAPHS = "select digest, body from dwarf_graphs where digest {in_text:$1}"
DONE_STEPS = """
select step_id, flow_id, node, depth, updated_at, predecessor_id,
  status = 'completed' and error is null and compensates is null and copied_from is null, compensates
from dwarf_steps where flow_id {in:$1}
"""
BEGIN_FAILED = (
    "update dwarf_flows set status = 'running', compensating = 'failed', final_state = $2, final_borrowed = $3, error = $4"
    " where flow_id = $1"
)
BEGIN_CANCELLED = (
    "update dwarf_flows set status = 'running', compensating = 'cancelled'"
    f" where flow_id {{in:$1}} and status = 'cancelled' returning {FlowRow.columns()}"
)
BEGIN_COMPLETED = (
    "update dwarf_flows set status = 'running', compensating = 'completed'"
    " where flow_id {in:$1} and status = 'completed'"
)
# The state is that of the compensated step, its references with it; a breakpoint does not stop a compensation.
INSERT = """
insert into dwarf_steps (step_id, token, node, url, depth, flow_id, state, borrowed, status, not_before, predecessor_id,
  compensates, breakpoint_hit, priority, fairness_key, fairness_weight, created_at, updated_at)
select cast($1 as bigint), cast($2 as text), cast($3 as text), cast($4 as text), cast($5 as int), flow_id, state, borrowed,
  'created', {now}, step_id, step_id, 1, priority, fairness_key, fairness_weight, {now}, {now}
from dwarf_steps where step_id = $6 returning step_id
"""
ANY_UNDER_WAY = (
    "select step_id from dwarf_steps where flow_id {in:$1} and compensates is not null"
    f" and status in {UNDER_WAY} limit 1"
)
# One entry of the index for each flow, however many are left.
NEXT = """
select min((select s.step_id from dwarf_steps s where s.flow_id = f.flow_id and s.compensates is not null
  and s.status = 'created' order by s.step_id limit 1))
from dwarf_flows f where f.flow_id {in:$1}
"""
START = (
    f"update dwarf_steps set status = 'pending', parked = {PARKED}, not_before = {{now}}, updated_at = {{now}}"
    " where step_id = $1 and status = 'created' returning step_id, priority, not_before"
)
FINAL_STATE = "select final_state, final_borrowed from dwarf_flows where flow_id = $1"
SET_FINAL_STATE = "update dwarf_flows set final_state = $2, final_borrowed = $3 where flow_id = $1"
FAIL_STEP = "update dwarf_steps set status = 'failed', error = $2 where step_id = $1"
END = (
    f"update dwarf_flows set status = compensating, compensating = null, updated_at = {CHANGED_AT}"
    f" where flow_id {{in:$1}} and compensating is not null returning {FlowRow.columns()}"
)
FAIL_FLOW = (
    "update dwarf_flows set status = $2, final_state = $3, final_borrowed = $4, error = $5, updated_at = {now}"
    f" where flow_id = $1 and status in {LIVE} returning updated_at, tags"
)
END_FLOW = FAIL_FLOW.replace(" returning", " and ($2 <> 'failed' or compensable = 0) returning")
COMPENSATED = (
    "select s.step_id, s.token, s.changes from dwarf_steps c join dwarf_steps s on s.step_id = c.compensates"
    " where c.step_id = $1"
)
# The flow itself, or the nearest of those that called it, which fails or is cancelled.
REASON = """
with recursive above(caller, place, compensating, error, cancel_reason) as (
  select surgraph_flow_id, 0, compensating, error, cancel_reason from dwarf_flows where flow_id = $1
  union all
  select f.surgraph_flow_id, a.place + 1, f.compensating, f.error, f.cancel_reason
  from above a join dwarf_flows f on f.flow_id = a.caller)
select compensating, error, cancel_reason from above where compensating <> 'completed' order by place limit 1
"""


# -- in a settlement


def settle(group: Sequence[Settlement], settled: SettleResult, limits: Limits) -> Cascade:
    """End the flows of failed steps, after what has to be compensated; go on after a compensation that is over."""
    for one in sorted(group, key=lambda one: (one.step.flow.root_id, one.step.step_id)):
        if one.pending_end is not None:
            yield from end(one.step.flow, one.pending_end, one.error_json, settled)
        else:
            yield from _advance(one, settled, limits)


def end(flow: FlowContext, flow_end: FlowEnd, error: str | None, settled: SettleResult) -> Cascade:
    """End a flow that is live. If it fails and something has to be compensated, that begins instead."""
    state, refs = flow_end.stored_json.decode(), state_refs.stored(flow_end.refs)
    args = (flow.flow_id, flow_end.status.value, state, refs, error)
    if flow_end.status is not Status.FAILED or not flow.may_compensate:
        rows = yield Query(END_FLOW, args)
        settled.ended += [EndedFlow(flow, flow_end, at, tags) for at, tags in rows]
        if rows or flow_end.status is not Status.FAILED:
            return
    (mine, *_) = yield from _lock(flow.flow_id)
    if mine.status not in FLOW_LIVE or mine.compensating is not None:
        return
    flows = [EndingFlow(flow.flow_id, None, flow.digest)]
    if mine.compensable:
        flows = yield from _ending(mine, flow.root_id, [])
    planned = yield from _plan(flow.flow_id, flows, {} if flow.graph is None else {flow.digest: flow.graph})
    if planned:
        yield Query(BEGIN_FAILED, (flow.flow_id, state, refs, error))
        yield from _insert(planned)
        ready = yield from _start_next(sorted({one.flow_id for one in planned}))
        settled.woken += [WokenStep(step.step_id, step.priority) for step in ready]
    else:
        rows = yield Query(FAIL_FLOW, args)
        settled.ended += [EndedFlow(flow, flow_end, at, tags) for at, tags in rows]


def _advance(one: Settlement, settled: SettleResult, limits: Limits) -> Cascade:
    """Take over the changes of a compensation that is over, and start the next one; after the last, end the flows."""
    flow = one.step.flow
    path = yield from _lock(flow.flow_id)
    if one.status is Status.COMPLETED and one.changes:
        yield from _change_final_state(one, limits)
    ending = [locked for locked in path if locked.compensating is not None]
    if not ending:
        return
    top = ending[-1]
    ids = [flow_id for (flow_id,) in (yield Query(COMPENSATING, (top.flow_id, flow.root_id)))]
    if (yield Query(ANY_UNDER_WAY, (ids,))):
        return
    ready = yield from _start_next(ids)
    settled.woken += [WokenStep(step.step_id, step.priority) for step in ready]
    if not ready:
        yield from _end_all(ids, top, flow.shard, settled)


def _change_final_state(one: Settlement, limits: Limits) -> Cascade:
    flow_id = one.step.flow.flow_id
    ((state, refs),) = yield Query(FINAL_STATE, (flow_id,))
    text, refs = state_refs.override(state or "{}", refs, one.changes)
    if len(text) > limits.max_state_bytes:
        what = f"the final state with what the compensation {one.step.node!r} changed is {len(text)} bytes"
        error = ErrorInfo(over(what, "max_state_bytes", limits.max_state_bytes, ELSEWHERE), 413)
        yield Query(FAIL_STEP, (one.step.step_id, error.stored()))
    else:
        yield Query(SET_FINAL_STATE, (flow_id, text, refs))


def _end_all(ids: Sequence[int], top: _Locked, shard: int, settled: SettleResult) -> Cascade:
    """Give the flows the status they were about to take; wake the step that waits for the one on top."""
    flows = [flow_row(row) for row in (yield Query(END, (ids,)))]
    for flow in sorted(flows, key=lambda flow: flow.flow_id):
        if flow.status is Status.COMPLETED:  # its end was announced when it completed
            continue
        refs = state_refs.read(flow.final_borrowed)
        held = state_refs.RefSource((yield Query(HELD, (sorted(set(refs.values())),))) if refs else ())
        state = encode_state(held.resolve(flow.final_state or "{}", flow.final_borrowed))
        error = ErrorInfo.from_stored(flow.error)
        flow_end = FlowEnd(flow.status, state, error, cancel_reason=flow.cancel_reason)
        ref = FlowRef(
            key=f"{shard}-{flow.flow_id}-{flow.token}",
            flow_id=flow.flow_id,
            workflow=flow.workflow,
            thread_id=flow.thread_id,
            notify=flow.notify,
            surgraph_flow_id=flow.surgraph_flow_id,
            created_at=flow.created_at,
        )
        settled.ended.append(EndedFlow(ref, flow_end, flow.updated_at, flow.tags))
        if flow.flow_id == top.flow_id and flow.surgraph_step_id is not None:
            result, reason = end_of_child(flow.status, state.decode(), error)
            rows = yield Query(WAKE, (flow.surgraph_step_id, result, reason))
            settled.woken += [WokenStep(*row) for row in rows]


# -- by an operation


def cancel(root_id: int, flow_ids: Sequence[int]) -> Steps[tuple[list[FlowRow], list[ReadyStep]]]:
    """Have what is to be compensated in a tree come before the end of flows that were just cancelled, the root among them.

    Return those flows as they are now, running, and the step that is due. Both are empty if there is nothing to compensate.
    """
    (root,) = yield from _lock(root_id)
    flows = yield from _ending(root, root_id, flow_ids)
    planned = yield from _plan(root_id, flows, {})
    compensating = [flow_id for (flow_id,) in (yield Query(COMPENSATING, (root_id, root_id)))]
    if not planned and not compensating:
        return [], []
    marked = [flow_row(row) for row in (yield Query(BEGIN_CANCELLED, (flow_ids,)))]
    if planned:
        yield from _insert(planned)
    if compensating and (yield Query(ANY_UNDER_WAY, (compensating,))):
        return marked, []
    ready = yield from _start_next(sorted({*compensating, *(one.flow_id for one in planned)}))
    return marked, ready


# -- what both share


def _lock(flow_id: int) -> Steps[list[_Locked]]:
    """Lock a flow and those that wait for it, up to the root (X10)."""
    path = []
    above: int | None = flow_id
    while above is not None:
        rows = yield Query(LOCK_FLOW, (above,))
        if not rows:
            break
        locked = _Locked(*rows[0])
        path.append(locked)
        above = locked.surgraph_flow_id
    return path


def _ending(top: _Locked, root_id: int, cancelled: Sequence[int]) -> Steps[list[EndingFlow]]:
    """Find the flows whose steps may have to be compensated: `top`, and those below it that are completed or `cancelled`."""
    called = {row.flow_id: row for row in (_Called(*row) for row in (yield Query(ENDING, (root_id, cancelled))))}
    below = [called[flow_id] for flow_id in descendants(called, top.flow_id) if flow_id != top.flow_id]
    return [
        EndingFlow(top.flow_id, None, top.graph_digest),
        *(EndingFlow(one.flow_id, one.surgraph_step_id, one.graph_digest) for one in below if one.counts),
    ]


def _plan(top: int, flows: Sequence[EndingFlow], known: Mapping[str, Graph]) -> Steps[list[Planned]]:
    """Find the steps to be compensated, in their order. `known`: graphs by their digests; the others are read."""
    graphs = dict(known)
    missing = sorted({flow.graph_digest for flow in flows} - graphs.keys())
    if missing:
        for digest, body in (yield Query(GRAPHS, (missing,))):
            graphs[digest] = _graph(body)
    if not any(graph.compensates for graph in graphs.values()):
        return []
    rows = yield Query(DONE_STEPS, (sorted({flow.flow_id for flow in flows}),))
    return compensation.plan(top, flows, [DoneStep(*row) for row in rows], graphs)


@functools.lru_cache(maxsize=128)
def _graph(body: str) -> Graph:
    return Graph.from_json(body)


def _insert(planned: Sequence[Planned]) -> Cascade:
    """Create the steps of the compensations, with ids in the order in which they run."""
    ids: list[int] = []
    while len(ids) < len(planned):
        ((first,),) = yield Query(NEXT_IDS["step"], ())
        ids += range(first, first + BLOCK_IDS["step"])
    tokens = Tokens()
    yield QueryMany(
        INSERT,
        [
            (step_id, tokens(), one.node.name, one.node.url, one.depth, one.step_id)
            for step_id, one in zip(ids, planned, strict=False)
        ],
    )
    yield Query(BEGIN_COMPLETED, (sorted({one.flow_id for one in planned}),))


def _start_next(flow_ids: Sequence[int]) -> Steps[list[ReadyStep]]:
    """Make the next compensation of these flows pending; nothing if there is none."""
    ((step_id,),) = yield Query(NEXT, (flow_ids,))
    if step_id is None:
        return []
    rows = yield Query(START, (step_id,))
    return [ReadyStep(*row) for row in rows]
