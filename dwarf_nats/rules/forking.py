"""Forking: a copy of a tree of flows that has ended, which runs on from one of its steps (O14). Pure.

In a copy of a cancelled tree the other branches run on as well: the steps that the cancel cut off are pending there, and a flow
that was cut off in mid-run runs, its caller waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.rules import rewinding, state_refs
from dwarf_nats.rules.rows import FlowRow, StepRow
from dwarf_nats.rules.state_refs import override
from dwarf_nats.rules.steps import NewIds, StepRef
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.unmerged import Again
    from dwarf_nats.workflow.state import State


class NewFlowId(NamedTuple):
    """The id and token of a flow that is about to be made."""

    flow_id: int
    token: str


@dataclass(slots=True)
class Forked:
    """The copy: flows and steps, among them the `root` and the `target`, which is pending as well as `others`."""

    flows: list[FlowRow]
    steps: list[StepRow]
    root: FlowRow
    target: StepRow
    others: list[StepRow]

    def stamp(self, now: int) -> None:
        """Set the times of all that runs on to `now`; the rest keeps its times, and a delay that is not over yet holds on."""
        for flow in self.flows:
            if flow.status is Status.RUNNING:
                flow.created_at = flow.started_at = flow.updated_at = now
                flow.restarted_at = None
        self.target.not_before = self.target.updated_at = now
        for step in self.others:
            step.not_before, step.updated_at = max(step.not_before, now), now


def fork(
    flows: Mapping[int, FlowRow],
    steps: Iterable[StepRow],
    target: int,
    overrides: State,
    new_flow: Callable[[], NewFlowId],
    new_step: NewIds,
    again: Again | None = None,
) -> Forked:
    """Copy the tree as far as `target`, with `overrides` in its state (a null removes a field), or with the input that was
    merged `again` for it.

    Finished branches and sub-workflows beside its path are copied with their histories; what `target` led to is not. What a
    cancel cut off beside it runs on.
    """
    by_flow: dict[int, dict[int, StepRow]] = {}
    for step in steps:
        by_flow.setdefault(step.flow_id, {})[step.step_id] = replace(step)
    flow_id = next(one for one, inside in by_flow.items() if target in inside)
    running, removed = _rewound(flows, by_flow, flow_id, target)
    others, childless = _run_on(flows, by_flow, running, removed)
    for one in running:
        _recount(by_flow[one], removed)
    kept = _kept(flows, removed | childless | {target})
    rows = [step for one in kept for step in by_flow.get(one, {}).values() if step.step_id not in removed]
    flow_ids = {one: new_flow() for one in kept}
    step_ids = {step.step_id: new_step() for step in rows}
    copies = [_flow(flows[one], flow_ids, step_ids, runs=one in running) for one in kept]
    for step in rows:
        _move(step, flow_ids, step_ids)
    first = next(step for step in rows if step.step_id == step_ids[target].step_id)
    if again is None:
        first.state, first.borrowed = override(first.state, first.borrowed, overrides)
    else:
        first.state, first.borrowed = again.state_json.decode(), None
        first.cohort_error = again.problem.stored() if again.problem is not None else None
    root = next(copy for copy in copies if copy.surgraph_flow_id is None)
    return Forked(flows=copies, steps=rows, root=root, target=first, others=others)


def _rewound(
    flows: Mapping[int, FlowRow], by_flow: dict[int, dict[int, StepRow]], flow_id: int, target: int
) -> tuple[set[int], set[int]]:
    """Rewind the target and the steps that waited for its flow, up to the root. The flows on that path; all steps that go."""
    removed = set(rewinding.rewind(by_flow[flow_id], target).removed)
    running = {flow_id}
    flow = flows[flow_id]
    while flow.surgraph_flow_id is not None and flow.surgraph_step_id is not None:
        above, caller = flow.surgraph_flow_id, flow.surgraph_step_id
        removed |= rewinding.rewind_caller(by_flow[above], caller).removed
        running.add(above)
        flow = flows[above]
    return running, removed


def _run_on(
    flows: Mapping[int, FlowRow], by_flow: Mapping[int, Mapping[int, StepRow]], running: set[int], removed: set[int]
) -> tuple[list[StepRow], set[int]]:
    """The steps that a cancel cut off in the flows that run again become pending, or wait for the flow they had called, which
    then runs again as well: it joins `running`. The steps that are pending, and those that have lost the flow they had called.
    """
    called: dict[int | None, int] = {
        flow.surgraph_step_id: flow.flow_id for flow in flows.values() if flow.status is Status.CANCELLED
    }
    pending: list[StepRow] = []
    childless: set[int] = set()
    ahead = [one for one in sorted(running) if flows[one].status is Status.CANCELLED]
    for flow_id in ahead:  # grows on the way
        for step in _cut_off(by_flow, flow_id):
            if step.step_id in removed:
                continue
            child = called.get(step.step_id)
            waits = child is not None and step.subgraph_result is None and step.subgraph_error is None
            if child is not None and waits and any(_cut_off(by_flow, child)):
                rewinding.wait_on(step)
                running.add(child)
                ahead.append(child)
            else:
                rewinding.run_on(step)
                pending.append(step)
                if waits:
                    childless.add(step.step_id)
    return pending, childless


def _cut_off(by_flow: Mapping[int, Mapping[int, StepRow]], flow_id: int) -> list[StepRow]:
    return [step for step in by_flow.get(flow_id, {}).values() if step.status is Status.CANCELLED]


def _recount(steps: Mapping[int, StepRow], removed: set[int]) -> None:
    """Every branch counts as arrived at its cohort but for those in which something runs on."""
    outstanding: dict[int, set[int]] = {}
    for step in steps.values():
        if step.step_id in removed or step.status not in (Status.PENDING, Status.RUNNING):
            continue
        at = step
        while at.spawn_id in steps and at.ordinal not in outstanding.setdefault(at.spawn_id, set()):
            outstanding[at.spawn_id].add(at.ordinal)
            at = steps[at.spawn_id]
    for spawn_id, branches in outstanding.items():
        size = steps[spawn_id].cohort_size
        if size is not None:
            steps[spawn_id].arrivals = size - len(branches)


def _kept(flows: Mapping[int, FlowRow], uncalled: set[int]) -> list[int]:
    """The flows that come along: all but those called by a step that goes, or has not run, and those below them."""
    below: dict[int | None, list[int]] = {}
    for flow in flows.values():
        below.setdefault(flow.surgraph_flow_id, []).append(flow.flow_id)
    dropped = [flow.flow_id for flow in flows.values() if flow.surgraph_step_id in uncalled]
    for one in dropped:  # grows on the way
        dropped += below.get(one, ())
    gone = set(dropped)
    return [flow_id for flow_id in flows if flow_id not in gone]


def _flow(flow: FlowRow, flow_ids: Mapping[int, NewFlowId], step_ids: Mapping[int, StepRef], *, runs: bool) -> FlowRow:
    number, token = flow_ids[flow.flow_id]
    copy = replace(
        flow,
        flow_id=number,
        token=token,
        thread_id=number,
        thread_token=token,
        root_id=flow_ids[flow.root_id].flow_id,
        notify="",
        request_digest="",
        start_at=None,
    )
    if flow.surgraph_flow_id is not None and flow.surgraph_step_id is not None:
        copy.surgraph_flow_id = flow_ids[flow.surgraph_flow_id].flow_id
        copy.surgraph_step_id = step_ids[flow.surgraph_step_id].step_id
    if runs:
        copy.status = Status.RUNNING
        copy.final_state = copy.final_borrowed = copy.error = copy.cancel_reason = None
    else:
        copy.final_borrowed = _moved_refs(copy.final_borrowed, step_ids)
    return copy


def _move(step: StepRow, flow_ids: Mapping[int, NewFlowId], step_ids: Mapping[int, StepRef]) -> None:
    step.flow_id = flow_ids[step.flow_id].flow_id
    ref = step_ids[step.step_id]
    if step.status is Status.COMPLETED and step.compensates is None:
        step.copied_from = step.step_id
    step.compensates = _moved(step.compensates, step_ids)
    step.step_id, step.token = ref.step_id, ref.token
    step.progress = step.progress_at = None  # what the original did outside is not the copy's
    step.spawn_id = step_ids[step.spawn_id].step_id if step.spawn_id else 0
    step.borrowed = _moved_refs(step.borrowed, step_ids)
    step.predecessor_id = _moved(step.predecessor_id, step_ids)
    step.successor_id = _moved(step.successor_id, step_ids)


def _moved_refs(borrowed: str | None, step_ids: Mapping[int, StepRef]) -> str | None:
    """References to the copies of the steps that were referred to."""
    return state_refs.stored({name: step_ids[holder].step_id for name, holder in state_refs.read(borrowed).items()})


def _moved(step_id: int | None, step_ids: Mapping[int, StepRef]) -> int | None:
    return step_ids[step_id].step_id if step_id in step_ids and step_id is not None else None
