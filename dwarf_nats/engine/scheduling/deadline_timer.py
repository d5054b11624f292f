"""The deadline timer of one shard: continues steps that have waited for a resume or an event for too long (P6, E2, C5).

It sleeps until the next deadline that it knows, and asks for nothing meanwhile: steps that wait cost an idle replica nothing.
The replica that sets a deadline knows it at once; the others hear of it by their heartbeats.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.backoff import DATABASE_BACKOFF, Backoff
from dwarf_nats.errors import Unavailable

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Logger
    from dwarf_nats.rules.rows import TimedOutWaits, TreeChange

TIME_OUT_BATCH_STEPS = 100
"""Steps that are continued in one transaction: bounds its locks and its time. Each may be of another flow, which is locked."""
LOCKED_BACKOFF = Backoff(0.02, 2, 1.0)
"""Pauses while steps whose deadline has passed are locked by other transactions, which will continue them or roll back."""
DEFECT_PAUSE_SECONDS = 1.0
"""Pause after a defect, so that it is not repeated in a tight loop."""
_NEVER = 2**63


class WaitStore(Protocol):
    """The part of a store that times out waits."""

    async def time_out_waits(self, limit: int) -> TimedOutWaits:
        """Continue up to `limit` steps whose deadline has passed."""
        ...


class Announcing(Protocol):
    """Tells of flows that run again."""

    def runs_on(self, result: TreeChange) -> None:
        """Look for the steps that became pending, and announce the flows."""
        ...


class DeadlineTimer:
    """Wakes at the next deadline of a shard, and continues what has waited until then."""

    def __init__(self, shard: int, store: WaitStore, *, announcer: Announcing, clock: Clock, logger: Logger) -> None:
        self._shard = shard
        self._store = store
        self._announcer = announcer
        self._clock = clock
        self._log = logger
        self._next_at = 0
        self._earlier = asyncio.Event()
        """Set if the next deadline has come nearer."""
        self._found_locked = 0

    def note(self, delay_us: int) -> None:
        """Know of a deadline that passes `delay_us` from now."""
        at = self._clock.now() + delay_us
        if at < self._next_at:
            self._next_at = at
            self._earlier.set()

    async def run(self) -> None:
        """Work until cancelled. Begins with what has passed while no replica was there."""
        self._next_at = 0
        failures = 0
        while True:
            try:
                await self._until_due()
                await self.time_out_passed()
                failures = 0
            except Unavailable as error:
                self._log.debug("shard %d: %s", self._shard, error, extra={"shard": self._shard})
                await self._clock.sleep(DATABASE_BACKOFF.delay(failures))
                failures += 1
            except Exception:
                self._log.exception("a defect in the deadlines of shard %d", self._shard, extra={"shard": self._shard})
                await self._clock.sleep(DEFECT_PAUSE_SECONDS)

    async def time_out_passed(self) -> None:
        """Continue every step whose deadline has passed. Raises `Unavailable`; then the next call does it."""
        self._next_at = _NEVER  # lowered by what is noted from here on
        try:
            result = await self._time_out_batch()
            while result.count == TIME_OUT_BATCH_STEPS:
                result = await self._time_out_batch()
        except BaseException:
            self._next_at = 0
            raise
        if result.next_in is None:
            return
        if result.next_in > 0:
            self._found_locked = 0
            self.note(result.next_in)
        else:
            self.note(round(LOCKED_BACKOFF.delay(self._found_locked) * 1_000_000))
            self._found_locked += 1

    async def _time_out_batch(self) -> TimedOutWaits:
        result = await self._store.time_out_waits(TIME_OUT_BATCH_STEPS)
        if result.count:
            self._found_locked = 0
            self._announcer.runs_on(result.change)
        return result

    async def _until_due(self) -> None:
        """Wait until the next known deadline."""
        while (left := self._next_at - self._clock.now()) > 0:
            self._earlier.clear()
            await self._clock.wait(self._earlier, left / 1_000_000 if self._next_at < _NEVER else None)
