"""Running again from a step, in place: what it led to goes, and who waited for its flow waits again (O13)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeVar

from dwarf_nats.errors import Conflict, NotFound
from dwarf_nats.rules import rewinding, unmerged
from dwarf_nats.rules.rows import FlowRow, StepRow, TreeChange, step_row
from dwarf_nats.rules.steps import StepRef
from dwarf_nats.store import cohorts
from dwarf_nats.store.commands import Query
from dwarf_nats.store.steering import (
    UNRUN,
    ancestors,
    delete_trees,
    descendants,
    due_of,
    lock_running,
    run_again,
    settle_pauses,
    tree,
    with_overrides,
)
from dwarf_nats.workflow.limits import UNLIMITED, Limits
from dwarf_nats.workflow.state import State, decode_state
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row, Tx
    from dwarf_nats.workflow.graph import Graph

T = TypeVar("T")
GraphOf = Callable[[FlowRow], "Graph"]
"""The graph of a flow; raises if it is not at hand."""
Level = tuple[int, rewinding.Rewound]
"""A step, and what was taken back with it."""


async def restart_from(
    tx: Tx,
    step_id: int,
    flow_id: int,
    root_id: int,
    overrides: State,
    graph_of: GraphOf,
    limits: Limits = UNLIMITED,
) -> TreeChange:
    """Rewind a step in place, and the steps that waited for its flow up to the root (O13).

    Raises `Conflict` for a cancelled flow, and if the step or what it led to is not at rest; `TooLarge` if the state would be
    with the overrides. `graph_of` is asked for a fan-in whose input could not be merged.
    """
    flows = await tree(tx, root_id)
    path = [flow.flow_id for flow in ancestors(flows, flow_id)]
    await tx.fetch("select 1 from dwarf_steps where flow_id {in:$1} order by step_id {for_update}", path)
    flows = await tree(tx, root_id)
    by_flow = await _steps_of(tx, path)
    if flow_id not in flows:
        raise NotFound("no such flow")
    if step_id not in by_flow.get(flow_id, {}):
        raise NotFound("no such step")
    _refuse_cancelled(flows, flow_id)
    found = by_flow[flow_id][step_id]
    again = await _merged_again(tx, found, by_flow[flow_id], lambda: graph_of(flows[flow_id]), overrides, limits)
    levels = _rewound(flows, by_flow, step_id, flow_id)
    flows, doomed, running = await _locked(tx, root_id, path, levels, flows)
    _refuse_cancelled(flows, flow_id)
    if doomed:
        await delete_trees(tx, doomed)
    for target, level in levels:
        await _write_rewound(tx, by_flow, target, level)
    if again is None:
        row = (await tx.fetch("select state, borrowed from dwarf_steps where step_id = $1", step_id))[0]
        due = await tx.fetch(UNRUN, step_id, *with_overrides(row[0], row[1], overrides, limits))
    else:
        limits.check_bytes(len(again.state_json), "the state with these overrides")
        due = await tx.fetch(UNRUN, step_id, again.state_json.decode(), None)
        if again.problem is not None:  # it asks no task, so no breaker holds it
            await tx.fetch(
                f"update dwarf_steps set parked = {Parked.NO:d}, cohort_error = $2 where step_id = $1",
                step_id,
                again.problem.stored(),
            )
    ended = [one for one in path if flows[one].status.terminal]
    changed = await run_again(tx, ended) if ended else []
    changed += await settle_pauses(tx, [flows[one] for one in path])
    return TreeChange(changed, due_of(due), running)


def _refuse_cancelled(flows: dict[int, FlowRow], flow_id: int) -> None:
    if any(flow.status is Status.CANCELLED for flow in ancestors(flows, flow_id)):
        raise Conflict("the flow is cancelled: restart it as a whole, or fork from the step")


async def _steps_of(tx: Tx, flow_ids: list[int]) -> dict[int, dict[int, StepRow]]:
    rows = await tx.fetch(f"select {StepRow.columns(whole=False)} from dwarf_steps where flow_id {{in:$1}}", flow_ids)
    found: dict[int, dict[int, StepRow]] = {}
    for row in map(step_row, rows):
        found.setdefault(row.flow_id, {})[row.step_id] = row
    return found


async def _merged_again(
    tx: Tx,
    step: StepRow,
    steps: dict[int, StepRow],
    graph: Callable[[], Graph],
    overrides: State,
    limits: Limits,
) -> unmerged.Again | None:
    """The input of a fan-in that could not be merged, from the branches as they are; nothing for any other step."""
    spawn_id = unmerged.cohort_of(step, steps)
    if spawn_id is None:
        return None
    spawn, members = await _answered(tx, cohorts.read(spawn_id, limits))
    (row,) = await tx.fetch("select state from dwarf_steps where step_id = $1", step.step_id)
    return unmerged.merge_again(graph(), step.node, spawn, members, decode_state(row[0]), overrides, limits)


async def _answered(tx: Tx, commands: Generator[Query, list[Row], T]) -> T:
    """What a generator comes to that asks for statements only."""
    try:
        command = next(commands)
        while True:
            command = commands.send(await tx.fetch(command.text, *command.args))
    except StopIteration as done:
        result: T = done.value
        return result


def _rewound(
    flows: dict[int, FlowRow], by_flow: dict[int, dict[int, StepRow]], step_id: int, flow_id: int
) -> list[Level]:
    """The step and, level by level, the steps that waited for its flow, each with what was taken back."""
    paused = _waiting_for_paused(flows)
    levels = [(step_id, rewinding.rewind(by_flow[flow_id], step_id, paused))]
    flow = flows[flow_id]
    while flow.surgraph_flow_id is not None and flow.surgraph_step_id is not None:
        steps = by_flow[flow.surgraph_flow_id]
        caller = steps.get(flow.surgraph_step_id)
        if caller is None or (caller.status is Status.RUNNING and caller.parked):
            break  # it still waits
        levels.append((caller.step_id, rewinding.rewind_caller(steps, caller.step_id, paused)))
        flow = flows[flow.surgraph_flow_id]
    return levels


def _waiting_for_paused(flows: dict[int, FlowRow]) -> set[int]:
    """The steps that wait for a flow which is paused: they are at rest (O13)."""
    return {
        flow.surgraph_step_id
        for flow in flows.values()
        if flow.surgraph_step_id is not None and flow.status is Status.INTERRUPTED
    }


async def _locked(
    tx: Tx, root_id: int, path: list[int], levels: list[Level], flows: dict[int, FlowRow]
) -> tuple[dict[int, FlowRow], list[int], list[StepRef]]:
    """Lock the flows that were called by what goes, and those of the path: the tree as it is then, the flows that go, and what
    runs in them. Raises `Conflict` if one that was paused runs again meanwhile."""
    callers = {target for target, _ in levels[1:]}
    orphaned = {step for target, level in levels for step in (*level.removed, target)} - callers
    locked: set[int] = set()
    running: list[StepRef] = []
    while True:
        tops = [flow.flow_id for flow in flows.values() if flow.surgraph_step_id in orphaned]
        doomed = sorted({one for top in tops for one in descendants(flows, top)})
        if locked.issuperset(doomed):
            break
        # Whatever is committed while this waits may have called another flow: they are looked for once more.
        running = await lock_running(tx, doomed)
        locked.update(doomed)
        flows = await tree(tx, root_id)
    await tx.fetch(
        "select 1 from dwarf_flows where flow_id {in:$1} order by flow_id {for_update}", sorted({*path, *doomed})
    )
    flows = await tree(tx, root_id)
    if not flows.keys() >= set(path):
        raise NotFound("no such flow")
    for top in tops:
        if top in flows and not flows[top].status.stopped:
            raise Conflict(f"the sub-workflow {flows[top].workflow!r} runs again: wait until it is paused or has ended")
    return flows, [one for one in doomed if one in flows], running


async def _write_rewound(tx: Tx, by_flow: dict[int, dict[int, StepRow]], target: int, level: rewinding.Rewound) -> None:
    if level.removed:
        await tx.fetch("delete from dwarf_steps where step_id {in:$1}", sorted(level.removed))
    steps = next(steps for steps in by_flow.values() if target in steps)
    severed = [one for one in level.touched if one != target and steps[one].cohort_size is None]
    if severed:
        await tx.fetch("update dwarf_steps set successor_id = null where step_id {in:$1}", severed)
    for one in sorted(level.touched - {target} - set(severed)):
        step = steps[one]
        await tx.fetch(
            "update dwarf_steps set successor_id = $2, arrivals = $3, failures = $4, cohort_error = $5 where step_id = $1",
            one, step.successor_id, step.arrivals, step.failures, step.cohort_error,
        )  # fmt: skip
    if steps[target].status is Status.RUNNING:  # it waits for its child again
        await tx.fetch(
            f"update dwarf_steps set status = 'running', parked = {Parked.CHILD:d},"
            " changes = coalesce(parked_changes, '{}'), error = null,"
            " successor_id = null, arrived = 0, cohort_size = null, arrivals = 0, failures = 0, cohort_error = null,"
            " problems = null, subgraph_result = null, subgraph_error = null, lease_seq = lease_seq + 1, updated_at = {now}"
            " where step_id = $1",
            target,
        )
