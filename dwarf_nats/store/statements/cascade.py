"""The consequences of a group of settlements, in their own transaction, until there are no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.store.commands import PROBLEMS, Cascade, InsertSteps, Query, QueryMany, StepInsert
from dwarf_nats.store.statements import children, cohorts, compensation, events, pauses, step_details, tags
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement, SettleResult
    from dwarf_nats.rules.steps import NewIds, NewStep
    from dwarf_nats.workflow.limits import Limits

# A step that sleeps waits for a time, as one that waits for an event does until its time-out: when it runs next, it is over.
SLEPT = """update dwarf_steps set event = '{"timedOut":true}' where step_id {in:$1}"""


def needs_cascade(group: Sequence[Settlement], *, but_links: bool = False) -> bool:
    """Return whether a group changes more than its own rows; `but_links`: and more than links do."""
    return any(
        one.arrives
        or one.problems
        or one.branches
        or one.child is not None
        or one.pause is not None
        or one.event_wait is not None
        or one.forgets
        or one.slept
        or one.compensates
        or (one.links and not but_links)
        or one.details is not None
        or one.tags
        or (one.end is not None and one.step.flow.surgraph_step_id is not None)
        for one in group
    )


def cascade(
    group: Sequence[Settlement],
    settled: SettleResult,
    new_step: NewIds,
    limits: Limits,
    *,
    several_shards: bool = False,
) -> Cascade:
    """Write the consequences of settlements that were just written.

    Branches and children are inserted, steps wait for events, pauses reach the root, arrivals are counted, fan-ins resolved,
    compensations begun and continued, waiting steps woken, tags set, in this order.
    """
    living = [one for one in group if (done := settled.applied.get(one.step.step_id)) is not None and done.alive]
    problems = [(one.problems_json(), one.step.step_id) for one in living if one.problems]
    if problems:
        yield QueryMany(PROBLEMS, problems)
    detailed = [one for one in living if one.details is not None]
    if detailed:
        yield from step_details.write(detailed, settled)
    branches = [
        StepInsert(one.step.flow, branch, one.step.step_id, _status(branch))
        for one in living
        for branch in one.branches
    ]
    if branches:
        yield InsertSteps(branches)
    yield from children.forget([one.step for one in living if one.forgets])
    slept = [one.step.step_id for one in living if one.slept]
    if slept:
        yield Query(SLEPT, (slept,))
    yield from children.start([one for one in living if one.child is not None], settled)
    waits = [one for one in living if one.event_wait is not None]
    if waits:
        yield from events.begin_waits(waits, settled, several_shards=several_shards)
    yield from pauses.pause([one for one in living if one.pause is not None], settled)
    yield from cohorts.arrive([one for one in living if one.arrives], settled, new_step, limits)
    compensations = [one for one in living if one.compensates]
    if compensations:
        yield from compensation.settle(compensations, settled, limits)
    yield from children.wake_parents(living, settled)
    tagged = [one for one in living if one.tags]
    if tagged:
        yield from tags.settle(tagged, settled)


def next_wave(group: Sequence[Settlement], settled: SettleResult) -> list[Settlement]:
    """The links of a group that was just written: they settle steps that it created running (N8).

    Where that did not happen, because the flow has ended or has breakpoints, there is nothing to settle.
    """
    return [
        link
        for one in group
        if one.links
        and (done := settled.applied.get(one.step.step_id)) is not None
        and done.alive
        and one.step.step_id not in settled.with_breakpoints
        for link in one.links
    ]


def defer_to_breakpoints(group: Sequence[Settlement], settled: SettleResult) -> None:
    """Suppress eager starts in flows with breakpoints: the steps are pending, so that their claim checks breakpoints (O12)."""
    if not settled.with_breakpoints:
        return
    for one in group:
        if one.step.step_id in settled.with_breakpoints:
            for new in (one.successor, *one.branches, one.child):
                if new is not None:
                    new.eager = False


def _status(step: NewStep) -> Status:
    return Status.RUNNING if step.eager else Status.PENDING
