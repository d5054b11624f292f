"""Steering: what operations do to flows and their trees, one transaction each (O9-O15).

A tree is a root flow and the flows it called, all on one shard. Steps are locked before flows, flows from the leaf to the root
(X10); what meets a lock conflict all the same is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import Conflict, NotFound
from dwarf_nats.rules import breakpoints
from dwarf_nats.rules.lifecycle import flow_sources
from dwarf_nats.rules.rows import FlowRow, Paused, StepRow, TreeChange, flow_row, step_row
from dwarf_nats.rules.state_refs import override
from dwarf_nats.rules.steps import ReadyStep, StepRef
from dwarf_nats.store import deployment
from dwarf_nats.store.dialect import CANCELLABLE, PARKED, UNFINISHED
from dwarf_nats.store.statements.create import create_one
from dwarf_nats.workflow.limits import UNLIMITED, Limits
from dwarf_nats.workflow.state import State, decode_state, encode_state
from dwarf_nats.workflow.status import Parked, Status

if TYPE_CHECKING:
    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Tx


FinalState = Callable[[FlowRow, list[StepRow]], bytes]
"""Makes the final state of a flow from its steps."""
_TREE = (
    f"select {FlowRow.columns()} from dwarf_flows where flow_id = $1 or (root_id = $1 and surgraph_flow_id is not null)"
)
_CANCEL_STEPS = (
    f"update dwarf_steps set status = 'cancelled', parked = {Parked.NO:d}, claimed_by = null, lease_expires = null,"
    " updated_at = {now}"
    f" where flow_id {{in:$1}} and status in {UNFINISHED}"
)
UNRUN = (
    f"update dwarf_steps set status = 'pending', parked = {PARKED}, state = $2, borrowed = $3, changes = '{{}}', attempt = 0,"
    " error = null, successor_id = null, arrived = 0, cohort_size = null, arrivals = 0, failures = 0,"
    " cohort_error = null, problems = null, breakpoint_hit = 0, interrupt_payload = null, resumed = null,"
    " subgraph_result = null,"
    " subgraph_error = null, parked_changes = null, lease_seq = lease_seq + 1, claimed_by = null, lease_expires = null,"
    " not_before = {now}, started_at = null, updated_at = {now}"
    " where step_id = $1 returning step_id, priority, not_before"
)
_AT = "{greatest}({now}, updated_at + 1)"


async def tree(tx: Tx, root_id: int) -> dict[int, FlowRow]:
    """The flows of a tree by their ids."""
    flows = [flow_row(row) for row in await tx.fetch(_TREE, root_id)]
    return {flow.flow_id: flow for flow in flows}


def descendants(flows: dict[int, FlowRow], flow_id: int) -> list[int]:
    """A flow and those it called, directly or not."""
    called: dict[int, list[int]] = {}
    for flow in flows.values():
        if flow.surgraph_flow_id is not None:
            called.setdefault(flow.surgraph_flow_id, []).append(flow.flow_id)
    found = [flow_id]
    for one in found:
        found += called.get(one, ())
    return found


def ancestors(flows: dict[int, FlowRow], flow_id: int) -> list[FlowRow]:
    """A flow and those that wait for it, up to the root."""
    path = []
    at: int | None = flow_id
    while at is not None and at in flows:
        path.append(flows[at])
        at = flows[at].surgraph_flow_id
    return path


# -- pauses


async def pauses(tx: Tx, flow_ids: Sequence[int], *, lock: bool = False) -> list[Paused]:
    """The paused steps of these flows, the oldest pause first."""
    locking = " order by step_id {for_update}" if lock else " order by updated_at, step_id"
    rows = await tx.fetch(
        "select step_id, flow_id, state, changes, interrupt_payload, borrowed, updated_at from dwarf_steps"
        f" where flow_id {{in:$1}} and status = 'interrupted'{locking}",
        list(flow_ids),
    )
    return [Paused(*row[:6]) for row in sorted(rows, key=lambda row: (row[6], row[0]))]


async def resume(tx: Tx, flow_id: int, root_id: int, data: str) -> TreeChange:
    """Continue the oldest interrupt of the flow, or of one it called, with `data` (O11).

    Raises `Conflict` if there is none.
    """
    flows = await tree(tx, root_id)
    found = await pauses(tx, descendants(flows, flow_id), lock=True)
    paused = next((one for one in found if one.payload is not None), None)
    if paused is None:
        raise await _not_paused(
            tx,
            flow_id,
            found,
            "the flow is paused by a breakpoint, not by an interrupt: continue it with resume_break",
        )
    due = await tx.fetch(
        f"update dwarf_steps set status = 'pending', parked = {PARKED}, resumed = $2, interrupt_payload = null,"
        " not_before = {now}, updated_at = {now} where step_id = $1 returning step_id, priority, not_before",
        paused.step_id,
        data,
    )
    return TreeChange(await settle_pauses(tx, ancestors(flows, paused.flow_id)), due_of(due))


async def resume_break(tx: Tx, flow_id: int, root_id: int, overrides: State, limits: Limits = UNLIMITED) -> TreeChange:
    """Continue the oldest breakpoint of the flow, or of one it called, with `overrides` in its state (O11).

    Raises `Conflict` if there is none, `TooLarge` if the state would be with the overrides.
    """
    flows = await tree(tx, root_id)
    found = await pauses(tx, descendants(flows, flow_id), lock=True)
    paused = next((one for one in found if one.payload is None), None)
    if paused is None:
        raise await _not_paused(
            tx,
            flow_id,
            found,
            "the flow is paused by an interrupt, not by a breakpoint: continue it with resume and data",
        )
    due = await tx.fetch(
        f"update dwarf_steps set status = 'pending', parked = {PARKED}, state = $2, borrowed = $3, changes = $4,"
        " not_before = {now}, updated_at = {now}"
        " where step_id = $1 returning step_id, priority, not_before",
        paused.step_id,
        *with_overrides(paused.state, paused.borrowed, overrides, limits),
        _unless(overrides, paused.changes),
    )
    return TreeChange(await settle_pauses(tx, ancestors(flows, paused.flow_id)), due_of(due))


def _unless(overrides: State, changes: str) -> str:
    """A step's earlier changes without those that are override, so that its task sees the overrides."""
    if not overrides:
        return changes
    return encode_state(
        {name: value for name, value in decode_state(changes).items() if name not in overrides}
    ).decode()


