"""Sweeps: what a crash can leave, looked for now and then (B5).

A step that waits and the child it waits for change in one transaction, so none of this should ever be found; it is what
hands in the database, or a defect, leave behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.rules.rows import TreeChange
from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.store import steering
from dwarf_nats.store.dialect import CANCELLABLE, ENDED, LIVE, UNFINISHED
from dwarf_nats.store.lent import whole
from dwarf_nats.store.trees import WAKE, end_of_child
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.state import encode_state
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx
    from dwarf_nats.store.steering import FinalState

FORLORN = f"""
select s.step_id, c.status, c.final_state, c.final_borrowed, c.error from dwarf_steps s
join dwarf_flows f on f.flow_id = s.flow_id and f.status in {LIVE}
left join dwarf_flows c on c.root_id = f.root_id and c.surgraph_step_id = s.step_id and c.surgraph_flow_id is not null
where s.parked = {Parked.CHILD:d} and s.status = 'running' and (c.flow_id is null or c.status in {ENDED})
order by s.step_id limit 1000
"""
UNWANTED = f"""
select c.flow_id, c.root_id, p.flow_id is null from dwarf_flows c
left join dwarf_flows p on p.flow_id = c.surgraph_flow_id
where c.surgraph_flow_id is not null and c.status in {CANCELLABLE}
  and (p.flow_id is null or p.status in {ENDED})
order by c.flow_id limit 1000
"""
ORPHANED = f"""
select f.flow_id from dwarf_flows f
where f.status = 'running' and f.updated_at < {{now}} - $1
  and not exists (select 1 from dwarf_steps s where s.flow_id = f.flow_id
    and (s.status in {UNFINISHED} or s.updated_at > {{now}} - $1))
order by f.flow_id limit 1000
"""


async def resume_orphaned_parents(tx: Tx) -> TreeChange:
    """Steps that wait for a child that is gone or has ended run again, told so."""
    steered = TreeChange()
    for step_id, status, final_state, borrowed, error in await tx.fetch(FORLORN):
        result: str | None = None
        words: str | None = "the sub-workflow is gone"
        if status is not None:
            state = await whole(tx.fetch, final_state or "{}", borrowed)
            result, words = end_of_child(Status(status), encode_state(state).decode(), ErrorInfo.from_stored(error))
        steered.due += [ReadyStep(int(row[0]), int(row[1]), 0) for row in await tx.fetch(WAKE, step_id, result, words)]
    return steered


async def cancel_orphaned_children(tx: Tx, final_state: FinalState) -> TreeChange:
    """Flows whose caller has ended are cancelled; those whose caller is gone are removed."""
    steered = TreeChange()
    for flow_id, root_id, gone in await tx.fetch(UNWANTED):
        flows = await steering.tree(tx, root_id)
        mine = steering.descendants(flows, flow_id)
        if gone:
            steered.running += await steering.lock_running(tx, mine)
            await steering.delete_trees(tx, mine)
        else:
            one = await steering.cancel_flows(tx, root_id, set(mine), "its caller has ended", final_state)
            steered.changed += one.changed
            steered.running += one.running
    return steered


async def orphaned(tx: Tx, age_ms: int) -> list[int]:
    """Running flows in which no step has lived for `age_ms`."""
    return [int(row[0]) for row in await tx.fetch(ORPHANED, age_ms * 1000)]
