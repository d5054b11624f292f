"""Start flows, and run them again from their entry step (O2, O13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.ports import Started
from dwarf_nats.rules.lifecycle import flow_sources
from dwarf_nats.rules.rows import FlowRow, TreeChange, flow_row
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.store.statements.trees import (
    CHANGED_AT,
    RESET_STEP,
    conflict,
    delete_flows,
    lock_running,
    ready_steps,
    with_called,
    with_overrides,
)
from dwarf_nats.workflow.limits import UNLIMITED, Limits
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx
    from dwarf_nats.workflow.state import State

START_STEPS = (
    f"update dwarf_steps set status = 'pending', parked = {PARKED}, updated_at = {{now}},"
    " not_before = {greatest}(not_before, {now})"
    " where flow_id = $1 and status = 'created' returning step_id, priority, not_before"
)
START_FLOW = (
    f"update dwarf_flows set status = 'running', started_at = {{now}}, updated_at = {CHANGED_AT},"
    " notify = case when $2 = '' then notify else $2 end"
    " where flow_id = $1 and status = 'created' returning updated_at"
)
LOCK_STATUS = "select status from dwarf_flows where flow_id = $1 {for_update}"
ENTRY_STEP = "select step_id, state, borrowed from dwarf_steps where flow_id = $1 and predecessor_id is null"
DELETE_OTHER_STEPS = "delete from dwarf_steps where flow_id = $1 and step_id <> $2"
CREATED_NOW = "update dwarf_steps set created_at = {now} where step_id = $1"
RESTART_FLOW = (
    f"update dwarf_flows set status = 'running', updated_at = {CHANGED_AT}, final_state = null, final_borrowed = null,"
    " error = null, cancel_reason = null, compensable = 0, restarted_at = {now}, started_at = {now}"
    f" where flow_id = $1 returning {FlowRow.columns()}"
)


async def start(tx: Tx, flow_id: int, notify: str) -> Started:
    """Make a created flow running and its steps pending (O2). Raises `Conflict` unless the flow is created."""
    steps = await tx.fetch(START_STEPS, flow_id)
    started = await tx.fetch(START_FLOW, flow_id, notify)
    if not started:
        raise await conflict(tx, flow_id, "started", [Status.CREATED])
    ((at,),) = started
    return Started(at, ready_steps(steps))


async def restart(tx: Tx, flow_id: int, overrides: State, limits: Limits = UNLIMITED) -> TreeChange:
    """Run a stopped root flow again from its entry step, in place (O13).

    Raises `Conflict` if it is not stopped, `TooLarge` if the state would be with the overrides.
    """
    running = await lock_running(tx, await with_called(tx, [flow_id]))
    restartable = flow_sources(Status.RUNNING, "restart")
    if not any(status in restartable for (status,) in await tx.fetch(LOCK_STATUS, flow_id)):
        raise await conflict(tx, flow_id, "restarted", restartable)
    called = [one for one in await with_called(tx, [flow_id]) if one != flow_id]
    if called:
        await delete_flows(tx, called)
    ((step_id, state, refs),) = await tx.fetch(ENTRY_STEP, flow_id)
    await tx.fetch(DELETE_OTHER_STEPS, flow_id, step_id)
    await tx.fetch(CREATED_NOW, step_id)
    ready = ready_steps(await tx.fetch(RESET_STEP, step_id, *with_overrides(state, refs, overrides, limits)))
    changed = [flow_row(row) for row in await tx.fetch(RESTART_FLOW, flow_id)]
    return TreeChange(changed, ready, running)