def with_overrides(state: str, borrowed: str | None, overrides: State, limits: Limits) -> tuple[str, str | None]:
    """A stored state, and what it borrows, with overrides. Raises `TooLarge`."""
    text, borrowed = override(state, borrowed, overrides)
    limits.check_bytes(len(text), "the state with these overrides")
    return text, borrowed


async def settle_pauses(tx: Tx, path: Sequence[FlowRow]) -> list[FlowRow]:
    """From the leaf to the root: a flow in which nothing is paused any more runs again; those that changed."""
    changed = []
    for flow in path:
        rows = await tx.fetch("select status from dwarf_flows where flow_id = $1 {for_update}", flow.flow_id)
        if not rows or rows[0][0] != Status.INTERRUPTED:
            continue
        # Asked after the flow is locked, so that a pause that came before is seen, and one that comes later waits.
        left = await tx.fetch(
            "select 1 where exists (select 1 from dwarf_steps where flow_id = $1 and status = 'interrupted')"
            " or exists (select 1 from dwarf_flows where root_id = $2 and surgraph_flow_id is not null"
            " and surgraph_flow_id = $1 and status = 'interrupted')",
            flow.flow_id,
            flow.root_id,
        )
        if left:
            break
        changed += await run_again(tx, [flow.flow_id])
    return changed


async def run_again(tx: Tx, flow_ids: Sequence[int], more: str = "") -> list[FlowRow]:
    """→ running."""
    rows = await tx.fetch(
        f"update dwarf_flows set status = 'running', updated_at = {_AT}, final_state = null, final_borrowed = null,"
        f" error = null, cancel_reason = null{more} where flow_id {{in:$1}} returning {FlowRow.columns()}",
        list(flow_ids),
    )
    return [flow_row(row) for row in rows]


async def _not_paused(tx: Tx, flow_id: int, found: Sequence[Paused], other_kind: str) -> Conflict | NotFound:
    """Make the refusal of a resume: there is no such flow, nothing is paused, or only by the `other_kind` of pause."""
    rows = await tx.fetch("select status from dwarf_flows where flow_id = $1", flow_id)
    if not rows:
        return NotFound("no such flow")
    if not found:
        return Conflict(f"the flow is {rows[0][0]}: to be resumed it must be interrupted")
    return Conflict(other_kind)


async def break_before(tx: Tx, flow_id: int, root_id: int, task: str, *, enabled: bool) -> None:
    """Set or clear a breakpoint on the flow and on those it called that still live; `Conflict` if it is terminal (O12)."""
    flows = await tree(tx, root_id)
    rows = await tx.fetch(
        "select flow_id, status, breakpoints from dwarf_flows where flow_id {in:$1} order by flow_id {for_update}",
        descendants(flows, flow_id),
    )
    for number, status, names in rows:
        if Status(status).terminal:
            if number == flow_id:
                raise Conflict(f"the flow is {status}: a breakpoint needs one that can still come to it")
            continue
        await tx.fetch(
            "update dwarf_flows set breakpoints = $2 where flow_id = $1",
            number,
            breakpoints.stored(breakpoints.changed(breakpoints.read(names), task, enabled=enabled)),
        )


