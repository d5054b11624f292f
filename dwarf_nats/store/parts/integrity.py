"""Repairs of what a crash, a defect or a manual change can leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.store.statements import integrity

if TYPE_CHECKING:
    from dwarf_nats.ports import FinalState
    from dwarf_nats.rules.rows import TreeChange
    from dwarf_nats.store.database import Database


class SqlIntegrity:
    """Implements `ports.IntegrityStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def resume_orphaned_parents(self) -> TreeChange:
        return await self._database.transact(integrity.resume_orphaned_parents)

    async def cancel_orphaned_children(self, final_state: FinalState) -> TreeChange:
        return await self._database.transact(lambda tx: integrity.cancel_orphaned_children(tx, final_state))

    async def find_stalled_flows(self, age_ms: int) -> list[int]:
        return await self._database.transact(lambda tx: integrity.find_stalled_flows(tx, age_ms))
