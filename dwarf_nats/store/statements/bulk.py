"""Change many flows in one transaction (M1). Locks are taken as for one flow, steps before flows, each in their order (X10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

from dwarf_nats.rules.lifecycle import flow_sources
from dwarf_nats.rules.rows import FlowRow, TreeChange, flow_row, step_row
from dwarf_nats.store.dialect import CANCELLABLE, LIVE, Statement, listed
from dwarf_nats.store.statements.cancel import CANCEL_STEPS
from dwarf_nats.store.statements.restart import RESTART_FLOW
from dwarf_nats.store.statements.trees import (
    CHANGED_AT,
    RESET_STEP,
    STEPS,
    delete_flows,
    lock_running,
    ready_steps,
    with_called,
)
from dwarf_nats.workflow.bulk import BulkAction
from dwarf_nats.workflow.keys import Key
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.ports import Compensates, FinalState
    from dwarf_nats.rules.rows import StepRow
    from dwarf_nats.store.database import Tx

MOMENT = "select {now}"
AFTER_ALL = 2**63 - 1
"""An id after all others."""
_UNCHANGED = "f.updated_at < $$"
UNDONE = {
    BulkAction.CANCEL: "not (f.status = 'cancelled' and f.updated_at >= $$)",
    BulkAction.RESTART: "(f.restarted_at is null or f.restarted_at < $$)",
    # Which steps of them failed before is asked for each flow.
    BulkAction.RESTART_FAILED: _UNCHANGED,
    BulkAction.RESUME: _UNCHANGED,
    # What is removed is gone, and a tag may be set twice.
    BulkAction.DELETE: "$$ > 0",
    BulkAction.TAG: "$$ > 0",
}
"""Action → condition for flows for which it was not done since a moment, `$$`."""

# -- cancel

_ALONE = f"surgraph_flow_id is null and status in {CANCELLABLE} and compensating is null and compensable = 0"
ALONE = (
    f"select {FlowRow.columns()} from dwarf_flows f where flow_id {{in:$1}} and {_ALONE}"
    " and not exists (select 1 from dwarf_flows c where c.root_id = f.flow_id and c.surgraph_flow_id is not null)"
)
LOCK_ALONE = (
    f"select {FlowRow.columns()} from dwarf_flows where flow_id {{in:$1}} and {_ALONE} order by flow_id {{for_update}}"
)
# Not by the index of the called flows that live, which may be many: `coalesce` hides the status from the planner.
LIVING_CALLED = (
    "select 1 from dwarf_flows where root_id {in:$1} and surgraph_flow_id is not null"
    f" and coalesce(status, '') in {LIVE} limit 1"
)
# One text holds the ids and the final states, as JSON lists of two. Status and state are one version of the row.
_CANCEL_FLOWS = (
    "update dwarf_flows set status = 'cancelled', cancel_reason = $2, final_state = r.ended_with,"
    f" updated_at = {CHANGED_AT} from ({{rows}}) r where flow_id = r.member returning {FlowRow.columns()}"
)
CANCEL_FLOWS = Statement(
    postgres=_CANCEL_FLOWS.replace(
        "{rows}", "select (one ->> 0)::bigint as member, one ->> 1 as ended_with from json_array_elements($1::json) one"
    ),
    sqlite=_CANCEL_FLOWS.replace(
        "{rows}",
        "select json_extract(value, '$[0]') as member, json_extract(value, '$[1]') as ended_with from json_each($1)",
    ),
)


class CalledMeanwhile(Exception):
    """A flow that was to be cancelled with others has called a flow: it is to be cancelled by itself."""


async def cancel(
    tx: Tx, flow_ids: Sequence[int], reason: str, *, final_state: FinalState, compensates: Compensates
) -> TreeChange:
    """Cancel those of these root flows that called no flow and compensate nothing; each gets a final state (O10).

    Raises `CalledMeanwhile`.
    """
    alone = [flow_row(row) for row in await tx.fetch(ALONE, list(flow_ids))]
    ids = [flow.flow_id for flow in alone if not compensates(flow)]
    if not ids:
        return TreeChange()
    running = await lock_running(tx, ids)
    flows = [flow_row(row) for row in await tx.fetch(LOCK_ALONE, ids)]
    ids = [flow.flow_id for flow in flows]
    # From here on nothing follows. What committed while the locks were waited for may have left a successor or a child.
    if await tx.fetch(LIVING_CALLED, ids):
        raise CalledMeanwhile
    await tx.fetch(CANCEL_STEPS, ids)
    ended = await _final_states(tx, flows, final_state)
    return TreeChange([flow_row(row) for row in await tx.fetch(CANCEL_FLOWS, ended, reason)], [], running)


async def _final_states(tx: Tx, flows: Sequence[FlowRow], final_state: FinalState) -> str:
    """Return the final states of flows that are being cancelled, as `CANCEL_FLOWS` takes them."""
    steps: dict[int, list[StepRow]] = {flow.flow_id: [] for flow in flows}
    for step in map(step_row, await tx.fetch(STEPS, list(steps))):
        steps[step.flow_id].append(step)
    return orjson.dumps([(flow.flow_id, final_state(flow, steps[flow.flow_id]).decode()) for flow in flows]).decode()


# -- restart

LOCK_STOPPED = (
    "select flow_id from dwarf_flows where flow_id {in:$1} and surgraph_flow_id is null"
    f" and status in {listed(flow_sources(Status.RUNNING, 'restart'))} order by flow_id {{for_update}}"
)
DELETE_LATER_STEPS = "delete from dwarf_steps where flow_id {in:$1} and predecessor_id is not null returning flow_id"
RESET_ENTRY_STEPS = RESET_STEP.replace("state = $2, borrowed = $3, ", "created_at = {now}, ").replace(
    "where step_id = $1", "where flow_id {in:$1} and predecessor_id is null"
)
"""As `RESET_STEP`, for the entry steps of flows; their states stay as they are."""
RESTART_FLOWS = RESTART_FLOW.replace("flow_id = $1", "flow_id {in:$1}")


async def restart(tx: Tx, flow_ids: Sequence[int]) -> TreeChange:
    """Run those of these root flows that are stopped again from their entry steps, with the states they had (O13)."""
    running = await lock_running(tx, await with_called(tx, flow_ids))
    ids = [flow_id for (flow_id,) in await tx.fetch(LOCK_STOPPED, list(flow_ids))]
    if not ids:
        return TreeChange()
    called = (await with_called(tx, ids))[len(ids) :]
    if called:
        await delete_flows(tx, called)
    later = await tx.fetch(DELETE_LATER_STEPS, ids)
    ready = ready_steps(await tx.fetch(RESET_ENTRY_STEPS, ids))
    changed = [flow_row(row) for row in await tx.fetch(RESTART_FLOWS, ids)]
    return TreeChange(changed, ready, running, steps=len(later) + len(ready))


# -- restart of failed steps

TREE_OF = "select flow_id from dwarf_flows where flow_id = $1 or (root_id = $1 and surgraph_flow_id is not null)"
# A step that failed because the flow it called has failed runs again with that flow.
FAILED_STEPS = (
    "select s.step_id, s.token from dwarf_steps s where s.flow_id {in:$1} and s.status = 'failed' and s.compensates is null"
    " and s.updated_at < $2 and not exists (select 1 from dwarf_flows c where c.root_id = $3 and c.surgraph_step_id = s.step_id"
    " and c.surgraph_flow_id is not null and c.status = 'failed') order by s.step_id"
)


async def failed_steps(tx: Tx, shard: int, flow_id: int, before: int) -> list[Key]:
    """Return the steps of a root flow and of flows it called that failed by themselves, and before this moment."""
    flow_ids = [one for (one,) in await tx.fetch(TREE_OF, flow_id)]
    return [Key(shard, *row) for row in await tx.fetch(FAILED_STEPS, flow_ids, before, flow_id)]