# -- the end


async def cancel(tx: Tx, flow_id: int, root_id: int, reason: str, final_state: FinalState) -> TreeChange:
    """→ cancelled, with every flow above and below it and their live steps; each gets a final state (O10).

    Raises `Conflict` if the flow is terminal.
    """
    flows = await tree(tx, root_id)
    if flow_id in flows and not flows[flow_id].status.terminal:
        steered = await cancel_flows(tx, root_id, None, reason, final_state)
        if any(flow.flow_id == flow_id for flow in steered.changed):
            return steered
    raise await conflict(tx, flow_id, "cancelled", flow_sources(Status.CANCELLED))


async def cancel_flows(
    tx: Tx, root_id: int, among: set[int] | None, reason: str, final_state: FinalState
) -> TreeChange:
    """→ cancelled, the living flows of a tree, or those `among` them and what they called; each gets a final state."""
    steered = TreeChange()
    while True:  # what committed while the locks were waited for may have left a successor or a child
        flows = await tree(tx, root_id)
        wanted = (
            set(flows) if among is None else {one for top in among if top in flows for one in descendants(flows, top)}
        )
        ids = [one for one in wanted if not flows[one].status.terminal]
        if not ids:
            break
        steered.running += await lock_running(tx, ids)
        await tx.fetch(_CANCEL_STEPS, ids)
        rows = await tx.fetch(
            f"update dwarf_flows set status = 'cancelled', cancel_reason = $2, updated_at = {_AT}"
            f" where flow_id {{in:$1}} and status in {CANCELLABLE}"
            f" returning {FlowRow.columns()}",
            ids,
            reason,
        )
        steered.changed += [flow_row(row) for row in rows]
        await tx.fetch(_CANCEL_STEPS, ids)
    for flow in steered.changed:
        steps = await _steps(tx, [flow.flow_id])
        flow.final_state = final_state(flow, steps).decode()
        await tx.fetch("update dwarf_flows set final_state = $2 where flow_id = $1", flow.flow_id, flow.final_state)
    return steered


async def lock_running(tx: Tx, flow_ids: Sequence[int]) -> list[StepRef]:
    """Lock the live steps of these flows; those that run."""
    locked: set[int] | None = None
    while True:
        rows = await tx.fetch(
            f"select step_id, token, status, parked from dwarf_steps where flow_id {{in:$1}} and status in {UNFINISHED}"
            " order by step_id {for_update}",
            list(flow_ids),
        )
        living = {int(row[0]) for row in rows}
        if living == locked:
            return [StepRef(int(row[0]), row[1]) for row in rows if row[2] == Status.RUNNING and not row[3]]
        locked = living  # what was waited for may have left successors, which are not locked yet


async def remove(tx: Tx, root_ids: Sequence[int]) -> int:
    """Remove those of these root flows that do not run, their subgraph flows and steps with them; how many root flows (O9)."""
    if not root_ids:
        return 0
    whole = await _whole(tx, root_ids)
    await tx.fetch("select 1 from dwarf_steps where flow_id {in:$1} order by step_id {for_update}", whole)
    rows = await tx.fetch(
        "select flow_id from dwarf_flows where flow_id {in:$1} and status <> 'running' order by flow_id {for_update}",
        list(root_ids),
    )
    still = [int(row[0]) for row in rows]
    if still:
        await deployment.forget(tx, still)
        await delete_trees(tx, await _whole(tx, still))
    return len(still)


async def _whole(tx: Tx, root_ids: Sequence[int]) -> list[int]:
    """These root flows and all flows of their trees."""
    rows = await tx.fetch(
        "select flow_id from dwarf_flows where root_id {in:$1} and surgraph_flow_id is not null", list(root_ids)
    )
    return [*root_ids, *(int(row[0]) for row in rows)]


async def delete_trees(tx: Tx, flow_ids: Sequence[int]) -> None:
    await tx.fetch("delete from dwarf_steps where flow_id {in:$1}", list(flow_ids))
    await tx.fetch("delete from dwarf_flows where flow_id {in:$1}", list(flow_ids))


# -- running again


