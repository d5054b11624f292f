"""A duty: what a replica does for a shard again and again."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from dwarf_nats.errors import Unavailable

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Logger

HEARTBEAT_SHARE = 0.4
"""The interval of the heartbeat as a share of the time after which a replica counts as dead: two heartbeats may be missed."""


class Duty(ABC):
    """One duty for one shard."""

    wanted: asyncio.Event | None = None
    """Set while there is something to do; a duty without it always has."""

    @abstractmethod
    def interval(self) -> float:
        """Seconds to wait before a run, once there is something to do."""

    @abstractmethod
    async def run_once(self) -> None:
        """Do the duty. Raises `Unavailable`."""


class DutyRunner:
    """Runs the duties of one shard, each in a job of its own."""

    def __init__(self, shard: int, clock: Clock, logger: Logger) -> None:
        self._shard = shard
        self._clock = clock
        self._log = logger

    async def run(self, duty: Duty) -> None:
        """Repeat a duty until cancelled."""
        while True:
            if duty.wanted is not None:
                await duty.wanted.wait()
            await self._clock.sleep(duty.interval())
            await self.attempt(duty)

    async def attempt(self, duty: Duty) -> bool:
        """Do a duty once; whether the database was there for it. A defect is logged, and the next run is another attempt."""
        try:
            await duty.run_once()
        except Unavailable as error:
            self._log.debug("shard %d: %s", self._shard, error, extra={"shard": self._shard})
            return False
        except Exception:
            self._log.exception("a defect in the upkeep of shard %d", self._shard)
        return True
