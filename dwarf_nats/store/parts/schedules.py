"""Schedules of a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.store.statements import schedules

if TYPE_CHECKING:
    from dwarf_nats.ports.schedules import ClaimedSchedules
    from dwarf_nats.rules.schedules import ScheduleRow
    from dwarf_nats.store.database import Database


class SqlSchedules:
    """Implements `ports.ScheduleStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, limit: int, lease_us: int) -> ClaimedSchedules:
        return await self._database.transact_by_index(lambda tx: schedules.claim(tx, limit, lease_us))

    async def get(self, name: str) -> tuple[ScheduleRow | None, int]:
        ((now, *columns),) = await self._database.fetch(schedules.GET, name)
        return None if columns[0] is None else schedules.record(columns), int(now)

    async def add(self, row: ScheduleRow) -> bool:
        return bool(await self._database.fetch(schedules.ADD, *schedules.values(row)))

    async def save(self, row: ScheduleRow) -> bool:
        return bool(await self._database.fetch(schedules.SAVE, *schedules.changes(row)))

    async def remove(self, row: ScheduleRow) -> bool:
        return bool(await self._database.fetch(schedules.REMOVE, row.name, row.version))

    async def page(self, after: str, limit: int, workflow: str | None) -> Sequence[ScheduleRow]:
        if workflow is None:
            rows = await self._database.fetch_by_index(schedules.PAGE, after, limit)
        else:
            rows = await self._database.fetch_by_index(schedules.PAGE_OF_WORKFLOW, after, limit, workflow)
        return [schedules.record(row) for row in rows]

    async def late(self, late_us: int, limit: int) -> int:
        ((count,),) = await self._database.fetch_by_index(schedules.LATE, late_us, limit)
        return int(count)
