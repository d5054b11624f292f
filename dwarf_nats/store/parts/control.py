"""Operations that change flows which exist, one transaction each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.store.statements import (
    cancel,
    deadlines,
    delete,
    fork,
    keys,
    listing,
    pauses,
    restart,
    restart_from,
    tags,
    threads,
)
from dwarf_nats.workflow.limits import UNLIMITED, Limits

if TYPE_CHECKING:
    from dwarf_nats.ports import Compensates, FinalState, GraphOf, Started
    from dwarf_nats.rules.forking import Forked
    from dwarf_nats.rules.rows import FlowRow, StepRow, TimedOutWaits, TreeChange
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.store.database import Database
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.state import State
    from dwarf_nats.workflow.tags import TagChanges


class SqlControl:
    """Implements `ports.ControlStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self._shard = shard
        self._database = database

    async def start(self, flow_id: int, notify: str) -> Started:
        return await self._database.transact(lambda tx: restart.start(tx, flow_id, notify))

    async def cancel(
        self, flow: FlowRow, reason: str, final_state: FinalState, compensates: Compensates = lambda _flow: False
    ) -> TreeChange:
        return await self._database.transact(
            lambda tx: cancel.cancel(tx, flow, reason, final_state=final_state, compensates=compensates)
        )

    async def resume(self, flow: FlowRow, data: str, step_id: int | None = None) -> TreeChange:
        where = pauses.PauseOf(flow.flow_id, flow.root_id, step_id)
        return await self._database.transact(lambda tx: pauses.resume(tx, where, data))

    async def resume_break(
        self, flow: FlowRow, overrides: State, limits: Limits = UNLIMITED, step_id: int | None = None
    ) -> TreeChange:
        where = pauses.PauseOf(flow.flow_id, flow.root_id, step_id)
        return await self._database.transact(lambda tx: pauses.resume_break(tx, where, overrides, limits=limits))

    async def time_out_waits(self, limit: int) -> TimedOutWaits:
        return await self._database.transact_by_index(lambda tx: deadlines.time_out_waits(tx, limit))

    async def break_before(self, flow: FlowRow, task: str, *, enabled: bool) -> None:
        await self._database.transact(
            lambda tx: pauses.break_before(tx, flow.flow_id, flow.root_id, task, enabled=enabled)
        )

    async def tag(self, flow: FlowRow, changes: TagChanges) -> str | None:
        return await self._database.transact(lambda tx: tags.tag(tx, flow.root_id, changes))

    async def restart(self, flow: FlowRow, overrides: State, limits: Limits = UNLIMITED) -> TreeChange:
        return await self._database.transact(lambda tx: restart.restart(tx, flow.flow_id, overrides, limits))

    async def restart_from(
        self, step: StepRow, flow: FlowRow, overrides: State, graph_of: GraphOf, limits: Limits = UNLIMITED
    ) -> TreeChange:
        return await self._database.transact(
            lambda tx: restart_from.restart_from(tx, step.step_id, flow, overrides, graph_of=graph_of, limits=limits)
        )

    async def insert_fork(self, root: FlowRow, forked: Forked) -> TreeChange:
        return await self._database.transact(lambda tx: fork.insert_fork(tx, root, forked))

    async def create_next(self, latest: FlowRow, new: NewFlow) -> int | None:
        try:
            return await self._database.transact(lambda tx: threads.create_next(tx, latest, new))
        except (threads.ThreadMovedOn, keys.OtherCount):
            return None

    async def create_placed(self, new: NewFlow) -> int | None:
        try:
            return await self._database.transact(lambda tx: threads.create_placed(tx, new))
        except (threads.NotCreated, keys.OtherCount):
            return None

    async def delete(self, flow_id: int) -> None:
        await self._database.transact(lambda tx: delete.delete(tx, flow_id))

    async def purge(self, query: Query, thread_id: int | None, limit: int) -> int:
        statement, args = await listing.purgeable(self._database, self._shard, query, thread_id=thread_id, limit=limit)
        return await self._database.transact(lambda tx: delete.delete_found(tx, statement, args))

    async def remove_completed(self, age_ms: int, limit: int) -> bool:
        args = (age_ms * 1000, limit)
        return await self._database.transact(lambda tx: delete.delete_found(tx, delete.COMPLETED, args)) == limit
