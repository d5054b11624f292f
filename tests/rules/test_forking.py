"""Forking as a pure rule (O14): what runs on in the copy of a cancelled tree, whatever its rows say."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from dwarf_nats.rules.forking import Forked, NewFlowId, fork
from dwarf_nats.rules.rows import FlowRow, StepRow
from dwarf_nats.rules.steps import StepRef
from dwarf_nats.workflow.status import Status


def flow(flow_id: int, caller: tuple[int, int] | None = None, status: Status = Status.CANCELLED) -> FlowRow:
    """`caller`: flow and step."""
    return FlowRow(
        flow_id, "t", "w", "d", status, flow_id, "t", caller[1] if caller else None, caller[0] if caller else None, 1, None,
        1, "", 1.0, None, None, "{}", "", "", "{}", None, None, "", 5, 5, 6, "",
    )  # fmt: skip


def step(step_id: int, flow_id: int = 1, status: Status = Status.CANCELLED, **more: Any) -> StepRow:
    values: dict[str, Any] = {
        "step_id": step_id, "flow_id": flow_id, "depth": 1, "token": "t", "node": "n", "url": "u", "state": "{}",
        "changes": "{}", "status": status, "attempt": 0, "error": None, "predecessor_id": None, "successor_id": None,
        "spawn_id": 0, "ordinal": 0, "arrived": 0, "cohort_size": None, "arrivals": 0, "failures": 0, "cohort_error": None,
        "parked": 0, "breakpoint_hit": 0, "interrupt_payload": None, "resumed": None, "subgraph_result": None,
        "subgraph_error": None, "parked_changes": None, "borrowed": None, "lease_seq": 1, "priority": 1, "fairness_key": "",
        "fairness_weight": 1.0, "not_before": 5, "created_at": 5, "started_at": 5, "updated_at": 6, "problems": None,
    }  # fmt: skip
    return StepRow(**{**values, **more})


def forked(flows: list[FlowRow], steps: list[StepRow], target: int) -> Forked:
    ids = itertools.count(1000)
    return fork(
        {one.flow_id: one for one in flows},
        steps,
        target,
        {},
        lambda: NewFlowId(next(ids), "n"),
        lambda: StepRef(next(ids), "n"),
    )


def cohort(arrivals: int, *branches: StepRow) -> list[StepRow]:
    spawn = step(1, status=Status.COMPLETED, cohort_size=len(branches), arrivals=arrivals)
    for ordinal, branch in enumerate(branches):
        branch.spawn_id, branch.ordinal, branch.predecessor_id = 1, ordinal, 1
    return [spawn, *branches]


@pytest.mark.parametrize("counted", [0, 1, 2, 3])
def test_a_cohort_waits_for_exactly_the_branches_in_which_something_runs_on(counted: int) -> None:
    """Also where the counts in the rows do not fit: a copy neither waits for ever nor bears its fan-in twice."""
    steps = cohort(counted, step(2), step(3, status=Status.COMPLETED, arrived=1), step(4))
    copy = forked([flow(1)], steps, 3)
    (spawn,) = [one for one in copy.steps if one.cohort_size]
    assert (spawn.cohort_size, spawn.arrivals) == (3, 0)
    assert [one.status for one in [copy.target, *copy.others]] == [Status.PENDING] * 3
    copy = forked([flow(1, status=Status.COMPLETED)], steps, 3)
    (spawn,) = [one for one in copy.steps if one.cohort_size]
    assert (spawn.arrivals, copy.others) == (2, [])


def test_what_runs_on_is_due_now_or_when_it_was_due() -> None:
    copy = forked([flow(1)], cohort(0, step(2, not_before=5), step(3, not_before=900), step(4, not_before=900)), 4)
    copy.stamp(100)
    assert [one.not_before for one in copy.others] == [100, 900]
    assert copy.target.not_before == 100
    assert {one.started_at for one in copy.others} == {None}


def test_a_caller_whose_child_has_nothing_that_could_run_on_calls_again() -> None:
    """It must not wait for a flow that stands still."""
    steps = [*cohort(0, step(2), step(3)), step(9, 2, Status.COMPLETED)]
    copy = forked([flow(1), flow(2, (1, 2))], steps, 3)
    assert [(one.status, one.parked) for one in copy.others] == [(Status.PENDING, 0)]
    assert len(copy.flows) == 1


def test_a_fan_in_that_could_not_merge_and_was_cut_off_fails_in_the_copy_as_well() -> None:
    """F3: its error stays with it, so nobody asks its task."""
    copy = forked([flow(1)], cohort(0, step(2, cohort_error='{"message":"no"}'), step(3)), 3)
    assert [one.cohort_error for one in copy.others] == ['{"message":"no"}']
    assert copy.target.cohort_error is None


@pytest.mark.parametrize("result", [{"subgraph_result": "{}"}, {"subgraph_error": "gone"}])
def test_a_caller_that_had_been_woken_keeps_what_its_child_came_to(result: dict[str, str]) -> None:
    steps = [*cohort(0, step(2, **result), step(3)), step(9, 2, Status.COMPLETED)]
    ended = flow(2, (1, 2), Status.COMPLETED if "subgraph_result" in result else Status.FAILED)
    copy = forked([flow(1), ended], steps, 3)
    (woken,) = copy.others
    assert (woken.status, woken.subgraph_result, woken.subgraph_error) == (
        Status.PENDING, result.get("subgraph_result"), result.get("subgraph_error"),
    )  # fmt: skip
    assert [one.status for one in copy.flows] == [Status.RUNNING, ended.status]


@pytest.mark.parametrize(
    "waiting",
    [{"interrupt_payload": "1"}, {"wait_event": "paid", "wait_key": "7", "wait_until": 99}, {"parked_changes": "{}"}],
    ids=["for a resume", "for an event", "for a child that is gone"],
)
def test_what_was_cut_off_while_it_waited_begins_anew(waiting: dict[str, Any]) -> None:
    """O14: it asks again, so the changes it asked with must not be made twice."""
    copy = forked([flow(1)], cohort(0, step(2, changes='{"m":-1}', attempt=1, **waiting), step(3)), 3)
    (again,) = copy.others
    assert (again.status, again.changes, again.attempt) == (Status.PENDING, "{}", 0)
    assert [getattr(again, name) for name in waiting] == [None] * len(waiting)


@pytest.mark.parametrize(
    "woken",
    [
        {"resumed": "1"},
        {"interrupt_timed_out": 1},
        {"wait_event": "paid", "event": "{}"},
        {"parked_changes": "{}", "subgraph_result": "{}"},
        {"parked_changes": "{}", "subgraph_error": "gone"},
        {},
    ],
    ids=["resumed", "timed out", "with its event", "with its result", "with its error", "never waited"],
)
def test_what_was_cut_off_later_keeps_what_it_had_done_so_far(woken: dict[str, Any]) -> None:
    """O14, S2."""
    copy = forked([flow(1)], cohort(0, step(2, changes='{"m":-1}', attempt=1, **woken), step(3)), 3)
    (again,) = copy.others
    assert (again.status, again.changes, again.attempt) == (Status.PENDING, '{"m":-1}', 1)
    assert {name: getattr(again, name) for name in woken} == woken


@pytest.mark.parametrize("at", ["beside", "below"])
def test_trees_may_be_as_deep_as_they_like(at: str) -> None:
    """P4: 3,000 flows that wait for each other."""
    deep = 3_000
    flows = [flow(1), *(flow(one, (one - 1, 10 * (one - 1))) for one in range(2, deep))]
    steps = [step(10 * one, one) for one in range(1, deep)]
    if at == "beside":
        steps = [*cohort(0, steps[0], step(5)), *steps[1:]]
    copy = forked(flows, steps, 5 if at == "beside" else steps[-1].step_id)
    assert {one.status for one in copy.flows} == {Status.RUNNING}
    assert len(copy.flows) == deep - 1
    pending = [copy.target, *copy.others]
    assert [one.status for one in pending] == [Status.PENDING] * len(pending)
    waiting = [one for one in copy.steps if one.parked == 1]
    assert (len(waiting), len(pending)) == ((deep - 2, 2) if at == "beside" else (deep - 2, 1))
