"""Cohorts in the settle transaction: arrivals are counted, fan-ins resolved (F2, F4, X8)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.rules import fan_in
from dwarf_nats.rules.decide import fail_or_handle
from dwarf_nats.rules.settlement import FlowEnd, FlowFacts, NewIds, NewStep, Settled, Settlement, StepInHand
from dwarf_nats.store.wishes import Effects, Sql, StepInsert, Wish
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.limits import Limits
from dwarf_nats.workflow.state import encode_state
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row


ARRIVE = """
update dwarf_steps set arrivals = arrivals + $2, failures = failures + $3, cohort_error = coalesce(cohort_error, $4)
where step_id = $1
returning arrivals, failures, cohort_size, cohort_error, spawn_id, ordinal, depth, node, state, changes
"""
# `spawn_id <> 0` says nothing new, but lets a plan made without the value use the partial index. The sizes are looked at before
# the changes are read: a cohort that does not fit into memory must not take its replica along, and then the next one.
MEMBERS = """
select step_id, ordinal, depth, status, arrived,
  case when (select sum({size:changes}) from dwarf_steps where spawn_id = $1 and spawn_id <> 0) <= $2 then changes end,
  not_before
from dwarf_steps where spawn_id = $1 and spawn_id <> 0
"""
CONVERGE = """
update dwarf_steps set successor_id = $2
where spawn_id = $1 and spawn_id <> 0 and arrived = 1 and status = 'completed'
"""


BIGINT = 2**63 - 1


def no_ids() -> tuple[int, str]:
    """For groups that need none."""
    raise RuntimeError("a group with fan-ins needs ids for their steps")


@dataclass(slots=True)
class _Arrivals:
    """What one round adds to one cohort."""

    flow: FlowFacts
    last: StepInHand
    count: int = 0
    failures: int = 0
    error: str | None = None


@dataclass(slots=True)
class _Rounds:
    cohorts: dict[int, _Arrivals] = field(default_factory=dict)

    def add(self, flow: FlowFacts, step: StepInHand, spawn_id: int, error: str | None) -> None:
        arrivals = self.cohorts.setdefault(spawn_id, _Arrivals(flow, step))
        arrivals.last = step
        arrivals.count += 1
        if error is not None:
            arrivals.failures += 1
            arrivals.error = arrivals.error or error


def arrive(group: Sequence[Settlement], settled: Settled, new_step: NewIds, limits: Limits) -> Effects:
    """Count the arrivals of the group; the last of a cohort bears its fan-in, or passes its failure outward."""
    rounds = _Rounds()
    for one in group:
        rounds.add(one.step.flow, one.step, one.step.spawn_id, _failure(one))
    while rounds.cohorts:
        outward = _Rounds()
        for spawn_id in sorted(rounds.cohorts):  # X10
            yield from _arrive(spawn_id, rounds.cohorts[spawn_id], outward, settled, new_step, limits)
        rounds = outward


def _arrive(
    spawn_id: int, arrivals: _Arrivals, outward: _Rounds, settled: Settled, new_step: NewIds, limits: Limits
) -> Effects:
    rows = yield Sql(ARRIVE, (spawn_id, arrivals.count, arrivals.failures, arrivals.error))
    if not rows or rows[0][0] < rows[0][2]:
        return
    _, failures, _, error, outer_id, ordinal, depth, node, state, changes = rows[0]
    spawn = fan_in.Spawn(spawn_id, outer_id, ordinal, depth, node, state, changes)
    if failures and outer_id:
        outward.add(arrivals.flow, arrivals.last, outer_id, error)
        return
    members = yield from _members(spawn_id, limits)
    if failures:
        graph = arrivals.flow.graph
        assert graph is not None
        final = fan_in.final_state(graph, spawn, members, limits)
        yield from _end(arrivals.flow, Status.FAILED, final, error, settled)
        return
    yield from _converge(spawn, members, arrivals, outward, settled, new_step, limits)


def _members(spawn_id: int, limits: Limits) -> Generator[Wish, list[Row], list[fan_in.Member]]:
    rows = yield Sql(MEMBERS, (spawn_id, min(limits.max_fan_out_bytes, BIGINT)))
    return [fan_in.Member(r[0], r[1], r[2], r[3] == "completed", bool(r[4]), r[5], r[6]) for r in rows]


def _converge(
    spawn: fan_in.Spawn,
    members: list[fan_in.Member],
    arrivals: _Arrivals,
    outward: _Rounds,
    settled: Settled,
    new_step: NewIds,
    limits: Limits,
) -> Effects:
    """All have arrived: the fan-in step is born, or it fails at once because a value cannot be merged (F3)."""
    flow = arrivals.flow
    graph = flow.graph
    assert graph is not None
    node = graph.nodes[graph.fan_ins[spawn.node]]
    depth = max(one.depth for one in members if one.arrived) + 1
    step_id, token = new_step()
    yield Sql(CONVERGE, (spawn.step_id, step_id))
    problem = None
    try:
        state, text = fan_in.merged_text(graph, spawn, members, limits)
    except TooLarge as error:
        problem = ErrorInfo(error.message, 413)
    except BadRequest as error:
        problem = ErrorInfo(error.message, 500)
    if problem is not None:
        state = spawn.merged()
        text = encode_state(state)
    born = NewStep(step_id, token, node.name, node.url, depth, state, text, 0, False, spawn.spawn_id, spawn.ordinal)
    predecessor = arrivals.last.step_id
    if problem is None:
        yield [StepInsert(flow, born, predecessor, not_before=max(one.resume_at for one in members if one.arrived))]
        settled.born.append((flow, born))
        return
    step = StepInHand(
        flow,
        step_id,
        token,
        node.name,
        node.url,
        depth,
        0,
        1,
        state,
        {},
        spawn_id=spawn.spawn_id,
        ordinal=spawn.ordinal,
    )
    yield from _failed_fan_in(
        step, born, predecessor, fail_or_handle(step, graph, problem, new_step, limits), outward, settled
    )


def _failed_fan_in(
    step: StepInHand, born: NewStep, predecessor: int, outcome: Settlement, outward: _Rounds, settled: Settled
) -> Effects:
    successor = outcome.successor
    row = StepInsert(
        step.flow, born, predecessor, outcome.status, changes=outcome.changes_json().decode(),
        error=None if outcome.error is None else outcome.error.stored(), successor_id=successor.step_id if successor else None,
    )  # fmt: skip
    yield [row]
    if outcome.branches:
        yield [StepInsert(step.flow, branch, step.step_id) for branch in outcome.branches]
        settled.born += [(step.flow, branch) for branch in outcome.branches]
    if successor is not None:
        yield [StepInsert(step.flow, successor, step.step_id)]
        settled.born.append((step.flow, successor))
    if outcome.arrives:
        yield Sql("update dwarf_steps set arrived = 1 where step_id = $1", (step.step_id,))
        outward.add(step.flow, step, step.spawn_id, row.error)
    if outcome.end is not None:
        yield from _end(step.flow, outcome.end.status, outcome.end.state_json, row.error, settled)


def _end(flow: FlowFacts, status: Status, state: bytes, error: str | None, settled: Settled) -> Effects:
    rows = yield Sql(
        "update dwarf_flows set status = $2, final_state = $3, error = $4, updated_at = {now}"
        " where flow_id = $1 and status in ('running', 'interrupted') returning updated_at",
        (flow.flow_id, status.value, state.decode(), error),
    )
    if rows:
        settled.ended.append((flow, FlowEnd(status, state, ErrorInfo.from_stored(error)), int(rows[0][0])))


def _failure(one: Settlement) -> str | None:
    if one.status is not Status.FAILED:
        return None
    return (one.error or ErrorInfo("")).stored()
