"""The timer of schedules: fires each at its due time (R3).

It sleeps until the next due time that it knows, and asks for nothing meanwhile: schedules cost an idle replica nothing, however
many there are. The replica at which a schedule is put knows it at once; the others hear of it by their heartbeats.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dwarf_nats.backoff import DATABASE_BACKOFF, Backoff
from dwarf_nats.errors import Unavailable

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.schedule_runs import ScheduleRunner
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.ports import ScheduleStore
    from dwarf_nats.rules.schedules import ScheduleRow

BATCH_SCHEDULES = 100
"""Schedules that are claimed in one transaction."""
MAX_FIRING = 200
"""Schedules that are fired at the same time: bounds memory, and leaves some to other replicas."""
LEASE_US = 10_000_000
"""Time after which another replica goes on with a schedule that was claimed: firing takes far less."""
LOCKED_BACKOFF = Backoff(0.02, 2, 1.0)
"""Pauses while schedules that are due are locked by other transactions."""
DEFECT_PAUSE_SECONDS = 1.0


class ScheduleTimer:
    """Wakes at the next due time, and has the schedules fired whose time has come."""

    def __init__(self, store: ScheduleStore, runner: ScheduleRunner, replica: Replica) -> None:
        self._store = store
        self._runner = runner
        self._alarm = replica.schedule_alarm
        self._clock = replica.clock
        self._log = replica.logger
        self._firing: set[asyncio.Task[None]] = set()
        self._found_locked = 0
        self._looking = False

    @property
    def is_idle(self) -> bool:
        """Nothing is due, being looked for or being fired."""
        return not (self._looking or self._firing or self._alarm.is_due)

    async def run(self) -> None:
        """Work until cancelled. Begins with what was due while no replica was there."""
        self._alarm.note(0)
        failures = 0
        try:
            while True:
                try:
                    await self._alarm.wait()
                    await self.fire_due()
                    failures = 0
                except Unavailable as error:
                    self._log.debug("schedules: %s", error)
                    await self._clock.sleep(DATABASE_BACKOFF.delay(failures))
                    failures += 1
                except Exception:
                    self._log.exception("a defect in the timer of schedules")
                    await self._clock.sleep(DEFECT_PAUSE_SECONDS)
        finally:
            for task in self._firing:
                task.cancel()
            await asyncio.gather(*self._firing, return_exceptions=True)

    async def fire_due(self) -> None:
        """Begin to fire what is due. Raises `Unavailable`; then the next call does it."""
        self._alarm.clear()  # what is noted from here on counts
        self._looking = True
        try:
            await self._has_room()
            limit = min(BATCH_SCHEDULES, MAX_FIRING - len(self._firing))
            rows, now, next_in = await self._store.claim(limit, LEASE_US)
        except BaseException:
            self._alarm.note(0)
            raise
        finally:
            self._looking = False
        for row in rows:
            task = asyncio.create_task(self._fire(row, now), name=f"dwarf-schedule-{row.name}")
            self._firing.add(task)
            task.add_done_callback(self._firing.discard)
        if rows:
            self._found_locked = 0
        if next_in is None:
            return
        if next_in > 0 or rows:
            self._alarm.note(max(0, next_in))
        else:
            self._alarm.note(round(LOCKED_BACKOFF.delay(self._found_locked) * 1_000_000))
            self._found_locked += 1

    async def _has_room(self) -> None:
        while len(self._firing) >= MAX_FIRING:
            await asyncio.wait(self._firing, return_when=asyncio.FIRST_COMPLETED)

    async def _fire(self, row: ScheduleRow, now: int) -> None:
        """Fire one schedule. If that fails, it is claimed again when its lease is over."""
        try:
            await self._runner.run(row, now)
        except Unavailable as error:
            self._log.debug("schedule %s: %s", row.name, error)
        except Exception:
            self._log.exception("a defect while the schedule %s was fired", row.name)
