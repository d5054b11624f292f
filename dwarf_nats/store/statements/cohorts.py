"""Cohorts in a settle transaction: arrivals are counted, fan-ins resolved (F2, F4, X8)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.rules import fan_in, state_refs
from dwarf_nats.rules.decide import Deciding, fail_or_handle
from dwarf_nats.rules.settlement import CreatedStep, FlowEnd, Settlement, SettleResult
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, NewIds, NewStep, StepRef, eager_step
from dwarf_nats.store.commands import PROBLEMS, Cascade, InsertSteps, Query, QueryMany, StepInsert
from dwarf_nats.store.statements import compensation
from dwarf_nats.store.statements.state_refs import HELD
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.limits import Limits
from dwarf_nats.workflow.state import encode_state
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.state import State


class _Cohort(NamedTuple):
    """A step that fanned out, with what has arrived so far, in the order of `ARRIVE`."""

    step_id: int
    arrivals: int
    failures: int
    cohort_size: int
    cohort_error: str | None
    spawn_id: int
    ordinal: int
    depth: int
    node: str
    state: str
    changes: str
    borrowed: str | None

    def spawn(self, source: state_refs.RefSource) -> fan_in.Spawn:
        """Return the step with its state complete; `source` holds what it refers to."""
        return fan_in.Spawn(
            step_id=self.step_id,
            spawn_id=self.spawn_id,
            ordinal=self.ordinal,
            depth=self.depth,
            node=self.node,
            state=source.resolve(self.state, self.borrowed),
            changes=self.changes,
        )


ARRIVE = f"""
update dwarf_steps set arrivals = arrivals + $2, failures = failures + $3, cohort_error = coalesce(cohort_error, $4)
where step_id = $1
returning {", ".join(_Cohort._fields)}
"""
COHORT = f"select {', '.join(_Cohort._fields)} from dwarf_steps where step_id = $1"
# `spawn_id <> 0` is implied, but lets a plan that was made without the value use the partial index. The sizes are read before
# the changes: a cohort that does not fit into memory must not end its replica, and then the next one.
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
ARRIVED = "update dwarf_steps set arrived = 1 where step_id = $1"


def read(spawn_id: int, limits: Limits) -> Generator[Query, list[Row], tuple[fan_in.Spawn, list[fan_in.Member]]]:
    """Read a cohort as it stands: the step that fanned out, and the steps of its branches."""
    (row,) = yield Query(COHORT, (spawn_id,))
    cohort = _Cohort(*row)
    source = yield from _ref_source([cohort])
    members = yield from _members([spawn_id], limits)
    return cohort.spawn(source), members[spawn_id]


def no_ids() -> StepRef:
    """Stand in for the ids of groups that need none."""
    raise RuntimeError("a group with fan-ins needs ids for their steps")


@dataclass(slots=True)
class _Arrivals:
    """The arrivals of one round at one cohort. `last`: the step that arrived last; its id becomes the fan-in's predecessor."""

    flow: FlowContext
    last: ClaimedStep
    count: int = 0
    failures: int = 0
    error: str | None = None


@dataclass(slots=True)
class _Round:
    """Arrivals that are counted together, by the step that fanned out."""

    cohorts: dict[int, _Arrivals] = field(default_factory=dict)

    def add(self, flow: FlowContext, step: ClaimedStep, spawn_id: int, error: str | None) -> None:
        arrivals = self.cohorts.setdefault(spawn_id, _Arrivals(flow, step))
        arrivals.last = step
        arrivals.count += 1
        if error is not None:
            arrivals.failures += 1
            arrivals.error = arrivals.error or error


def arrive(group: Sequence[Settlement], settled: SettleResult, new_step: NewIds, limits: Limits) -> Cascade:
    """Count the arrivals of the group; the last of a cohort inserts its fan-in, or passes its failure outward.

    All cohorts of a round are handled together, however many: one statement for each kind of change, not for each cohort.
    """
    arrived = _Round()
    for one in group:
        arrived.add(one.step.flow, one.step, one.step.spawn_id, _failure(one))
    arriving = _Arriving(settled, new_step, limits)
    while arrived.cohorts:
        arriving.outward = _Round()
        yield from _count(arriving, arrived.cohorts)
        arrived = arriving.outward


@dataclass(slots=True)
class _Arriving:
    """The values that the rounds of one group share. `outward`: the arrivals of the next round, at enclosing cohorts."""

    settled: SettleResult
    new_step: NewIds
    limits: Limits
    outward: _Round = field(default_factory=_Round)


def _count(arriving: _Arriving, cohorts: dict[int, _Arrivals]) -> Cascade:
    counts = [(one, cohorts[one].count, cohorts[one].failures, cohorts[one].error) for one in sorted(cohorts)]  # X10
    resolved = []
    for row in (yield QueryMany(ARRIVE, counts)):
        cohort = _Cohort(*row)
        complete, failed = cohort.arrivals >= cohort.cohort_size, cohort.failures > 0
        if complete and failed and cohort.spawn_id:
            arrivals = cohorts[cohort.step_id]
            arriving.outward.add(arrivals.flow, arrivals.last, cohort.spawn_id, cohort.cohort_error)
        elif complete:
            resolved.append(cohort)
    if not resolved:
        return
    source = yield from _ref_source(resolved)
    members = yield from _members([cohort.step_id for cohort in resolved], arriving.limits)
    converging = []
    for cohort in resolved:
        spawn, arrivals = cohort.spawn(source), cohorts[cohort.step_id]
        flow, error = arrivals.flow, cohort.cohort_error
        assert flow.graph is not None
        if cohort.failures:
            final = fan_in.final_state(flow.graph, spawn, members[spawn.step_id], arriving.limits)
            end = FlowEnd(Status.FAILED, final, ErrorInfo.from_stored(error))
            yield from compensation.end(flow, end, error, arriving.settled)
        else:
            converging.append(_Converging(spawn, members[spawn.step_id], arrivals, arriving.new_step()))
    yield from _converge(arriving, converging)


