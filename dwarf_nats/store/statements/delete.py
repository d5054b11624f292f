"""Remove flows with their trees (O1, O9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import Conflict
from dwarf_nats.store.statements import keys
from dwarf_nats.store.statements.trees import LOCK_STEPS, delete_flows, with_called
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx

# A paused flow may have called one that is being compensated.
LOCK_NOT_RUNNING = (
    "select f.flow_id from dwarf_flows f where f.flow_id {in:$1} and f.status <> 'running'"
    " and (f.status <> 'interrupted' or not exists (select 1 from dwarf_flows c"
    " where c.root_id = f.flow_id and c.surgraph_flow_id is not null and c.compensating is not null))"
    " order by f.flow_id {for_update}"
)
STATUS = "select status, compensating from dwarf_flows where flow_id = $1"
COMPLETED = (
    "select flow_id from dwarf_flows where delete_on_completion = 1 and status = 'completed'"
    " and updated_at < {now} - $1 order by updated_at limit $2"
)


async def delete(tx: Tx, flow_id: int) -> None:
    """Remove a root flow with its tree. Raises `Conflict` while it runs."""
    removed = await delete_not_running(tx, [flow_id])
    if removed:
        return
    for status, compensating in await tx.fetch(STATUS, flow_id):
        if compensating is not None or status != Status.RUNNING:
            raise Conflict("completed steps are being compensated: wait for the end of that, then delete the flow")
        raise Conflict("the flow is running: cancel it first, then delete it")


async def delete_found(tx: Tx, statement: str, args: Sequence[Any]) -> int:
    """Remove the root flows that a statement finds and that do not run, with their trees; return the number of root flows."""
    return len(await delete_not_running(tx, sorted(flow_id for (flow_id,) in await tx.fetch(statement, *args))))


async def delete_not_running(tx: Tx, root_ids: Sequence[int]) -> list[int]:
    """Remove those of these root flows that do not run, with their trees; return them (O9)."""
    if not root_ids:
        return []
    await tx.fetch(LOCK_STEPS, await with_called(tx, root_ids))
    doomed = [flow_id for (flow_id,) in await tx.fetch(LOCK_NOT_RUNNING, list(root_ids))]
    if doomed:
        await delete_trees(tx, doomed)
    return doomed


async def delete_trees(tx: Tx, root_ids: Sequence[int]) -> None:
    """Remove these root flows, which are locked, with their trees; their idempotency keys become free."""
    await keys.forget(tx, root_ids)
    await delete_flows(tx, await with_called(tx, root_ids))
