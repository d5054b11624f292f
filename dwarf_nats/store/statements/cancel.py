"""Cancel flows with their trees (O10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.rules.lifecycle import flow_sources
from dwarf_nats.rules.rows import FlowRow, TreeChange, flow_row
from dwarf_nats.store.dialect import CANCELLABLE, UNFINISHED
from dwarf_nats.store.statements.trees import CHANGED_AT, conflict, descendants, lock_running, steps_of, tree
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.ports import FinalState
    from dwarf_nats.store.database import Tx

CANCEL_STEPS = (
    f"update dwarf_steps set status = 'cancelled', parked = {Parked.NO:d}, claimed_by = null, lease_expires = null,"
    f" updated_at = {{now}} where flow_id {{in:$1}} and status in {UNFINISHED}"
)
CANCEL_FLOWS = (
    f"update dwarf_flows set status = 'cancelled', cancel_reason = $2, updated_at = {CHANGED_AT}"
    f" where flow_id {{in:$1}} and status in {CANCELLABLE} returning {FlowRow.columns()}"
)
FINAL_STATE = "update dwarf_flows set final_state = $2 where flow_id = $1"


async def cancel(tx: Tx, flow: FlowRow, reason: str, final_state: FinalState) -> TreeChange:
    """Cancel a flow with every flow above and below it and their live steps; each gets a final state (O10).

    Raises `Conflict` if the flow is terminal.
    """
    flows = await tree(tx, flow.root_id)
    if flow.flow_id in flows and not flows[flow.flow_id].status.terminal:
        change = await cancel_flows(tx, flow.root_id, None, reason=reason, final_state=final_state)
        if any(one.flow_id == flow.flow_id for one in change.changed):
            return change
    raise await conflict(tx, flow.flow_id, "cancelled", flow_sources(Status.CANCELLED))


async def cancel_flows(
    tx: Tx, root_id: int, tops: set[int] | None, *, reason: str, final_state: FinalState
) -> TreeChange:
    """Cancel the living flows of a tree, or the `tops` among them and what they called; each gets a final state."""
    change = TreeChange()
    while True:  # what committed while the locks were waited for may have left a successor or a child
        flows = await tree(tx, root_id)
        wanted = (
            set(flows) if tops is None else {one for top in tops if top in flows for one in descendants(flows, top)}
        )
        ids = [one for one in wanted if not flows[one].status.terminal]
        if not ids:
            break
        change.running += await lock_running(tx, ids)
        await tx.fetch(CANCEL_STEPS, ids)
        change.changed += [flow_row(row) for row in await tx.fetch(CANCEL_FLOWS, ids, reason)]
        await tx.fetch(CANCEL_STEPS, ids)
    for flow in change.changed:
        flow.final_state = final_state(flow, await steps_of(tx, [flow.flow_id])).decode()
        await tx.fetch(FINAL_STATE, flow.flow_id, flow.final_state)
    return change
