"""Keeps the steps of one shard that are on hold parked, and releases them when their hold has ended (K2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.engine.announcer import Announcer
    from dwarf_nats.engine.backpressure import ShardBackpressure
    from dwarf_nats.engine.holds import HoldBook
    from dwarf_nats.engine.maintenance.duty import DutyRunner
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.ports import HoldStore
    from dwarf_nats.rules.holds import HoldCandidate

PAGE_STEPS = 1_000
"""Ready steps that are read at once, and parked in one transaction: bounds its locks."""
RELEASE_BATCH_STEPS = 2_000
"""Steps that are released in one transaction: bounds its locks and the group that is announced."""
LOOK_SECONDS = 30.0
"""Pause between two looks: another replica may have parked steps for a hold that it did not yet know to be over, and died."""
RETRY_SECONDS = 0.5
"""Pause while the database is away."""


class HoldLook(Duty):
    """Has the keeper of holds look now and then."""

    def __init__(self, keeper: HoldKeeper) -> None:
        self._keeper = keeper

    def interval(self) -> float:
        return LOOK_SECONDS

    async def run_once(self) -> None:
        """Have it look."""
        self._keeper.look_again()


class HoldKeeper(Duty):
    """Compares the holds with the steps that are parked, whenever a hold begins or ends."""

    def __init__(
        self, replica: Replica, store: HoldStore, *, announcer: Announcer, backpressure: ShardBackpressure
    ) -> None:
        self._book: HoldBook = replica.holds
        self._clock = replica.clock
        self._log = replica.logger
        self._store = store
        self._announcer = announcer
        self._backpressure = backpressure
        self._parked_for: set[str] = set()
        self._done = False
        self._wakeup = asyncio.Event()
        self._book.on_change(self._wakeup.set)

    async def run(self, runner: DutyRunner) -> None:
        """Work until cancelled."""
        self._parked_for.clear()
        while True:
            self._wakeup.clear()
            self._done = False
            await runner.attempt(self)
            if self._done:
                await self._clock.wait(self._wakeup, self._until_next_end())
            else:
                await self._clock.sleep(self.interval())

    def interval(self) -> float:
        return RETRY_SECONDS

    def _until_next_end(self) -> float | None:
        """Seconds until the next hold ends by itself."""
        at = self._book.next_end()
        return None if at is None else max(0, at - self._clock.now()) / 1_000_000 + 0.001

    def look_again(self) -> None:
        """Compare the holds with the steps once more."""
        self._wakeup.set()

    async def run_once(self) -> None:
        """Park what a new hold stops, release what none stops any more. Raises `Unavailable`."""
        held = {hold.name for hold in self._book.lasting()}
        for name in await self._store.holds_with_steps():
            if name not in held:
                await self._release(name)
        self._parked_for &= held
        if held - self._parked_for:
            await self._park_ready()
            self._parked_for = held
        self._done = True

    async def _park_ready(self) -> None:
        """Park the ready steps that a hold stops. Those that become ready later are parked when they are claimed."""
        last: HoldCandidate | None = None
        total = 0
        while True:
            page = await self._store.ready_page(last, PAGE_STEPS)
            found: dict[str, list[int]] = {}
            for step in page:
                if (hold := self._book.find(step.url, step.workflow)) is not None:
                    found.setdefault(hold.name, []).append(step.step_id)
            for name, step_ids in found.items():
                total += await self._store.park_ready(name, step_ids)
            if len(page) < PAGE_STEPS:
                break
            last = page[-1]
        if total:
            self._log.info("%d steps are on hold", total)

    async def _release(self, name: str) -> None:
        total, more = 0, True
        while more:
            steps, more = await self._store.release(name, RELEASE_BATCH_STEPS)
            total += len(steps)
            if steps:
                self._announcer.unparked(steps)
        self._backpressure.on_new_work()  # a breaker of the task may be tripped: then one of the steps is its probe
        self._log.info("the hold %s has ended: %d steps go on", name, total)
