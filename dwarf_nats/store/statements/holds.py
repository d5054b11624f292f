"""Steps on hold: parked aside, each noted in `dwarf_on_hold` with the hold it is parked for (K2).

The steps have no column and no index for it: a deployment without holds pays nothing. A step may leave its hold otherwise, by a
cancel for example; its row is removed when the hold ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.rules.holds import HoldCandidate
from dwarf_nats.rules.steps import ReadyStep
from dwarf_nats.store.dialect import PARKED, Statement
from dwarf_nats.store.statements.breakers import READY_AT
from dwarf_nats.store.statements.ready import READY, READY_ORDER
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx

# In the order of the ready queue, so that a page costs no more however many steps come before it.
_PAGE = f"""
select p.step_id, p.url, f.workflow, p.priority, p.fairness_key, p.not_before from (
  select step_id, flow_id, url, priority, fairness_key, not_before from dwarf_steps {{index}}
  where {READY} and (priority, fairness_key, not_before, step_id) > ($1, $2, $3, $4)
  order by {READY_ORDER} limit $5) p {{{{flow_of:p}}}}
order by p.priority, p.fairness_key, p.not_before, p.step_id
"""
PAGE = Statement(postgres=_PAGE.format(index=""), sqlite=_PAGE.format(index="indexed by dwarf_steps_ripe"))
FIRST_PAGE = HoldCandidate(step_id=0, url="", workflow="", priority=-1, fairness_key="", not_before=0)
# What is just being claimed is passed over: whoever claims it parks it.
PARK_READY = f"""
update dwarf_steps set parked = {Parked.HOLD:d} where step_id in (
  select step_id from dwarf_steps where step_id {{in:$1}} and {READY} order by step_id {{skip_locked}})
returning step_id
"""
# A step that was never dispatched before has not started by being claimed.
PARK_CLAIMED = f"""
update dwarf_steps set status = 'pending', parked = {Parked.HOLD:d}, claimed_by = null, lease_expires = null,
  updated_at = {{now}}, started_at = case when lease_seq <= 1 then null else started_at end
where step_id {{in:$1}} and status = 'running' and parked = {Parked.NO:d} and claimed_by = $2
returning step_id
"""
NOTE = (
    "insert into dwarf_on_hold (hold, step_id) select $1, step_id from dwarf_steps where step_id {in:$2}"
    " on conflict do nothing"
)
# From one hold to the next through the index, however many steps each has.
HOLDS = """
with recursive h(hold) as (
  select min(hold) from dwarf_on_hold
  union all
  select (select min(o.hold) from dwarf_on_hold o where o.hold > h.hold) from h where h.hold is not null)
select hold from h where hold is not null
"""
NOTED = "select step_id from dwarf_on_hold where hold = $1 order by step_id limit $2"
LOCK = f"select step_id from dwarf_steps where step_id {{in:$1}} and parked = {Parked.HOLD:d} order by step_id {{for_update}}"
# If another hold stops them as well, they are parked for that one when they are claimed.
RELEASE = f"""
update dwarf_steps set parked = {PARKED}, updated_at = {READY_AT} where step_id {{in:$1}}
returning step_id, priority, not_before, parked
"""
FORGET = "delete from dwarf_on_hold where hold = $1 and step_id {in:$2}"
COUNTS = f"""
select h.hold, count(*) from dwarf_on_hold h join dwarf_steps s on s.step_id = h.step_id
where h.hold {{in_text:$1}} and s.parked = {Parked.HOLD:d} group by h.hold
"""


async def park_ready(tx: Tx, hold: str, step_ids: Sequence[int]) -> int:
    """Park ready steps for a hold."""
    return await _noted(tx, hold, [step_id for (step_id,) in await tx.fetch(PARK_READY, list(step_ids))])


async def park_claimed(tx: Tx, hold: str, step_ids: Sequence[int], replica_id: int) -> int:
    """Park claimed steps for a hold."""
    return await _noted(tx, hold, [step_id for (step_id,) in await tx.fetch(PARK_CLAIMED, list(step_ids), replica_id)])


async def _noted(tx: Tx, hold: str, parked: list[int]) -> int:
    if parked:
        await tx.fetch(NOTE, hold, parked)
    return len(parked)


async def release(tx: Tx, hold: str, limit: int) -> tuple[list[ReadyStep], bool]:
    """Release steps of a hold, and forget that they were on hold."""
    noted = [step_id for (step_id,) in await tx.fetch(NOTED, hold, limit)]
    if not noted:
        return [], False
    locked = [step_id for (step_id,) in await tx.fetch(LOCK, noted)]
    rows = await tx.fetch(RELEASE, locked) if locked else []
    await tx.fetch(FORGET, hold, noted)
    ready = [ReadyStep(step_id, priority, due) for step_id, priority, due, parked in rows if parked == Parked.NO]
    return ready, len(noted) == limit
