"""A fan-in whose input could not be merged (F3), when it runs again (O13, O14). Pure.

Its state is that of the step that fanned out. What the branches brought is in their rows, and is merged again, so that nothing
of it is lost: the fan-in gets it now, or fails with the same error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest, TooLarge
from dwarf_nats.rules import fan_in
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.state import NULL, State, encode_state, merge
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.fan_in import Member, Spawn
    from dwarf_nats.rules.rows import StepRow
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.limits import Limits


@dataclass(slots=True)
class Again:
    """The input of the fan-in as it is now. With a `problem` it fails without having run, once it is claimed."""

    state_json: bytes
    problem: ErrorInfo | None


def cohort_of(step: StepRow, steps: Mapping[int, StepRow]) -> int | None:
    """The spawn step of the cohort whose changes could not be merged for this step, as its row is before it is rewound; nothing
    for any other step.

    Such a step ended without ever having been claimed, or has the error as its `cohort_error`, although it never fanned out.
    """
    if step.cohort_size is not None:
        return None
    ended = step.status in (Status.FAILED, Status.COMPLETED)
    if step.cohort_error is None and not (ended and step.lease_seq == 0):
        return None
    last = steps.get(step.predecessor_id or 0)
    return None if last is None or last.spawn_id not in steps else last.spawn_id


def merge_again(
    graph: Graph,
    node: str,
    *,
    spawn: Spawn,
    members: Sequence[Member],
    state: State,
    overrides: State,
    limits: Limits,
) -> Again | None:
    """Merge what the branches brought for `node`; nothing if that is not where they converge. `state`: of the fan-in as it is,
    with overrides of earlier times.

    A field with an override has that value, whatever the branches brought.
    """
    if graph.fan_ins.get(spawn.node) != node:
        return None
    before = spawn.merged()
    given = {
        name: state.get(name, NULL) for name in before.keys() | state.keys() if state.get(name) != before.get(name)
    }
    given |= overrides
    try:
        merged = fan_in.merged_input(graph, spawn, members, limits, without=given)
        text = encode_state(merge(merged, given))
        limits.check_bytes(len(text), f"what the branches of node {spawn.node!r} merge to")
    except (BadRequest, TooLarge) as error:
        return Again(encode_state(merge(before, given)), fan_in.problem_of(error))
    return Again(text, None)
