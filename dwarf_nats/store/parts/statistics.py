"""The numbers of one shard that people watch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports.statistics import FlowCount
from dwarf_nats.store.statements import statistics

if TYPE_CHECKING:
    from dwarf_nats.store.database import Database
    from dwarf_nats.workflow.status import Status


class SqlStatistics:
    """Implements `ports.StatisticsStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def flows(self, status: Status, limit: int) -> Sequence[FlowCount]:
        statement = statistics.count_flows(status)
        rows = await self._database.transact_by_index(lambda tx: tx.fetch(statement, limit))
        return [FlowCount(*row) for row in rows]
