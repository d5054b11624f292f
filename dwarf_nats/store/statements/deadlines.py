"""Time out waits whose deadline has passed: of interrupts (P6) and for events (E2).

A step that waits with a deadline has it in `wait_until`. The partial index `dwarf_steps_deadlines` holds exactly these steps by
their deadlines, so the next one is its first entry, however many wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.rules.rows import TimedOutWaits, TreeChange
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.store.statements.pauses import resume_flows
from dwarf_nats.store.statements.trees import ready_steps
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx


class _Passed(NamedTuple):
    """A step whose deadline has passed, in the order of `LOCK_PASSED`."""

    step_id: int
    flow_id: int
    status: str


# As the partial index has it, word for word.
WITH_DEADLINE = f"wait_until is not null and (parked = {Parked.EVENT:d} or status = 'interrupted')"
NEXT_DEADLINE = f"select wait_until from dwarf_steps where {WITH_DEADLINE} order by wait_until, step_id limit 1"
# A step that another transaction has locked is being resumed, woken or timed out there: whoever comes first counts. No lock of
# a step is waited for, so locking them by deadline makes no circle (X10).
LOCK_PASSED = f"""
select {", ".join(_Passed._fields)} from dwarf_steps where {WITH_DEADLINE} and wait_until <= {{now}}
order by wait_until, step_id limit $1 {{skip_locked}}
"""
TIME_OUT = f"""
update dwarf_steps set status = 'pending', parked = {PARKED},
  event = case when status = 'interrupted' then event else '{{"timedOut":true}}' end,
  interrupt_timed_out = case when status = 'interrupted' then 1 else interrupt_timed_out end,
  interrupt_payload = null, wait_until = null, not_before = {{now}}, updated_at = {{now}}
where step_id {{in:$1}} returning step_id, priority, not_before
"""
NEXT_AND_NOW = f"select ({NEXT_DEADLINE}), {{now}}"


async def time_out_waits(tx: Tx, limit: int) -> TimedOutWaits:
    """Make up to `limit` steps pending whose deadline has passed, those that passed first before others.

    Flows up to the root run again unless something else pauses them.
    """
    passed = [_Passed(*row) for row in await tx.fetch(LOCK_PASSED, limit)]
    change = TreeChange()
    if passed:
        change.due = ready_steps(await tx.fetch(TIME_OUT, [step.step_id for step in passed]))
        flow_ids = {step.flow_id for step in passed if step.status == Status.INTERRUPTED}
        change.changed = await resume_flows(tx, flow_ids)
    ((next_at, now),) = await tx.fetch(NEXT_AND_NOW)
    return TimedOutWaits(change, len(passed), None if next_at is None else int(next_at) - int(now))
