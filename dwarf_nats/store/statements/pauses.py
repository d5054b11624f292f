"""Pauses: interrupts and breakpoints set in a settlement, continued and changed by operations (P2, P3, O11, O12).

A flow is interrupted while one of its steps, or a flow it called, is paused. Flows are locked from the leaf to the root (X10).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.errors import Conflict, NotFound
from dwarf_nats.rules import breakpoints
from dwarf_nats.rules import pauses as shown
from dwarf_nats.rules.rows import FlowRow, TreeChange
from dwarf_nats.rules.settlement import EndedFlow, FlowEnd, Settlement, SettleResult
from dwarf_nats.rules.steps import FlowRef
from dwarf_nats.store.commands import Cascade, Query
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.store.statements.trees import descendants, ready_steps, set_running, tree, with_overrides
from dwarf_nats.workflow.limits import UNLIMITED, Limits
from dwarf_nats.workflow.state import State, decode_state, encode_state
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx


class _LockedFlow(NamedTuple):
    """A flow as a pause finds it, in the order of `LOCK_FLOW`."""

    flow_id: int
    token: str
    workflow: str
    status: str
    thread_id: int
    notify: str
    surgraph_flow_id: int | None
    tags: str | None


class _PausedRow(NamedTuple):
    """A paused step, in the order of `LOCK_PAUSES`."""

    step_id: int
    flow_id: int
    state: str
    changes: str
    interrupt_payload: str | None
    borrowed: str | None
    updated_at: int


BREAKPOINT_HIT = "update dwarf_steps set breakpoint_hit = 1, wait_until = null where step_id = $1"
INTERRUPT_PAYLOAD = "update dwarf_steps set interrupt_payload = $2, wait_until = {now} + $3 where step_id = $1"
LOCK_FLOW = f"select {', '.join(_LockedFlow._fields)} from dwarf_flows where flow_id = $1 {{for_update}}"
# A transaction may have begun before one that has already committed a pause: asked while the root is locked, so that a pause
# that was seen as the oldest stays the oldest.
KEEP_PAUSE_ORDER = """
update dwarf_steps set updated_at = {greatest}(updated_at,
  1 + coalesce((
    select s.updated_at from dwarf_steps s where s.flow_id = $2 and s.status = 'interrupted' and s.step_id <> $1
    order by s.updated_at desc limit 1), 0),
  1 + coalesce((
    select max((
      select s.updated_at from dwarf_steps s where s.flow_id = f.flow_id and s.status = 'interrupted' and s.step_id <> $1
      order by s.updated_at desc limit 1))
    from dwarf_flows f where f.root_id = $2 and f.surgraph_flow_id is not null), 0))
where step_id = $1 returning updated_at, wait_until
"""
INTERRUPT = """
update dwarf_flows set status = 'interrupted', updated_at = {greatest}({now}, updated_at + 1) where flow_id = $1
returning updated_at
"""
_PAUSES = f"select {', '.join(_PausedRow._fields)} from dwarf_steps where status = 'interrupted'"
# In the order in which all transactions lock steps (X10).
LOCK_PAUSES = f"{_PAUSES} and flow_id {{in:$1}} order by step_id {{for_update}}"
LOCK_PAUSE = f"{_PAUSES} and step_id = $1 {{for_update}}"
RESUME = (
    f"update dwarf_steps set status = 'pending', parked = {PARKED}, resumed = $2, interrupt_payload = null,"
    " wait_until = null, not_before = {now}, updated_at = {now} where step_id = $1 returning step_id, priority, not_before"
)
RESUME_BREAK = (
    f"update dwarf_steps set status = 'pending', parked = {PARKED}, state = $2, borrowed = $3, changes = $4,"
    " not_before = {now}, updated_at = {now} where step_id = $1 returning step_id, priority, not_before"
)
LOCK_STATUSES = (
    "select flow_id, status, surgraph_flow_id from dwarf_flows where flow_id {in:$1} order by flow_id {for_update}"
)
STILL_PAUSED = """
select f.flow_id from dwarf_flows f where f.flow_id {in:$1} and (
  exists (select 1 from dwarf_steps s where s.flow_id = f.flow_id and s.status = 'interrupted')
  or exists (select 1 from dwarf_flows c where c.root_id = f.root_id and c.surgraph_flow_id is not null
    and c.surgraph_flow_id = f.flow_id and c.status = 'interrupted'))
