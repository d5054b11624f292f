"""Cancel flows with their trees (O10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.rules.lifecycle import flow_sources
from dwarf_nats.rules.rows import FlowRow, TreeChange, flow_row
from dwarf_nats.store.commands import carried_out
from dwarf_nats.store.dialect import CANCELLABLE, UNFINISHED
from dwarf_nats.store.statements import compensation
from dwarf_nats.store.statements.trees import CHANGED_AT, conflict, descendants, lock_running, steps_of, tree
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.ports import Compensates, FinalState
    from dwarf_nats.store.database import Tx

CANCEL_STEPS = (
    f"update dwarf_steps set status = 'cancelled', parked = {Parked.NO:d}, claimed_by = null, lease_expires = null,"
    f" updated_at = {{now}} where flow_id {{in:$1}} and status in {UNFINISHED} and compensates is null"
)
CANCEL_FLOWS = (
    f"update dwarf_flows set status = 'cancelled', cancel_reason = $2, updated_at = {CHANGED_AT}"
    f" where flow_id {{in:$1}} and status in {CANCELLABLE} and compensating is null returning {FlowRow.columns()}"
)
FINAL_STATE = "update dwarf_flows set final_state = $2 where flow_id = $1"


@dataclass(slots=True)
class _Cancelled(TreeChange):
    """`paused`: the flows among those cancelled that were interrupted."""

    paused: set[int] = field(default_factory=set)


async def cancel(
    tx: Tx, flow: FlowRow, reason: str, *, final_state: FinalState, compensates: Compensates
) -> TreeChange:
    """Cancel a flow with every flow above and below it and their live steps; each gets a final state (O10).

    If completed steps of the tree are to be compensated, its flows are running until that is over (N9). Raises `Conflict` if
    the flow is terminal, or the tree is being compensated already.
    """
    flows = await tree(tx, flow.root_id)
    at, root = flows.get(flow.flow_id), flows.get(flow.root_id)
    if at is not None and root is not None and not at.status.terminal and root.compensating is None:
        change, flows = await _cancel_living(tx, flow.root_id, None, reason=reason, final_state=final_state)
        if any(one.flow_id in (flow.flow_id, flow.root_id) for one in change.changed):
            return await _compensated_first(tx, change, flows, compensates)
    raise await conflict(tx, flow.flow_id, "cancelled", flow_sources(Status.CANCELLED))


async def _compensated_first(
    tx: Tx, change: _Cancelled, flows: dict[int, FlowRow], compensates: Compensates
) -> TreeChange:
    """Begin the compensation of a tree whose flows were just cancelled, if there is something to compensate.

    `flows`: the tree as it is now. Return the flows whose status is another for it: those that were interrupted run.
    """
    wanted = any(flow.compensating is not None or flow.compensable for flow in flows.values())
    if not wanted and not any(compensates(flow) for flow in change.changed):
        return change
    begun = compensation.cancel(change.changed[0].root_id, sorted(flow.flow_id for flow in change.changed))
    marked, due = await carried_out(tx, begun)
    if not marked:
        return change
    return TreeChange([flow for flow in marked if flow.flow_id in change.paused], due, change.running)


async def cancel_flows(tx: Tx, root_id: int, tops: set[int], *, reason: str, final_state: FinalState) -> TreeChange:
    """Cancel living flows of a tree, the `tops` and those they called; each gets a final state. Nothing is compensated."""
    change, _ = await _cancel_living(tx, root_id, tops, reason=reason, final_state=final_state)
    return change


async def _cancel_living(
    tx: Tx, root_id: int, tops: set[int] | None, *, reason: str, final_state: FinalState
) -> tuple[_Cancelled, dict[int, FlowRow]]:
    """Cancel the living flows of a tree, or the `tops` among them and what they called; return the tree as it is then."""
    change = _Cancelled()
    while True:  # what committed while the locks were waited for may have left a successor or a child
        flows = await tree(tx, root_id)
        wanted = (
            set(flows) if tops is None else {one for top in tops if top in flows for one in descendants(flows, top)}
        )
        ids = [one for one in wanted if not flows[one].status.terminal and flows[one].compensating is None]
        if not ids:
            break
        change.running += await lock_running(tx, ids)
        change.paused |= {one for one in ids if flows[one].status is Status.INTERRUPTED}
        await tx.fetch(CANCEL_STEPS, ids)
        change.changed += [flow_row(row) for row in await tx.fetch(CANCEL_FLOWS, ids, reason)]
        await tx.fetch(CANCEL_STEPS, ids)
    for flow in change.changed:
        flow.final_state = final_state(flow, await steps_of(tx, [flow.flow_id])).decode()
        await tx.fetch(FINAL_STATE, flow.flow_id, flow.final_state)
    return change, flows
