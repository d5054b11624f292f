"""Trees of flows: a root flow and the flows it called, directly or not, all on one shard.

What operations on a tree share. Steps are locked before flows, flows from the leaf to the root (X10); a transaction that meets
a lock conflict all the same is done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.errors import Conflict, NotFound
from dwarf_nats.rules.rows import FlowRow, StepRow, flow_row, step_row
from dwarf_nats.rules.state_refs import override
from dwarf_nats.rules.steps import ReadyStep, StepRef
from dwarf_nats.store.dialect import PARKED, UNFINISHED
from dwarf_nats.store.statements import tags
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.store.database import Row, Tx
    from dwarf_nats.workflow.limits import Limits
    from dwarf_nats.workflow.state import State

CHANGED_AT = "{greatest}({now}, updated_at + 1)"
"""The time of a change of status: later than the one before, whatever the clock says."""
TREE = (
    f"select {FlowRow.columns()} from dwarf_flows where flow_id = $1 or (root_id = $1 and surgraph_flow_id is not null)"
)
STEPS = f"select {StepRow.columns()} from dwarf_steps where flow_id {{in:$1}} order by depth, step_id"
LOCK_UNFINISHED = (
    f"select step_id, token, status, parked from dwarf_steps where flow_id {{in:$1}} and status in {UNFINISHED}"
    " and compensates is null order by step_id {for_update}"
)
LOCK_STEPS = "select 1 from dwarf_steps where flow_id {in:$1} order by step_id {for_update}"
CALLED = "select flow_id from dwarf_flows where root_id {in:$1} and surgraph_flow_id is not null"
SET_RUNNING = (
    f"update dwarf_flows set status = 'running', updated_at = {CHANGED_AT}, final_state = null, final_borrowed = null,"
    f" error = null, cancel_reason = null where flow_id {{in:$1}} returning {FlowRow.columns()}"
)
RESET_STEP = (
    f"update dwarf_steps set status = 'pending', parked = {PARKED}, state = $2, borrowed = $3, changes = '{{}}', attempt = 0,"
    " error = null, successor_id = null, arrived = 0, cohort_size = null, arrivals = 0, failures = 0,"
    " cohort_error = null, problems = null, breakpoint_hit = 0, interrupt_payload = null, resumed = null,"
    " subgraph_result = null, subgraph_error = null, parked_changes = null, lease_seq = lease_seq + 1,"
    " wait_event = null, wait_key = null, wait_until = null, event = null, interrupt_timed_out = 0, copied_from = null,"
    " claimed_by = null, lease_expires = null, not_before = {now}, started_at = null, updated_at = {now},"
    " attempts = null, progress = null, progress_at = null,"
    " reruns = reruns + 1"
    " where step_id = $1 returning step_id, priority, not_before"
)
DELETE_FLOWS = "delete from dwarf_flows where flow_id {in:$1} returning tags, created_at, flow_id"


async def tree(tx: Tx, root_id: int) -> dict[int, FlowRow]:
    """Return the flows of a tree by their ids."""
    flows = [flow_row(row) for row in await tx.fetch(TREE, root_id)]
    return {flow.flow_id: flow for flow in flows}


class Called(Protocol):
    """What is asked of a flow here: its id, and that of the flow that called it."""

    @property
    def flow_id(self) -> int: ...
    @property
    def surgraph_flow_id(self) -> int | None: ...


def descendants(flows: Mapping[int, Called], flow_id: int) -> list[int]:
    """Return a flow and those it called, directly or not."""
    called: dict[int, list[int]] = {}
    for flow in flows.values():
        if flow.surgraph_flow_id is not None:
            called.setdefault(flow.surgraph_flow_id, []).append(flow.flow_id)
    found = [flow_id]
    for one in found:
        found += called.get(one, ())
    return found


def ancestors(flows: dict[int, FlowRow], flow_id: int) -> list[FlowRow]:
    """Return a flow and those that wait for it, up to the root."""
    path = []
    at: int | None = flow_id
    while at is not None and at in flows:
        path.append(flows[at])
        at = flows[at].surgraph_flow_id
    return path


async def with_called(tx: Tx, root_ids: Sequence[int]) -> list[int]:
    """Return these root flows and all flows of their trees."""
    return [*root_ids, *(flow_id for (flow_id,) in await tx.fetch(CALLED, list(root_ids)))]


async def steps_of(tx: Tx, flow_ids: Sequence[int]) -> list[StepRow]:
    """Return the steps of flows by depth and id, with their states."""
    return [step_row(row) for row in await tx.fetch(STEPS, list(flow_ids))]


async def lock_running(tx: Tx, flow_ids: Sequence[int]) -> list[StepRef]:
    """Lock the live steps of these flows, compensations left out; return those that run."""
    locked: set[int] | None = None
    while True:
        rows = await tx.fetch(LOCK_UNFINISHED, list(flow_ids))
        living = {step_id for step_id, _, _, _ in rows}
        if living == locked:
            return [
                StepRef(step_id, token)
                for step_id, token, status, parked in rows
                if status == Status.RUNNING and parked == Parked.NO
            ]
        locked = living  # a transaction that this one waited for may have left successors, which are not locked yet


async def set_running(tx: Tx, flow_ids: Sequence[int]) -> list[FlowRow]:
    """Make flows running, without the end they had."""
    return [flow_row(row) for row in await tx.fetch(SET_RUNNING, list(flow_ids))]


async def delete_flows(tx: Tx, flow_ids: Sequence[int]) -> None:
    """Remove flows, their steps and their tags."""
    await tx.fetch("delete from dwarf_steps where flow_id {in:$1}", list(flow_ids))
    await tags.removed(tx, await tx.fetch(DELETE_FLOWS, list(flow_ids)))


def with_overrides(state: str, refs: str | None, overrides: State, limits: Limits) -> tuple[str, str | None]:
    """Return a stored state and its references with overrides. Raises `TooLarge`."""
    text, refs = override(state, refs, overrides)
    limits.check_bytes(len(text), "the state with these overrides")
    return text, refs


async def conflict(tx: Tx, flow_id: int, verb: str, wanted: Sequence[Status]) -> Conflict | NotFound:
    """Make the refusal of an operation: the flow is not there, or in a status that is not `wanted`."""
    rows = await tx.fetch("select status, compensating from dwarf_flows where flow_id = $1", flow_id)
    if not rows:
        return NotFound("no such flow")
    ((status, compensating),) = rows
    if compensating is not None:
        return Conflict(f"the flow is being compensated, and will be {compensating} after that: wait for its end")
    *others, last = wanted
    allowed = f"{', '.join(others)} or {last}" if others else last
    return Conflict(f"the flow is {status}: to be {verb} it must be {allowed}")


def ready_steps(rows: Sequence[Row]) -> list[ReadyStep]:
    """Return steps that became pending, from rows `(step id, priority, not before)`."""
    return [ReadyStep(*row) for row in rows]
