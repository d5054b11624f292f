"""Run a flow again from a step, in place: what followed from the step is removed, and callers of its flow wait again (O13)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.errors import Conflict, NotFound
from dwarf_nats.rules import rewinding, unmerged
from dwarf_nats.rules.rows import FlowRow, StepRow, TreeChange, step_row
from dwarf_nats.rules.steps import ReadyStep, StepRef
from dwarf_nats.store.commands import queried
from dwarf_nats.store.statements import cohorts
from dwarf_nats.store.statements.pauses import resume_flows
from dwarf_nats.store.statements.trees import (
    LOCK_STEPS,
    RESET_STEP,
    ancestors,
    delete_flows,
    descendants,
    lock_running,
    ready_steps,
    set_running,
    tree,
    with_overrides,
)
from dwarf_nats.workflow.limits import UNLIMITED, Limits
from dwarf_nats.workflow.state import State, decode_state
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.ports import GraphOf
    from dwarf_nats.store.database import Tx
    from dwarf_nats.workflow.graph import Graph


class _Level(NamedTuple):
    """A step to be run again, or that waits for its child again, and what is taken back with it."""

    step_id: int
    rewound: rewinding.Rewound


STEPS = f"select {StepRow.columns_without_texts()} from dwarf_steps where flow_id {{in:$1}}"
STATE = "select state, borrowed from dwarf_steps where step_id = $1"
UNMERGED = f"update dwarf_steps set parked = {Parked.NO:d}, cohort_error = $2 where step_id = $1"
LOCK_FLOWS = "select 1 from dwarf_flows where flow_id {in:$1} order by flow_id {for_update}"
DELETE_STEPS = "delete from dwarf_steps where step_id {in:$1}"
SEVER = "update dwarf_steps set successor_id = null where step_id {in:$1}"
RECOUNT = "update dwarf_steps set successor_id = $2, arrivals = $3, failures = $4, cohort_error = $5 where step_id = $1"
WAIT_AGAIN = (
    f"update dwarf_steps set status = 'running', parked = {Parked.CHILD:d},"
    " changes = coalesce(parked_changes, '{}'), error = null,"
    " successor_id = null, arrived = 0, cohort_size = null, arrivals = 0, failures = 0, cohort_error = null,"
    " problems = null, subgraph_result = null, subgraph_error = null, wait_until = null,"
    " lease_seq = lease_seq + 1, updated_at = {now}"
    " where step_id = $1"
)


async def restart_from(
    tx: Tx, step_id: int, flow: FlowRow, overrides: State, *, graph_of: GraphOf, limits: Limits = UNLIMITED
) -> TreeChange:
    """Rewind a step in place, and the steps that waited for its flow up to the root (O13).

    Raises `Conflict` for a cancelled flow, and if the step or what followed from it is not at rest; `TooLarge` if the state
    would be with the overrides. `graph_of` is asked for a fan-in whose input could not be merged.
    """
    flow_id, root_id = flow.flow_id, flow.root_id
    flows = await tree(tx, root_id)
    path = [one.flow_id for one in ancestors(flows, flow_id)]
    await tx.fetch(LOCK_STEPS, path)
    flows = await tree(tx, root_id)
    by_flow = await _steps_of(tx, path)
    if flow_id not in flows:
        raise NotFound("no such flow")
    if step_id not in by_flow.get(flow_id, {}):
        raise NotFound("no such step")
    _refuse_cancelled(flows, flow_id)
    found = by_flow[flow_id][step_id]
    rewinding.refuse_compensation(found)
    again = await _merged_again(
        tx, found, by_flow[flow_id], graph=lambda: graph_of(flows[flow_id]), overrides=overrides, limits=limits
    )
    levels = _rewound(flows, by_flow, step_id, flow_id)
    flows, doomed, running = await _locked(tx, root_id, path, levels=levels, flows=flows)
    _refuse_cancelled(flows, flow_id)
    if doomed:
        await delete_flows(tx, doomed)
    for level in levels:
        await _write_rewound(tx, by_flow, level)
    ready = await _reset(tx, step_id, again, overrides=overrides, limits=limits)
    ended = [one for one in path if flows[one].status.terminal]
    changed = await set_running(tx, ended) if ended else []
    changed += await resume_flows(tx, [flow_id])
    return TreeChange(changed, ready, running)


async def _reset(
    tx: Tx, step_id: int, again: unmerged.Again | None, *, overrides: State, limits: Limits
) -> list[ReadyStep]:
    """Make the step pending, with overrides in its state or with the input that was merged again."""
    if again is None:
        ((state, refs),) = await tx.fetch(STATE, step_id)
        return ready_steps(await tx.fetch(RESET_STEP, step_id, *with_overrides(state, refs, overrides, limits)))
    limits.check_bytes(len(again.state_json), "the state with these overrides")
    ready = ready_steps(await tx.fetch(RESET_STEP, step_id, again.state_json.decode(), None))
    if again.problem is not None:  # it asks no task, so no breaker parks it
        await tx.fetch(UNMERGED, step_id, again.problem.stored())
    return ready


def _refuse_cancelled(flows: dict[int, FlowRow], flow_id: int) -> None:
    if any(flow.compensating is not None for flow in ancestors(flows, flow_id)):
        raise Conflict("the flow is being compensated: wait for its end")
    if any(flow.status is Status.CANCELLED for flow in ancestors(flows, flow_id)):
        raise Conflict("the flow is cancelled: restart it as a whole, or fork from the step")


async def _steps_of(tx: Tx, flow_ids: list[int]) -> dict[int, dict[int, StepRow]]:
    found: dict[int, dict[int, StepRow]] = {}
    for row in map(step_row, await tx.fetch(STEPS, flow_ids)):
        found.setdefault(row.flow_id, {})[row.step_id] = row
    return found


async def _merged_again(
    tx: Tx,
    step: StepRow,
    steps: dict[int, StepRow],
    *,
    graph: Callable[[], Graph],
    overrides: State,
    limits: Limits,
) -> unmerged.Again | None:
    """Merge the input of a fan-in that could not be merged, from the branches as they are; `None` for any other step."""
    spawn_id = unmerged.cohort_of(step, steps)
    if spawn_id is None:
        return None
    spawn, members = await queried(tx, cohorts.read(spawn_id, limits))
    ((state, _),) = await tx.fetch(STATE, step.step_id)
    return unmerged.merge_again(
        graph(), step.node, spawn=spawn, members=members, state=decode_state(state), overrides=overrides, limits=limits
    )


def _rewound(
    flows: dict[int, FlowRow], by_flow: dict[int, dict[int, StepRow]], step_id: int, flow_id: int
) -> list[_Level]:
    """Rewind the step and, level by level, the steps that waited for its flow."""
    paused = _waiting_for_paused(flows)
    levels = [_Level(step_id, rewinding.rewind(by_flow[flow_id], step_id, paused))]
    flow = flows[flow_id]
    while flow.surgraph_flow_id is not None and flow.surgraph_step_id is not None:
        steps = by_flow[flow.surgraph_flow_id]
        caller = steps.get(flow.surgraph_step_id)
        if caller is None or (caller.status is Status.RUNNING and caller.parked):
            break  # it still waits
        levels.append(_Level(caller.step_id, rewinding.rewind_caller(steps, caller.step_id, paused)))
        flow = flows[flow.surgraph_flow_id]
    return levels


def _waiting_for_paused(flows: dict[int, FlowRow]) -> set[int]:
    """Return the steps that wait for a flow which is paused: they are at rest (O13)."""
    return {
        flow.surgraph_step_id
        for flow in flows.values()
        if flow.surgraph_step_id is not None and flow.status is Status.INTERRUPTED
    }


async def _locked(
    tx: Tx, root_id: int, path: list[int], *, levels: list[_Level], flows: dict[int, FlowRow]
) -> tuple[dict[int, FlowRow], list[int], list[StepRef]]:
    """Lock the flows that removed steps called, and those of the path.

    Return the tree as it is then, the flows to be removed, and the steps that run in them. Raises `Conflict` if a flow that was
    paused runs again meanwhile.
    """
    callers = {level.step_id for level in levels[1:]}
    childless = {step for level in levels for step in (*level.rewound.removed, level.step_id)} - callers
    locked: set[int] = set()
    running: list[StepRef] = []
    while True:
        tops = [flow.flow_id for flow in flows.values() if flow.surgraph_step_id in childless]
        doomed = sorted({one for top in tops for one in descendants(flows, top)})
        if locked.issuperset(doomed):
            break
        # A transaction that commits while this waits may have called another flow: they are looked for once more.
        running = await lock_running(tx, doomed)
        locked.update(doomed)
        flows = await tree(tx, root_id)
    await tx.fetch(LOCK_FLOWS, sorted({*path, *doomed}))
    flows = await tree(tx, root_id)
    if not flows.keys() >= set(path):
        raise NotFound("no such flow")
    for top in tops:
        if top in flows and not flows[top].status.stopped:
            raise Conflict(f"the sub-workflow {flows[top].workflow!r} runs again: wait until it is paused or has ended")
    return flows, [one for one in doomed if one in flows], running


async def _write_rewound(tx: Tx, by_flow: dict[int, dict[int, StepRow]], level: _Level) -> None:
    """Write what changes beside a step that is rewound, and the step itself if it waits for its child again."""
    target, rewound = level
    if rewound.removed:
        await tx.fetch(DELETE_STEPS, sorted(rewound.removed))
    steps = next(steps for steps in by_flow.values() if target in steps)
    severed = [one for one in rewound.touched if one != target and steps[one].cohort_size is None]
    if severed:
        await tx.fetch(SEVER, severed)
    for one in sorted(rewound.touched - {target} - set(severed)):
        step = steps[one]
        counts = (step.arrivals, step.failures, step.cohort_error)
        await tx.fetch(RECOUNT, one, step.successor_id, *counts)
    if steps[target].status is Status.RUNNING:
        await tx.fetch(WAIT_AGAIN, target)
