"""Change many flows in one transaction (M1). Locks are taken as for one flow, steps before flows, each in their order (X10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.rules.lifecycle import flow_sources
from dwarf_nats.rules.rows import FlowRow, TreeChange, flow_row, step_row
from dwarf_nats.store.dialect import CANCELLABLE, LIVE, SQLITE, listed
from dwarf_nats.store.statements.cancel import CANCEL_FLOWS, CANCEL_STEPS, FINAL_STATE
from dwarf_nats.store.statements.restart import RESTART_FLOW
from dwarf_nats.store.statements.restart_from import LOCK_FLOWS
from dwarf_nats.store.statements.trees import (
    RESET_STEP,
    STEPS,
    delete_flows,
    lock_running,
    ready_steps,
    with_called,
)
from dwarf_nats.workflow.bulk import BulkAction
from dwarf_nats.workflow.keys import Key
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.ports import Compensates, FinalState
    from dwarf_nats.rules.rows import StepRow
    from dwarf_nats.store.database import PostgresSession, SqliteSession, Tx

MOMENT = "select {now}"
AFTER_ALL = 2**63 - 1
"""An id after all others."""
_UNCHANGED = "f.updated_at < $$"
UNDONE = {
    BulkAction.CANCEL: "not (f.status = 'cancelled' and f.updated_at >= $$)",
    BulkAction.RESTART: "(f.restarted_at is null or f.restarted_at < $$)",
    # Which steps of them failed before is asked for each flow.
    BulkAction.RESTART_FAILED: _UNCHANGED,
    BulkAction.RESUME: _UNCHANGED,
    # What is removed is gone, and a tag may be set twice.
    BulkAction.DELETE: "$$ > 0",
    BulkAction.TAG: "$$ > 0",
}
"""Action → condition for flows for which it was not done since a moment, `$$`."""

# -- cancel

ALONE = (
    f"select {FlowRow.columns()} from dwarf_flows f where flow_id {{in:$1}} and surgraph_flow_id is null"
    f" and status in {CANCELLABLE} and compensating is null and compensable = 0"
    " and not exists (select 1 from dwarf_flows c where c.root_id = f.flow_id and c.surgraph_flow_id is not null)"
)
LIVING_CALLED = (
    f"select 1 from dwarf_flows where root_id {{in:$1}} and surgraph_flow_id is not null and status in {LIVE} limit 1"
)


class CalledMeanwhile(Exception):
    """A flow that was to be cancelled with others has called a flow: it is to be cancelled by itself."""


@dataclass(slots=True)
class _FinalStates:
    """Write final states, `(flow id, JSON)` each."""

    rows: Sequence[tuple[int, str]]

    async def on_postgres(self, session: PostgresSession) -> None:
        await session.fetch_many(FINAL_STATE, self.rows)

    def on_sqlite(self, session: SqliteSession) -> None:
        session.connection.executemany(SQLITE.text(FINAL_STATE), self.rows)


async def cancel(
    tx: Tx, flow_ids: Sequence[int], reason: str, *, final_state: FinalState, compensates: Compensates
) -> TreeChange:
    """Cancel those of these root flows that called no flow and compensate nothing; each gets a final state (O10).

    Raises `CalledMeanwhile`.
    """
    alone = [flow_row(row) for row in await tx.fetch(ALONE, list(flow_ids))]
    ids = [flow.flow_id for flow in alone if not compensates(flow)]
    if not ids:
        return TreeChange()
    running = await lock_running(tx, ids)
    await tx.fetch(CANCEL_STEPS, ids)
    await tx.fetch(LOCK_FLOWS, ids)
    changed = [flow_row(row) for row in await tx.fetch(CANCEL_FLOWS, ids, reason)]
    # From here on nothing follows. What committed while the locks were waited for may have left a successor or a child.
    if await tx.fetch(LIVING_CALLED, ids):
        raise CalledMeanwhile
    await tx.fetch(CANCEL_STEPS, ids)
    await _finish(tx, changed, final_state)
    return TreeChange(changed, [], running)


async def _finish(tx: Tx, flows: Sequence[FlowRow], final_state: FinalState) -> None:
    """Give cancelled flows their final states."""
    steps: dict[int, list[StepRow]] = {flow.flow_id: [] for flow in flows}
    for step in map(step_row, await tx.fetch(STEPS, list(steps))):
        steps[step.flow_id].append(step)
    for flow in flows:
        flow.final_state = final_state(flow, steps[flow.flow_id]).decode()
    if flows:
        await tx.run(_FinalStates([(flow.flow_id, flow.final_state or "{}") for flow in flows]))


# -- restart

LOCK_STOPPED = (
    "select flow_id from dwarf_flows where flow_id {in:$1} and surgraph_flow_id is null"
    f" and status in {listed(flow_sources(Status.RUNNING, 'restart'))} order by flow_id {{for_update}}"
)
ENTRY_STEPS = "select step_id from dwarf_steps where flow_id {in:$1} and predecessor_id is null"
DELETE_LATER_STEPS = "delete from dwarf_steps where flow_id {in:$1} and predecessor_id is not null"
CREATED_NOW = "update dwarf_steps set created_at = {now} where step_id {in:$1}"


def _of_many(statement: str, one: str) -> str:
    """Make a statement about one id one about many."""
    assert one in statement
    return statement.replace(one, one.replace("= $1", "{in:$1}"))


RESET_STEPS = _of_many(RESET_STEP, "step_id = $1").replace("state = $2, borrowed = $3, ", "")
"""As `RESET_STEP`; their states stay as they are."""
RESTART_FLOWS = _of_many(RESTART_FLOW, "flow_id = $1")


async def restart(tx: Tx, flow_ids: Sequence[int]) -> TreeChange:
    """Run those of these root flows that are stopped again from their entry steps, with the states they had (O13)."""
    running = await lock_running(tx, await with_called(tx, flow_ids))
    ids = [flow_id for (flow_id,) in await tx.fetch(LOCK_STOPPED, list(flow_ids))]
    if not ids:
        return TreeChange()
    called = (await with_called(tx, ids))[len(ids) :]
    if called:
        await delete_flows(tx, called)
    await tx.fetch(DELETE_LATER_STEPS, ids)
    steps = [step_id for (step_id,) in await tx.fetch(ENTRY_STEPS, ids)]
    await tx.fetch(CREATED_NOW, steps)
    ready = ready_steps(await tx.fetch(RESET_STEPS, steps))
    changed = [flow_row(row) for row in await tx.fetch(RESTART_FLOWS, ids)]
    return TreeChange(changed, ready, running)


# -- restart of failed steps

TREE_OF = "select flow_id from dwarf_flows where flow_id = $1 or (root_id = $1 and surgraph_flow_id is not null)"
# A step that failed because the flow it called has failed runs again with that flow.
FAILED_STEPS = (
    "select s.step_id, s.token from dwarf_steps s where s.flow_id {in:$1} and s.status = 'failed' and s.compensates is null"
    " and s.updated_at < $2 and not exists (select 1 from dwarf_flows c where c.root_id = $3 and c.surgraph_step_id = s.step_id"
    " and c.surgraph_flow_id is not null and c.status = 'failed') order by s.step_id"
)


async def failed_steps(tx: Tx, shard: int, flow_id: int, before: int) -> list[Key]:
    """Return the steps of a root flow and of flows it called that failed by themselves, and before this moment."""
    flow_ids = [one for (one,) in await tx.fetch(TREE_OF, flow_id)]
    return [Key(shard, *row) for row in await tx.fetch(FAILED_STEPS, flow_ids, before, flow_id)]
