"""The audit records of one shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports.audit import AuditRow
from dwarf_nats.store.statements import audit

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database
    from dwarf_nats.workflow.audit import AuditQuery


class SqlAudit:
    """Implements `ports.AuditStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[AuditRow]) -> None:
        await self._database.transact_by_index(lambda tx: tx.fetch(audit.ADD, audit.encoded(rows)))

    async def find(self, query: AuditQuery, limit: int, before: tuple[int, int] | None) -> list[AuditRow]:
        statement, args = audit.found(query, limit, before)
        rows = await self._database.transact_by_index(lambda tx: tx.fetch(statement, *args))
        return [AuditRow(*row) for row in rows]

    async def remove_old(self, age_ms: int, limit: int) -> int:
        removed = await self._database.transact_by_index(lambda tx: tx.fetch(audit.REMOVE_OLD, age_ms * 1000, limit))
        return len(removed)
