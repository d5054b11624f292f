"""Cohorts in the settle transaction: arrivals are counted, fan-ins resolved (F2, F4, X8)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.rules import fan_in, state_refs
from dwarf_nats.rules.decide import Deciding, fail_or_handle
from dwarf_nats.rules.settlement import BornStep, EndedFlow, FlowEnd, Settlement, SettleResult
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, NewIds, NewStep, StepRef, eager_step
from dwarf_nats.store.commands import PROBLEMS, Cascade, Command, InsertSteps, Query, QueryMany, StepInsert
from dwarf_nats.store.dialect import LIVE
from dwarf_nats.store.lent import HELD
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.limits import Limits
from dwarf_nats.workflow.state import encode_state
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.state import State


ARRIVE = """
update dwarf_steps set arrivals = arrivals + $2, failures = failures + $3, cohort_error = coalesce(cohort_error, $4)
where step_id = $1
returning step_id, arrivals, failures, cohort_size, cohort_error, spawn_id, ordinal, depth, node, state, changes,
  borrowed
"""
# `spawn_id <> 0` says nothing new, but lets a plan made without the value use the partial index. The sizes are looked at before
# the changes are read: a cohort that does not fit into memory must not take its replica along, and then the next one.
SIZES = """
select spawn_id, sum({size:changes}) from dwarf_steps where spawn_id {in:$1} and spawn_id <> 0 group by spawn_id
"""
MEMBERS = """
select step_id, node, ordinal, depth, status, arrived, case when not (spawn_id {in:$2}) then changes end, not_before, spawn_id
from dwarf_steps where spawn_id {in:$1} and spawn_id <> 0
"""
CONVERGE = """
update dwarf_steps set successor_id = $2
where spawn_id = $1 and spawn_id <> 0 and arrived = 1 and status = 'completed'
"""

_SPAWN = """
select step_id, spawn_id, ordinal, depth, node, state, changes, borrowed from dwarf_steps where step_id = $1
"""


def read(spawn_id: int, limits: Limits) -> Generator[Query, list[Row], tuple[fan_in.Spawn, list[fan_in.Member]]]:
    """A cohort as it stands: the step that fanned out, and the steps of its branches."""
    ((number, outer, ordinal, depth, node, state, changes, borrowed),) = yield Query(_SPAWN, (spawn_id,))
    refs = sorted(set(state_refs.read(borrowed).values()))
    held = state_refs.RefSource((yield Query(HELD, (refs,))) if refs else ())
    members = yield from _members([spawn_id], limits)
    spawn = fan_in.Spawn(number, outer, ordinal, depth, node, held.resolve(state, borrowed), changes)
    return spawn, members[spawn_id]


def no_ids() -> StepRef:
    """For groups that need none."""
    raise RuntimeError("a group with fan-ins needs ids for their steps")


@dataclass(slots=True)
class _Arrivals:
    """What one round adds to one cohort."""

    flow: FlowContext
    last: ClaimedStep
    count: int = 0
    failures: int = 0
    error: str | None = None


@dataclass(slots=True)
class _Rounds:
    cohorts: dict[int, _Arrivals] = field(default_factory=dict)

    def add(self, flow: FlowContext, step: ClaimedStep, spawn_id: int, error: str | None) -> None:
        arrivals = self.cohorts.setdefault(spawn_id, _Arrivals(flow, step))
        arrivals.last = step
        arrivals.count += 1
        if error is not None:
            arrivals.failures += 1
            arrivals.error = arrivals.error or error


def arrive(group: Sequence[Settlement], settled: SettleResult, new_step: NewIds, limits: Limits) -> Cascade:
    """Count the arrivals of the group; the last of a cohort bears its fan-in, or passes its failure outward.

    All cohorts of a round are looked after together, however many: a statement for each kind of thing, not for each cohort.
    """
    rounds = _Rounds()
    for one in group:
        rounds.add(one.step.flow, one.step, one.step.spawn_id, _failure(one))
    while rounds.cohorts:
        outward = _Rounds()
        yield from _round(rounds.cohorts, outward, settled, new_step, limits)
        rounds = outward


def _round(
    cohorts: dict[int, _Arrivals], outward: _Rounds, settled: SettleResult, new_step: NewIds, limits: Limits
) -> Cascade:
    counts = [(one, cohorts[one].count, cohorts[one].failures, cohorts[one].error) for one in sorted(cohorts)]  # X10
    rows = yield QueryMany(ARRIVE, counts)
    resolved = []
    for row in rows:
        complete, failed, outer_id = row[1] >= row[3], row[2] > 0, row[5]
        if complete and failed and outer_id:
            arrivals = cohorts[row[0]]
            outward.add(arrivals.flow, arrivals.last, outer_id, row[4])
        elif complete:
            resolved.append(row)
    if not resolved:
        return
    held = yield from _held(resolved)
    members = yield from _members([row[0] for row in resolved], limits)
    converging = []
    for spawn_id, _, failures, _, error, outer_id, ordinal, depth, node, state, changes, borrowed in resolved:
        spawn = fan_in.Spawn(spawn_id, outer_id, ordinal, depth, node, held.resolve(state, borrowed), changes)
        flow, graph = cohorts[spawn_id].flow, cohorts[spawn_id].flow.graph
        assert graph is not None
        if failures:
            final = fan_in.final_state(graph, spawn, members[spawn_id], limits)
            yield from _end(flow, FlowEnd(Status.FAILED, final, ErrorInfo.from_stored(error)), error, settled)
        else:
            converging.append((spawn, members[spawn_id], cohorts[spawn_id], new_step()))
    yield from _converge(converging, outward, settled, new_step, limits)


def _held(resolved: Sequence[Row]) -> Generator[Command, list[Row], state_refs.RefSource]:
    """What the steps hold from which the spawn steps borrow."""
    refs = {one for row in resolved for one in state_refs.read(row[11]).values()}
    return state_refs.RefSource((yield Query(HELD, (sorted(refs),))) if refs else ())


def _members(spawn_ids: list[int], limits: Limits) -> Generator[Query, list[Row], dict[int, list[fan_in.Member]]]:
    """The steps of each cohort; without their changes where these are more than may be merged."""
    sizes = yield Query(SIZES, (spawn_ids,))
    bulky = [int(row[0]) for row in sizes if row[1] > limits.max_fan_out_bytes]
    rows = yield Query(MEMBERS, (spawn_ids, bulky))
    members: dict[int, list[fan_in.Member]] = {spawn_id: [] for spawn_id in spawn_ids}
    for r in rows:
        members[r[8]].append(fan_in.Member(r[0], r[1], r[2], r[3], r[4] == Status.COMPLETED, bool(r[5]), r[6], r[7]))
    return members


def _converge(
    cohorts: Sequence[tuple[fan_in.Spawn, list[fan_in.Member], _Arrivals, StepRef]],
    outward: _Rounds,
    settled: SettleResult,
    new_step: NewIds,
    limits: Limits,
) -> Cascade:
    """All have arrived: the fan-in steps are born, or fail at once because a value cannot be merged (F3)."""
    if not cohorts:
        return
    yield QueryMany(CONVERGE, [(spawn.step_id, step_id) for spawn, _, _, (step_id, _) in cohorts])
    inserts = []
    failures = []
    for spawn, members, arrivals, ids in cohorts:
        graph = arrivals.flow.graph
        assert graph is not None
        node = graph.nodes[graph.fan_ins[spawn.node]]
        depth = max(one.depth for one in members if one.arrived) + 1
        state, text, problem = _merged(graph, spawn, members, limits)
        born = NewStep(
            step_id=ids.step_id,
            token=ids.token,
            node=node.name,
            url=node.url,
            depth=depth,
            state=state,
            state_json=text,
            spawn_id=spawn.spawn_id,
            ordinal=spawn.ordinal,
        )
        if problem is None:
            due = max(one.resume_at for one in members if one.arrived)
            inserts.append(StepInsert(arrivals.flow, born, arrivals.last.step_id, not_before=due))
            settled.born.append(BornStep(arrivals.flow, born))
        else:
            failures.append((arrivals, born, problem))
    if inserts:
        yield InsertSteps(inserts)
    for arrivals, born, problem in failures:
        step = eager_step(arrivals.flow, born)
        graph = arrivals.flow.graph
        assert graph is not None
        outcome = fail_or_handle(Deciding(step, graph, new_step, limits), problem)
        yield from _failed_fan_in(step, born, arrivals.last.step_id, outcome, outward, settled)


def _merged(
    graph: Graph, spawn: fan_in.Spawn, members: list[fan_in.Member], limits: Limits
) -> tuple[State, bytes, ErrorInfo | None]:
    """The fan-in's input and its text; with a problem, the spawn step's own."""
    try:
        return *fan_in.merged_text(graph, spawn, members, limits), None
    except (BadRequest, TooLarge) as error:
        state = spawn.merged()
        return state, encode_state(state), fan_in.problem_of(error)


def _failed_fan_in(
    step: ClaimedStep, born: NewStep, predecessor: int, outcome: Settlement, outward: _Rounds, settled: SettleResult
) -> Cascade:
    successor = outcome.successor
    row = StepInsert(
        step.flow, born, predecessor, outcome.status, changes=outcome.changes_json().decode(),
        error=None if outcome.error is None else outcome.error.stored(), successor_id=successor.step_id if successor else None,
    )  # fmt: skip
    yield InsertSteps([row])
    if outcome.problems:
        yield QueryMany(PROBLEMS, [(outcome.problems_json(), step.step_id)])
    if outcome.branches:
        yield InsertSteps([StepInsert(step.flow, branch, step.step_id) for branch in outcome.branches])
        settled.born += [BornStep(step.flow, branch) for branch in outcome.branches]
    if successor is not None:
        yield InsertSteps([StepInsert(step.flow, successor, step.step_id)])
        settled.born.append(BornStep(step.flow, successor))
    if outcome.arrives:
        yield Query("update dwarf_steps set arrived = 1 where step_id = $1", (step.step_id,))
        outward.add(step.flow, step, step.spawn_id, row.error)
    if outcome.end is not None:
        yield from _end(step.flow, outcome.end, row.error, settled)


def _end(flow: FlowContext, end: FlowEnd, error: str | None, settled: SettleResult) -> Cascade:
    rows = yield Query(
        "update dwarf_flows set status = $2, final_state = $3, final_borrowed = $4, error = $5, updated_at = {now}"
        f" where flow_id = $1 and status in {LIVE} returning updated_at",
        (flow.flow_id, end.status.value, end.stored_json.decode(), state_refs.stored(end.refs), error),
    )
    if rows:
        settled.ended.append(EndedFlow(flow, end, int(rows[0][0])))


def _failure(one: Settlement) -> str | None:
    if one.status is not Status.FAILED:
        return None
    return (one.error or ErrorInfo("")).stored()
