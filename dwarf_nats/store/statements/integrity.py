"""Find and repair flows that are inconsistent (B5).

A step that waits and the child it waits for change in one transaction, so none of this should ever be found: only a manual
change of the database, or a defect, leaves it behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import TreeChange
from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.store.dialect import CANCELLABLE, ENDED, LIVE, UNDER_WAY, UNFINISHED
from dwarf_nats.store.statements.cancel import cancel_flows
from dwarf_nats.store.statements.children import WAKE, end_of_child
from dwarf_nats.store.statements.state_refs import resolve
from dwarf_nats.store.statements.trees import delete_flows, descendants, lock_running, tree
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.state import encode_state
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.ports import FinalState
    from dwarf_nats.store.database import Tx

ORPHANED_PARENTS = f"""
select s.step_id, c.status, c.final_state, c.final_borrowed, c.error from dwarf_steps s
join dwarf_flows f on f.flow_id = s.flow_id and f.status in {LIVE}
left join dwarf_flows c on c.root_id = f.root_id and c.surgraph_step_id = s.step_id and c.surgraph_flow_id is not null
where s.parked = {Parked.CHILD:d} and s.status = 'running' and (c.flow_id is null or c.status in {ENDED})
order by s.step_id limit 1000
"""
ORPHANED_CHILDREN = f"""
select c.flow_id, c.root_id, p.flow_id is null from dwarf_flows c
left join dwarf_flows p on p.flow_id = c.surgraph_flow_id
where c.surgraph_flow_id is not null and c.status in {CANCELLABLE}
  and (p.flow_id is null or (p.status in {ENDED} and c.compensating is null))
order by c.flow_id limit 1000
"""
STALLED = f"""
select f.flow_id from dwarf_flows f
where f.status = 'running' and f.updated_at < {{now}} - $1
  -- The compensations of a flow may all be in flows that it called, and those may wait for a flow that called it.
  and (f.compensating is null or not exists (select 1 from dwarf_flows c join dwarf_steps s on s.flow_id = c.flow_id
    where (c.flow_id = f.root_id or (c.root_id = f.root_id and c.surgraph_flow_id is not null))
      and s.compensates is not null and s.status in {UNDER_WAY}))
  and not exists (select 1 from dwarf_steps s where s.flow_id = f.flow_id
    and (s.status in {UNFINISHED} or s.updated_at > {{now}} - $1))
order by f.flow_id limit 1000
"""


async def resume_orphaned_parents(tx: Tx) -> TreeChange:
    """Make steps pending that wait for a child which is gone or has ended, with its end as their result."""
    change = TreeChange()
    for step_id, status, final_state, refs, stored_error in await tx.fetch(ORPHANED_PARENTS):
        result: str | None = None
        error: str | None = "the sub-workflow is gone"
        if status is not None:
            state = encode_state(await resolve(tx.fetch, final_state or "{}", refs)).decode()
            result, error = end_of_child(Status(status), state, ErrorInfo.from_stored(stored_error))
        woken = await tx.fetch(WAKE, step_id, result, error)
        change.due += [ReadyStep(woken_id, priority, 0) for woken_id, priority in woken]
    return change


async def cancel_orphaned_children(tx: Tx, final_state: FinalState) -> TreeChange:
    """Cancel flows whose caller has ended, and remove those whose caller is gone."""
    change = TreeChange()
    for flow_id, root_id, caller_is_gone in await tx.fetch(ORPHANED_CHILDREN):
        doomed = descendants(await tree(tx, root_id), flow_id)
        if caller_is_gone:
            change.running += await lock_running(tx, doomed)
            await delete_flows(tx, doomed)
        else:
            cancelled = await cancel_flows(
                tx, root_id, set(doomed), reason="its caller has ended", final_state=final_state
            )
            change.changed += cancelled.changed
            change.running += cancelled.running
    return change


async def find_stalled_flows(tx: Tx, age_ms: int) -> list[int]:
    """Return running flows in which no step has lived for `age_ms`."""
    return [flow_id for (flow_id,) in await tx.fetch(STALLED, age_ms * 1000)]