def _ref_source(cohorts: Sequence[_Cohort]) -> Generator[Query, list[Row], state_refs.RefSource]:
    """Read what the steps that fanned out refer to."""
    refs = {one for cohort in cohorts for one in state_refs.read(cohort.borrowed).values()}
    return state_refs.RefSource((yield Query(HELD, (sorted(refs),))) if refs else ())


def _members(spawn_ids: list[int], limits: Limits) -> Generator[Query, list[Row], dict[int, list[fan_in.Member]]]:
    """Read the steps of each cohort; without their changes where these are more than may be merged."""
    sizes = yield Query(SIZES, (spawn_ids,))
    bulky = [spawn_id for spawn_id, size in sizes if size > limits.max_fan_out_bytes]
    rows = yield Query(MEMBERS, (spawn_ids, bulky))
    members: dict[int, list[fan_in.Member]] = {spawn_id: [] for spawn_id in spawn_ids}
    for step_id, node, ordinal, depth, status, arrived, changes, resume_at, spawn_id in rows:
        members[spawn_id].append(
            fan_in.Member(
                step_id=step_id,
                node=node,
                ordinal=ordinal,
                depth=depth,
                completed=status == Status.COMPLETED,
                arrived=bool(arrived),
                changes=changes,
                resume_at=resume_at,
            )
        )
    return members


@dataclass(slots=True)
class _Converging:
    """A cohort whose branches have all arrived. `fan_in`: id and token of the step that follows."""

    spawn: fan_in.Spawn
    members: list[fan_in.Member]
    arrivals: _Arrivals
    fan_in: StepRef

    @property
    def graph(self) -> Graph:
        graph = self.arrivals.flow.graph
        assert graph is not None
        return graph


def _converge(arriving: _Arriving, cohorts: Sequence[_Converging]) -> Cascade:
    """Insert the fan-in steps; one whose input cannot be merged fails at once (F3)."""
    if not cohorts:
        return
    yield QueryMany(CONVERGE, [(one.spawn.step_id, one.fan_in.step_id) for one in cohorts])
    inserts = []
    failures = []
    for one in cohorts:
        flow = one.arrivals.flow
        born, problem = _fan_in_step(one, arriving.limits)
        if problem is None:
            due = max(member.resume_at for member in one.members if member.arrived)
            inserts.append(StepInsert(flow, born, one.arrivals.last.step_id, not_before=due))
            arriving.settled.created.append(CreatedStep(flow, born))
        else:
            failures.append((one, born, problem))
    if inserts:
        yield InsertSteps(inserts)
    for one, born, problem in failures:
        step = eager_step(one.arrivals.flow, born)
        outcome = fail_or_handle(Deciding(step, one.graph, arriving.new_step, arriving.limits), problem)
        yield from _failed_fan_in(arriving, step, born, predecessor_id=one.arrivals.last.step_id, outcome=outcome)


def _fan_in_step(cohort: _Converging, limits: Limits) -> tuple[NewStep, ErrorInfo | None]:
    """Make the fan-in step; with a problem if its input cannot be merged."""
    spawn, graph = cohort.spawn, cohort.graph
    node = graph.nodes[graph.fan_ins[spawn.node]]
    state, text, problem = _merged(graph, spawn, cohort.members, limits)
    born = NewStep(
        step_id=cohort.fan_in.step_id,
        token=cohort.fan_in.token,
        node=node.name,
        url=node.url,
        depth=max(member.depth for member in cohort.members if member.arrived) + 1,
        state=state,
        state_json=text,
        spawn_id=spawn.spawn_id,
        ordinal=spawn.ordinal,
    )
    return born, problem


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
    arriving: _Arriving, step: ClaimedStep, born: NewStep, *, predecessor_id: int, outcome: Settlement
) -> Cascade:
    """Insert a fan-in step that has failed, with its consequences."""
    settled, successor = arriving.settled, outcome.successor
    failure = _failure(outcome)  # none where it took its error edge, though its row keeps that error
    row = StepInsert(
        step.flow,
        born,
        predecessor_id,
        outcome.status,
        changes=outcome.changes_json().decode(),
        error=None if outcome.error is None else outcome.error.stored(),
        successor_id=None if successor is None else successor.step_id,
    )
    yield InsertSteps([row])
    if outcome.problems:
        yield QueryMany(PROBLEMS, [(outcome.problems_json(), step.step_id)])
    if outcome.branches:
        yield InsertSteps([StepInsert(step.flow, branch, step.step_id) for branch in outcome.branches])
        settled.created += [CreatedStep(step.flow, branch) for branch in outcome.branches]
    if successor is not None:
        yield InsertSteps([StepInsert(step.flow, successor, step.step_id)])
        settled.created.append(CreatedStep(step.flow, successor))
    if outcome.arrives:
        yield Query(ARRIVED, (step.step_id,))
        arriving.outward.add(step.flow, step, step.spawn_id, failure)
    if outcome.end is not None:
        yield from compensation.end(step.flow, outcome.end, failure, settled)
    elif outcome.pending_end is not None:
        yield from compensation.end(step.flow, outcome.pending_end, failure, settled)


def _failure(one: Settlement) -> str | None:
    if one.status is not Status.FAILED:
        return None
    return (one.error or ErrorInfo("")).stored()
