"""The client's operations on schedules (R3)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import or_default, or_unset

from .replies import decode
from .requester import Requester

if TYPE_CHECKING:
    from dwarf_nats.workflow.schedules import Schedule, ScheduleInfo

BACKFILL_SECONDS = 120.0
"""Time that a backfill may take."""


class Schedules(Requester):
    """Base of `Client` with the operations on schedules."""

    async def put_schedule(self, schedule: Schedule) -> ScheduleInfo:
        """Keep a schedule under its name, in place of one that had it; `warnings` name likely mistakes (R3).

        Its runs stay, and no due time that was fired is fired again. Raises `BadRequest` with the place and a remedy.

        Example: `await client.put_schedule(Schedule(name="nightly", workflow="order", cron="0 3 * * *"))`
        """
        from dwarf_nats.wire.schedules import schedule_request
        from dwarf_nats.workflow.schedules import Schedule

        if not isinstance(schedule, Schedule):
            raise BadRequest(f"a schedule must be a Schedule, got {type(schedule).__name__}")
        return await self._schedule("schedule.put", schedule_request(schedule), repeatable=True)

    async def get_schedule(self, name: str) -> ScheduleInfo:
        """Return a schedule with its last ten runs, the newest first, and its next ten due times (R3).

        Example: `info = await client.get_schedule("nightly")`
        """
        return await self._schedule("schedule.get", m.ScheduleRequest(name=name), repeatable=True)

    async def list_schedules(
        self, limit: int = 100, cursor: str = "", *, workflow: str | None = None
    ) -> tuple[Sequence[ScheduleInfo], str]:
        """Return schedules by name, of one `workflow` if it is given, and the cursor of the next page, empty on the last (R3).

        Each has its last run and its next due time, and neither state nor options.

        Example: `schedules, cursor = await client.list_schedules(workflow="order")`
        """
        from dwarf_nats.wire.schedules import schedule_info

        request = m.ScheduleListRequest(limit=limit, cursor=cursor or UNSET, workflow=or_unset(workflow))
        reply = decode(m.ScheduleListReply, await self._read("schedule.list", request), "schedule.list")
        return [schedule_info(one) for one in reply.schedules], or_default(reply.cursor, "")

    async def delete_schedule(self, name: str) -> None:
        """Forget a schedule; its flows stay (R3).

        Example: `await client.delete_schedule("nightly")`
        """
        await self._request("schedule.delete", m.ScheduleRequest(name=name))

    async def pause_schedule(self, name: str) -> ScheduleInfo:
        """Fire no due time until the schedule is resumed (R3).

        Example: `await client.pause_schedule("nightly")`
        """
        return await self._schedule("schedule.pause", m.ScheduleRequest(name=name), repeatable=True)

    async def resume_schedule(self, name: str) -> ScheduleInfo:
        """Fire the due times from now on; those that passed meanwhile do not fire (R3).

        Example: `await client.resume_schedule("nightly")`
        """
        return await self._schedule("schedule.resume", m.ScheduleRequest(name=name), repeatable=True)

    async def trigger_schedule(self, name: str) -> ScheduleInfo:
        """Start a flow of the schedule now, also of a paused one and whatever `overlap` says; `last` begins with it (R3).

        Example: `info = await client.trigger_schedule("nightly")`
        """
        request = m.ScheduleRequest(name=name)
        return await self._schedule("schedule.trigger", request, repeatable=True, idempotency_key=uuid.uuid4().hex)

    async def backfill_schedule(self, name: str, first: datetime, last: datetime) -> int:
        """Start a flow for each due time of a past range that has none; returns how many (R3).

        Both ends are included, and at most 1,000 due times. Raises `TooLarge` that says how far one backfill goes.

        Example: `count = await client.backfill_schedule("nightly", first, last)`
        """
        if first.tzinfo is None or last.tzinfo is None:
            raise BadRequest("first and last need a time zone: use datetime.now(UTC) or .astimezone()")
        request = m.ScheduleBackfillRequest(name=name, from_=first, to=last)
        body = await self._request("schedule.backfill", request, wait_seconds=BACKFILL_SECONDS, repeatable=True)
        return decode(m.ScheduleBackfillReply, body, "schedule.backfill").fired

    async def _schedule(
        self, operation: str, request: msgspec.Struct, *, repeatable: bool, idempotency_key: str = ""
    ) -> ScheduleInfo:
        from dwarf_nats.wire.schedules import schedule_info

        body = await self._request(operation, request, repeatable=repeatable, idempotency_key=idempotency_key)
        return schedule_info(decode(m.ScheduleReply, body, operation))