"""
LOCK_BREAKPOINTS = (
    "select flow_id, status, breakpoints from dwarf_flows where flow_id {in:$1} order by flow_id {for_update}"
)
SET_BREAKPOINTS = "update dwarf_flows set breakpoints = $2 where flow_id = $1"


# -- in a settlement


def pause(group: Sequence[Settlement], settled: SettleResult) -> Cascade:
    """Interrupt the flows of paused steps, and every flow that waits for them; the first pause wins (P2)."""
    interrupted: dict[int, FlowEnd] = {}
    for one in sorted(group, key=lambda one: (one.step.flow.root_id, one.step.step_id)):
        assert one.pause is not None
        payload = one.pause.payload
        if payload is None:
            yield Query(BREAKPOINT_HIT, (one.step.step_id,))
        else:
            yield Query(INTERRUPT_PAYLOAD, (one.step.step_id, bytes(payload).decode(), one.wait_us))
        flow_id: int | None = one.step.flow.flow_id
        path = []
        first = True
        while flow_id is not None:
            (row,) = yield Query(LOCK_FLOW, (flow_id,))
            flow = _LockedFlow(*row)
            first = first and flow.status == Status.RUNNING
            if first:
                ((at,),) = yield Query(INTERRUPT, (flow_id,))
                ref = FlowRef(
                    key=f"{one.step.flow.shard}-{flow.flow_id}-{flow.token}",
                    flow_id=flow_id,
                    workflow=flow.workflow,
                    thread_id=flow.thread_id,
                    notify=flow.notify,
                    surgraph_flow_id=flow.surgraph_flow_id,
                )
                interrupted[flow_id] = FlowEnd(Status.INTERRUPTED, one.pause.state_json, None, payload)
                settled.ended.append(EndedFlow(ref, interrupted[flow_id], at, flow.tags))
            path.append(flow_id)
            flow_id = flow.surgraph_flow_id
        ((since, until),) = yield Query(KEEP_PAUSE_ORDER, (one.step.step_id, one.step.flow.root_id))
        for above in path:
            if above in interrupted:
                shown.add(interrupted[above], one, since, until)


# -- by an operation


class PauseOf(NamedTuple):
    """Where a pause is looked for: in a flow and those it called, or at just one step."""

    flow_id: int
    root_id: int
    step_id: int | None = None


async def resume(tx: Tx, where: PauseOf, data: str) -> TreeChange:
    """Continue the oldest interrupt, or that of the step, with `data` (O11).

    Raises `Conflict` if there is none.
    """
    paused = await _lock_pause(tx, where, interrupt=True)
    ready = ready_steps(await tx.fetch(RESUME, paused.step_id, data))
    return TreeChange(await resume_flows(tx, [paused.flow_id]), ready)


async def resume_break(tx: Tx, where: PauseOf, overrides: State, *, limits: Limits = UNLIMITED) -> TreeChange:
    """Continue the oldest breakpoint, or that of the step, with `overrides` in its state (O11).

    Raises `Conflict` if there is none, `TooLarge` if the state would be with the overrides.
    """
    paused = await _lock_pause(tx, where, interrupt=False)
    state, refs = with_overrides(paused.state, paused.borrowed, overrides, limits)
    changes = _without(paused.changes, overrides)
    ready = ready_steps(await tx.fetch(RESUME_BREAK, paused.step_id, state, refs, changes))
    return TreeChange(await resume_flows(tx, [paused.flow_id]), ready)


async def _lock_pause(tx: Tx, where: PauseOf, *, interrupt: bool) -> _PausedRow:
    """Lock the pause that is to be continued. Raises `NotFound`, and `Conflict` if nothing is paused in this way."""
    if where.step_id is None:
        flow_ids = descendants(await tree(tx, where.root_id), where.flow_id)
        rows = await tx.fetch(LOCK_PAUSES, flow_ids)
    else:
        rows = await tx.fetch(LOCK_PAUSE, where.step_id)
    found = sorted((_PausedRow(*row) for row in rows), key=lambda one: (one.updated_at, one.step_id))
    for one in found:
        if (one.interrupt_payload is not None) is interrupt:
            return one
    raise await _not_paused(tx, where, found=bool(found), interrupt=interrupt)


def _without(changes: str, overrides: State) -> str:
    """Return a step's earlier changes without those that are overridden, so that its task sees the overrides."""
    if not overrides:
        return changes
    kept = {name: value for name, value in decode_state(changes).items() if name not in overrides}
    return encode_state(kept).decode()


async def _not_paused(tx: Tx, where: PauseOf, *, found: bool, interrupt: bool) -> Conflict | NotFound:
    """Make the refusal of a resume: what it names does not exist, is not paused, or only in the other way (`found`)."""
    if where.step_id is None:
        what, rows = "flow", await tx.fetch("select status from dwarf_flows where flow_id = $1", where.flow_id)
    else:
        what, rows = "step", await tx.fetch("select status from dwarf_steps where step_id = $1", where.step_id)
    if not rows:
        return NotFound(f"no such {what}")
    if not found:
        ((status,),) = rows
        return Conflict(f"the {what} is {status}: to be resumed it must be interrupted")
    if interrupt:
        return Conflict(f"the {what} is paused by a breakpoint, not by an interrupt: continue it with resume_break")
    return Conflict(f"the {what} is paused by an interrupt, not by a breakpoint: continue it with resume and data")


async def resume_flows(tx: Tx, flow_ids: Collection[int]) -> list[FlowRow]:
    """Make these flows and those above them running in which nothing is paused any more, from the leaf to the root.

    Return those that changed.
    """
    changed: list[FlowRow] = []
    while flow_ids:
        rows = await tx.fetch(LOCK_STATUSES, sorted(flow_ids))
        interrupted = [flow_id for flow_id, status, _ in rows if status == Status.INTERRUPTED]
        # Asked after the flows are locked, so that a pause that came before is seen, and one that comes later waits.
        paused = {flow_id for (flow_id,) in await tx.fetch(STILL_PAUSED, interrupted)} if interrupted else set()
        if free := [flow_id for flow_id in interrupted if flow_id not in paused]:
            changed += await set_running(tx, free)
        flow_ids = {above for flow_id, _, above in rows if above is not None and flow_id not in paused}
    return changed


async def break_before(tx: Tx, flow_id: int, root_id: int, task: str, *, enabled: bool) -> None:
    """Set or clear a breakpoint on the flow and on those it called that still live (O12).

    Raises `Conflict` if the flow is terminal.
    """
    flows = await tree(tx, root_id)
    for number, status, names in await tx.fetch(LOCK_BREAKPOINTS, descendants(flows, flow_id)):
        if Status(status).terminal:
            if number == flow_id:
                raise Conflict(f"the flow is {status}: a breakpoint needs one that can still come to it")
            continue
        changed = breakpoints.changed(breakpoints.read(names), task, enabled=enabled)
        await tx.fetch(SET_BREAKPOINTS, number, breakpoints.stored(changed))
