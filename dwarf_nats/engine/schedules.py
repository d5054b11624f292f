"""The operations on schedules. A base of `Engine` (R3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.all import Operations
    from dwarf_nats.workflow.schedules import Schedule, ScheduleInfo


class Schedules:
    """The operations of an engine on schedules. Times are microseconds since the epoch."""

    _operations: Operations

    async def put_schedule(self, schedule: Schedule) -> ScheduleInfo:
        """Keep a schedule under its name, in place of one that had it; `warnings` name likely mistakes.

        What was fired is not fired again. Raises `BadRequest` with the place and a remedy, `TooLarge`, `Unavailable`.
        """
        return await self._operations.schedules.put(schedule)

    async def get_schedule(self, name: str) -> ScheduleInfo:
        """Return a schedule with its last ten runs and its next ten due times. Raises `NotFound`."""
        return await self._operations.schedules.get(name)

    async def list_schedules(
        self, limit: int | None = None, cursor: str = "", workflow: str | None = None
    ) -> tuple[Sequence[ScheduleInfo], str]:
        """Return schedules by name, each with its last run and its next due time, and the cursor of the next page."""
        return await self._operations.schedules.list(limit, cursor, workflow)

    async def delete_schedule(self, name: str) -> None:
        """Forget a schedule; its flows stay. Raises `NotFound`."""
        await self._operations.schedules.delete(name)

    async def pause_schedule(self, name: str) -> ScheduleInfo:
        """Fire no due time of the schedule until it is resumed. Raises `NotFound`."""
        return await self._operations.schedules.pause(name)

    async def resume_schedule(self, name: str) -> ScheduleInfo:
        """Fire the due times from now on; those that passed meanwhile do not fire. Raises `NotFound`."""
        return await self._operations.schedules.resume(name)

    async def trigger_schedule(self, name: str, request: str | None = None) -> ScheduleInfo:
        """Start a flow of the schedule now, also of a paused one and whatever `overlap` says.

        `request`: with the same id again, no second flow is started. Raises `NotFound`, and as `create`.
        """
        return await self._operations.schedules.trigger(name, request)

    async def backfill_schedule(self, name: str, first: int, last: int) -> int:
        """Start a flow for each due time of a past range that has none, whatever `overlap` says; return how many.

        Raises `NotFound`, `BadRequest`, `TooLarge` for more than 1,000 due times, and as `create`.
        """
        return await self._operations.schedules.backfill(name, first, last)
