"""Operations on many flows at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports import Progress
from dwarf_nats.rules.rows import TreeChange
from dwarf_nats.store.statements import bulk, delete, listing

if TYPE_CHECKING:
    from dwarf_nats.ports import Compensates, FinalState, Member
    from dwarf_nats.store.database import Database
    from dwarf_nats.workflow.bulk import BulkAction
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.options import Query


class SqlBulk:
    """Implements `ports.BulkStore`."""

    def __init__(self, shard: int, database: Database) -> None:
        self.shard = shard
        self._database = database

    async def begin(self) -> Progress:
        ((moment,),) = await self._database.fetch(bulk.MOMENT)
        return Progress(moment, moment, bulk.AFTER_ALL)

    async def members(
        self, query: Query, thread_id: int | None, action: BulkAction, *, after: Progress, limit: int
    ) -> list[Member]:
        return await listing.members(
            self._database, self.shard, query, thread_id=thread_id, after=after, undone=bulk.UNDONE[action], limit=limit
        )

    async def failed_steps(self, flow_id: int, before: int) -> list[Key]:
        return await self._database.transact_by_index(lambda tx: bulk.failed_steps(tx, self.shard, flow_id, before))

    async def cancel(
        self, flow_ids: Sequence[int], reason: str, final_state: FinalState, compensates: Compensates
    ) -> TreeChange:
        try:
            return await self._database.transact_by_index(
                lambda tx: bulk.cancel(tx, flow_ids, reason, final_state=final_state, compensates=compensates)
            )
        except bulk.CalledMeanwhile:
            return TreeChange()

    async def restart(self, flow_ids: Sequence[int]) -> TreeChange:
        return await self._database.transact_by_index(lambda tx: bulk.restart(tx, flow_ids))

    async def delete(self, flow_ids: Sequence[int]) -> list[int]:
        return await self._database.transact_by_index(lambda tx: delete.delete_not_running(tx, sorted(flow_ids)))
