"""The synchronous client's operations on schedules (R3).

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dwarf_nats.sync.requester import SyncRequester
from dwarf_nats.workflow.schedules import Schedule, ScheduleInfo


class Schedules(SyncRequester):
    """Base of `Client` with the operations on schedules."""

    def put_schedule(self, schedule: Schedule) -> ScheduleInfo:
        """Keep a schedule under its name, in place of one that had it; `warnings` name likely mistakes (R3).

        Its runs stay, and no due time that was fired is fired again. Raises `BadRequest` with the place and a remedy.

        Example: `client.put_schedule(Schedule(name="nightly", workflow="order", cron="0 3 * * *"))`
        """
        return self._run(self._async.put_schedule(schedule=schedule))

    def get_schedule(self, name: str) -> ScheduleInfo:
        """Return a schedule with its last ten runs, the newest first, and its next ten due times (R3).

        Example: `info = client.get_schedule("nightly")`
        """
        return self._run(self._async.get_schedule(name=name))

    def list_schedules(
        self, limit: int = 100, cursor: str = "", *, workflow: str | None = None
    ) -> tuple[Sequence[ScheduleInfo], str]:
        """Return schedules by name, of one `workflow` if it is given, and the cursor of the next page, empty on the last (R3).

        Each has its last run and its next due time, and neither state nor options.

        Example: `schedules, cursor = client.list_schedules(workflow="order")`
        """
        return self._run(self._async.list_schedules(limit=limit, cursor=cursor, workflow=workflow))

    def delete_schedule(self, name: str) -> None:
        """Forget a schedule; its flows stay (R3).

        Example: `client.delete_schedule("nightly")`
        """
        self._run(self._async.delete_schedule(name=name))

    def pause_schedule(self, name: str) -> ScheduleInfo:
        """Fire no due time until the schedule is resumed (R3).

        Example: `client.pause_schedule("nightly")`
        """
        return self._run(self._async.pause_schedule(name=name))

    def resume_schedule(self, name: str) -> ScheduleInfo:
        """Fire the due times from now on; those that passed meanwhile do not fire (R3).

        Example: `client.resume_schedule("nightly")`
        """
        return self._run(self._async.resume_schedule(name=name))

    def trigger_schedule(self, name: str) -> ScheduleInfo:
        """Start a flow of the schedule now, also of a paused one and whatever `overlap` says; `last` begins with it (R3).

        Example: `info = client.trigger_schedule("nightly")`
        """
        return self._run(self._async.trigger_schedule(name=name))

    def backfill_schedule(self, name: str, first: datetime, last: datetime) -> int:
        """Start a flow for each due time of a past range that has none; returns how many (R3).

        Both ends are included, and at most 1,000 due times. Raises `TooLarge` that says how far one backfill goes.

        Example: `count = client.backfill_schedule("nightly", first, last)`
        """
        return self._run(self._async.backfill_schedule(name=name, first=first, last=last))
