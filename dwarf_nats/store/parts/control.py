"""Operations that change flows which exist, one transaction each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.errors import Conflict
from dwarf_nats.ports import Started
from dwarf_nats.store import deployment, listing, rewinding, steering
from dwarf_nats.store.dialect import PARKED
from dwarf_nats.workflow.limits import UNLIMITED, Limits
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.ports import FinalState, GraphOf
    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.rules.rows import FlowRow, StepRow, TreeChange
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Database, Tx
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.state import State


class SqlControl:
    """Implements `ports.ControlStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self._shard = shard
        self._database = database

    async def start(self, flow_id: int, notify: str) -> Started:
        async def work(tx: Tx) -> Started:
            steps = await tx.fetch(
                f"update dwarf_steps set status = 'pending', parked = {PARKED}, updated_at = {{now}},"
                " not_before = {greatest}(not_before, {now})"
                " where flow_id = $1 and status = 'created' returning step_id, priority, not_before",
                flow_id,
            )
            started = await tx.fetch(
                "update dwarf_flows set status = 'running', started_at = {now}, updated_at = {greatest}({now}, updated_at + 1),"
                " notify = case when $2 = '' then notify else $2 end"
                " where flow_id = $1 and status = 'created' returning updated_at",
                flow_id,
                notify,
            )
            if not started:
                raise await steering.conflict(tx, flow_id, "started", [Status.CREATED])
            return Started(int(started[0][0]), steering.due_of(steps))

        return await self._database.transact(work)

    async def cancel(self, flow: FlowRow, reason: str, final_state: FinalState) -> TreeChange:
        return await self._database.transact(
            lambda tx: steering.cancel(tx, flow.flow_id, flow.root_id, reason, final_state)
        )

    async def resume(self, flow: FlowRow, data: str) -> TreeChange:
        return await self._database.transact(lambda tx: steering.resume(tx, flow.flow_id, flow.root_id, data))

    async def resume_break(self, flow: FlowRow, overrides: State, limits: Limits = UNLIMITED) -> TreeChange:
        return await self._database.transact(
            lambda tx: steering.resume_break(tx, flow.flow_id, flow.root_id, overrides, limits)
        )

    async def break_before(self, flow: FlowRow, task: str, *, enabled: bool) -> None:
        await self._database.transact(
            lambda tx: steering.break_before(tx, flow.flow_id, flow.root_id, task, enabled=enabled)
        )

    async def restart(self, flow: FlowRow, overrides: State, limits: Limits = UNLIMITED) -> TreeChange:
        return await self._database.transact(lambda tx: steering.restart(tx, flow.flow_id, overrides, limits))

    async def restart_from(
        self, step: StepRow, flow: FlowRow, overrides: State, graph_of: GraphOf, limits: Limits = UNLIMITED
    ) -> TreeChange:
        return await self._database.transact(
            lambda tx: rewinding.restart_from(tx, step.step_id, flow.flow_id, flow.root_id, overrides, graph_of, limits)
        )

    async def insert_fork(self, root: FlowRow, forked: Forked) -> TreeChange:
        return await self._database.transact(lambda tx: steering.insert_fork(tx, root, forked))

    async def create_next(self, latest: FlowRow, new: NewFlow) -> int | None:
        try:
            return await self._database.transact(lambda tx: steering.create_next(tx, latest, new))
        except (steering.Moved, deployment.OtherCount):
            return None

    async def delete(self, flow_id: int) -> None:
        async def work(tx: Tx) -> None:
            if await steering.remove(tx, [flow_id]) == 0 and await tx.fetch(
                "select 1 from dwarf_flows where flow_id = $1", flow_id
            ):
                raise Conflict("the flow is running: cancel it first, then delete it")

        await self._database.transact(work)

    async def purge(self, query: Query, thread_id: int | None, limit: int) -> int:
        sql, args = listing.purgeable(self._shard, query, thread_id, limit)

        async def work(tx: Tx) -> int:
            rows = await tx.fetch(sql, *args)
            return await steering.remove(tx, [int(row[0]) for row in rows])

        return await self._database.transact(work)

    async def remove_completed(self, age_ms: int, limit: int) -> bool:
        async def work(tx: Tx) -> bool:
            rows = await tx.fetch(
                "select flow_id from dwarf_flows where delete_on_completion = 1 and status = 'completed'"
                " and updated_at < {now} - $1 order by updated_at limit $2",
                age_ms * 1000,
                limit,
            )
            return await steering.remove(tx, sorted(int(row[0]) for row in rows)) == limit

        return await self._database.transact(work)
