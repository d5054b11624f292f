"""Rewinding: what a step led to, and what its flow looks like as if it had not run yet (O13, O14). Pure.

Works on the steps of one flow as they are stored, changes those that stay and names those that go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from dwarf_nats.errors import Conflict
from dwarf_nats.rules.rows import StepRow
from dwarf_nats.workflow.nodes import COMPENSATION_SUFFIX
from dwarf_nats.workflow.status import Parked, Status

AT_REST = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.INTERRUPTED})


@dataclass(slots=True)
class Rewound:
    """`removed`: ids of the steps that go. `touched`: ids of the steps that stay but look otherwise, the target among them."""

    removed: set[int] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)


def led_to(steps: Mapping[int, StepRow], target: int) -> set[int]:
    """The steps that came of `target`, itself not among them: its part of the execution DAG (F7)."""
    following: dict[int, list[int]] = {}
    for step in steps.values():
        if step.predecessor_id is not None:
            following.setdefault(step.predecessor_id, []).append(step.step_id)
        if step.successor_id is not None:
            following.setdefault(step.step_id, []).append(step.successor_id)
    found: set[int] = set()
    pending = [target]
    while pending:
        for step_id in following.get(pending.pop(), ()):
            if step_id not in found and step_id in steps:
                found.add(step_id)
                pending.append(step_id)
    return found


def rewind(steps: Mapping[int, StepRow], target: int, paused: Collection[int] = ()) -> Rewound:
    """Take back `target` and all it led to. The target is left as a step that has not run, pending.

    Raises `Conflict` if one of them is not at rest. A step that waits for an event is. `paused`: steps that wait for a child
    which is paused; they are as well.
    """
    result = Rewound(led_to(steps, target), {target})
    gone = result.removed | {target}
    for step_id in gone:
        step = steps[step_id]
        if step.status in AT_REST or step_id in paused or step.parked == Parked.EVENT:
            continue
        if step.status is Status.RUNNING and step.parked:
            raise Conflict(
                f"step {step.node!r} waits for a sub-workflow that runs: wait until that has ended or is paused,"
                " or cancel the flow"
            )
        raise Conflict(
            f"step {step.node!r} is {step.status}: wait until this step and what it led to have ended, or cancel the flow"
        )
    _take_back_arrivals(steps, target, result)
    for step in steps.values():
        if step.step_id not in gone and step.successor_id in result.removed:
            step.successor_id = None  # a member whose fan-in is gone
            result.touched.add(step.step_id)
    _unrun(steps[target])
    return result


def refuse_compensation(step: StepRow) -> None:
    """Raise `Conflict` for a compensation: nothing follows on it, so nothing can run again from there (N9)."""
    if step.compensates is not None:
        compensated = step.node.removesuffix(COMPENSATION_SUFFIX)
        raise Conflict(
            f"step {step.node!r} is a compensation: run again from the step of {compensated!r} that it compensates"
        )


def rewind_caller(steps: Mapping[int, StepRow], target: int, paused: Collection[int] = ()) -> Rewound:
    """As `rewind`, for a step whose child runs again: it waits for it once more, with the changes it had made when it
    began to wait (P1)."""
    step = steps[target]
    kept = step.attempt, step.breakpoint_hit, step.started_at, step.parked_changes, step.attempts
    result = rewind(steps, target, paused)
    step.attempt, step.breakpoint_hit, step.started_at, step.parked_changes, step.attempts = kept
    step.status = Status.RUNNING
    step.parked = Parked.CHILD
    step.changes = step.parked_changes if step.parked_changes is not None else "{}"
    return result


def run_on(step: StepRow) -> None:
    """Make a step that was cut off pending in the copy, as one that was given back (O14).

    It keeps its attempts, its changes so far, and what it was resumed with or its child came to. A step that was cut off while
    it waited asks for that again, so it begins anew: the changes it asked with must not be made twice.
    """
    if _waited(step):
        _unrun(step)
        return
    step.status = Status.PENDING
    step.parked = Parked.NO
    step.breakpoint_hit = 0
    step.interrupt_payload = step.wait_until = None
    step.started_at = None
    step.lease_seq += 1


def _waited(step: StepRow) -> bool:
    """True if the step was cut off while it waited for a resume, for an event or for its child."""
    return (
        step.interrupt_payload is not None
        or (step.wait_event is not None and step.event is None)
        or (step.parked_changes is not None and step.subgraph_result is None and step.subgraph_error is None)
    )


def wait_on(step: StepRow) -> None:
    """A step that was cut off while its child ran waits for it in the copy."""
    step.status = Status.RUNNING
    step.parked = Parked.CHILD
    step.lease_seq += 1


def _unrun(step: StepRow) -> None:
    step.status = Status.PENDING
    step.changes = "{}"
    step.attempt = 0
    step.error = None
    step.successor_id = None
    step.arrived = 0
    step.cohort_size = None
    step.arrivals = step.failures = 0
    step.cohort_error = None
    step.problems = None
    step.parked = Parked.NO
    step.breakpoint_hit = 0
    step.interrupt_payload = step.resumed = step.subgraph_result = step.subgraph_error = step.parked_changes = None
    step.wait_event = step.wait_key = step.wait_until = step.event = None
    step.interrupt_timed_out = 0
    step.started_at = None
    step.copied_from = None
    step.attempts = step.progress = step.progress_at = None
    step.lease_seq += 1


def _take_back_arrivals(steps: Mapping[int, StepRow], target: int, result: Rewound) -> None:
    gone = result.removed | {target}
    counts: dict[int, list[int]] = {}
    for step_id in gone:
        step = steps[step_id]
        broken = _failed_cohort(step)  # its cohort has passed that outward in its place (X8)
        if (step.arrived or broken) and step.spawn_id and step.spawn_id not in gone:
            count = counts.setdefault(step.spawn_id, [0, 0])
            count[0] += 1
            count[1] += broken or step.status is Status.FAILED
    for spawn_id, (arrivals, failures) in counts.items():
        _take_back(steps, gone, result, spawn_id, arrivals=arrivals, failures=failures)
    for spawn_id in counts:
        _recount_error(steps, gone, spawn_id)


def _take_back(
    steps: Mapping[int, StepRow], gone: set[int], result: Rewound, spawn_id: int, *, arrivals: int, failures: int
) -> None:
    passed: list[int] = []
    while True:
        spawn = steps[spawn_id]
        # A cohort that had resolved with a failure has passed it outward as one arrival (X8).
        passed_on = _failed_cohort(spawn)
        spawn.arrivals -= arrivals
        spawn.failures -= failures
        result.touched.add(spawn_id)
        if not passed_on or not spawn.spawn_id or spawn.spawn_id in gone:
            break
        spawn_id, arrivals, failures = spawn.spawn_id, 1, 1
        passed.append(spawn_id)
    for one in reversed(passed):
        _recount_error(steps, gone, one)


def _failed_cohort(spawn: StepRow) -> bool:
    return spawn.cohort_size is not None and spawn.arrivals >= spawn.cohort_size and spawn.failures > 0


def _recount_error(steps: Mapping[int, StepRow], gone: Iterable[int], spawn_id: int) -> None:
    """The error of a cohort is that of the first branch to fail, of those that still count."""
    gone = set(gone)
    failed = [
        (step.updated_at, step.step_id, step.error if step.status is Status.FAILED else step.cohort_error)
        for step in steps.values()
        if step.spawn_id == spawn_id
        and step.step_id not in gone
        and ((step.arrived and step.status is Status.FAILED) or _failed_cohort(step))
    ]
    steps[spawn_id].cohort_error = min(failed)[2] if failed else None