async def restart(tx: Tx, flow_id: int, overrides: State, limits: Limits = UNLIMITED) -> TreeChange:
    """A stopped root flow runs again from its entry step, in place (O13).

    Raises `Conflict` if it is not stopped, `TooLarge` if the state would be with the overrides.
    """
    running = await lock_running(tx, await _whole(tx, [flow_id]))
    rows = await tx.fetch("select status from dwarf_flows where flow_id = $1 {for_update}", flow_id)
    restartable = flow_sources(Status.RUNNING, "restart")
    if not rows or rows[0][0] not in restartable:
        raise await conflict(tx, flow_id, "restarted", restartable)
    called = [one for one in await _whole(tx, [flow_id]) if one != flow_id]
    if called:
        await delete_trees(tx, called)
    entry = await tx.fetch(
        "select step_id, state, borrowed from dwarf_steps where flow_id = $1 and predecessor_id is null", flow_id
    )
    step_id, state, borrowed = entry[0]
    await tx.fetch("delete from dwarf_steps where flow_id = $1 and step_id <> $2", flow_id, step_id)
    await tx.fetch("update dwarf_steps set created_at = {now} where step_id = $1", step_id)
    due = await tx.fetch(UNRUN, step_id, *with_overrides(state, borrowed, overrides, limits))
    changed = await run_again(tx, [flow_id], ", restarted_at = {now}, started_at = {now}")
    return TreeChange(changed, due_of(due), running)


async def insert_fork(tx: Tx, root: FlowRow, forked: Forked) -> TreeChange:
    """Insert the copy of a tree that has ended (O14). Raises `Conflict` if the original changed meanwhile."""
    rows = await tx.fetch(
        "select status, updated_at, {now} from dwarf_flows where flow_id = $1 {for_update}", root.flow_id
    )
    if not rows or not Status(rows[0][0]).terminal or int(rows[0][1]) != root.updated_at:
        raise Conflict("the flow was changed while it was being copied: ask again")
    now = int(rows[0][2])
    forked.stamp(now)
    names = [one.name for one in fields(FlowRow)]
    await tx.insert(
        "dwarf_flows",
        [*names, "idempotency_key", "delete_on_completion"],
        [[*(_plain(getattr(flow, name)) for name in names), "", 0] for flow in forked.flows],
    )
    names = [one.name for one in fields(StepRow)]
    await tx.insert("dwarf_steps", names, [[_plain(getattr(step, name)) for name in names] for step in forked.steps])
    pending = [forked.target, *forked.others]
    await tx.fetch(
        f"update dwarf_steps set parked = {PARKED} where step_id {{in:$1}}",
        [step.step_id for step in pending if step.cohort_error is None],  # those ask no task
    )
    return TreeChange(
        [flow for flow in forked.flows if flow.status is Status.RUNNING],
        [ReadyStep(step.step_id, step.priority, step.not_before) for step in pending],
    )


async def create_next(tx: Tx, latest: FlowRow, new: NewFlow) -> int | None:
    """Insert the next flow of a thread; its creation time, or nothing if its idempotency key or its reserved id was used.

    Raises `Moved` if `latest` is not the latest flow of its thread any more, or has changed (O15); `OtherCount`.
    """
    await tx.fetch("select 1 from dwarf_flows where flow_id = $1 {for_update}", latest.flow_id)
    now = await latest_of_thread(tx, latest.thread_id)
    if now is None or (now.flow_id, now.updated_at) != (latest.flow_id, latest.updated_at):
        raise Moved
    if new.idempotency_key and not new.reserves and not await deployment.place(tx, new):
        return None
    return await create_one(tx, new)


class Moved(Exception):
    """The thread has moved on: read its latest flow again."""


async def latest_of_thread(tx: Tx, thread_id: int) -> FlowRow | None:
    """The flow of a thread that was created last."""
    rows = await tx.fetch(
        f"select {FlowRow.columns()} from dwarf_flows where thread_id = $1 and surgraph_flow_id is null"
        " order by created_at desc, flow_id desc limit 1",
        thread_id,
    )
    return flow_row(rows[0]) if rows else None


# -- what they share


async def _steps(tx: Tx, flow_ids: Sequence[int], *, whole: bool = True) -> list[StepRow]:
    rows = await tx.fetch(
        f"select {StepRow.columns(whole=whole)} from dwarf_steps where flow_id {{in:$1}} order by depth, step_id",
        list(flow_ids),
    )
    return [step_row(row) for row in rows]


async def conflict(tx: Tx, flow_id: int, verb: str, wanted: Sequence[Status]) -> Conflict | NotFound:
    """Why a flow cannot be steered so: it is not there, or in the wrong status."""
    rows = await tx.fetch("select status from dwarf_flows where flow_id = $1", flow_id)
    if not rows:
        return NotFound("no such flow")
    *others, last = wanted
    allowed = f"{', '.join(others)} or {last}" if others else last
    return Conflict(f"the flow is {rows[0][0]}: to be {verb} it must be {allowed}")


def due_of(rows: Sequence[Sequence[Any]]) -> list[ReadyStep]:
    """Steps that became pending."""
    return [ReadyStep(int(row[0]), int(row[1]), int(row[2])) for row in rows]


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Status) else value
