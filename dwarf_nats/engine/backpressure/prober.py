"""The prober of one shard: parks steps, sends probes, releases steps, one thing after the other (V4, V5)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.breaker import Deed, Event

if TYPE_CHECKING:
    from dwarf_nats.engine.backpressure.breakers import Breakers
    from dwarf_nats.engine.scheduling.admission import EagerAdmission
    from dwarf_nats.engine.scheduling.ready_queue import ReadyQueue
    from dwarf_nats.ports import BreakerStore, Clock, Logger
    from dwarf_nats.rules.steps import ReadyStep

PROBER_BACKOFF = Backoff.listed(0.05, 0.2, 1.0, 2.0)
"""Pauses while the database of the shard is away."""
UNPARK_BATCH_STEPS = 5_000
"""Parked steps released in one transaction: bounds its locks and the group that is announced."""
DEFECT_PAUSE_SECONDS = 1
"""Pause after a defect, so that it is not repeated in a tight loop."""
TAKEN_PROBE_PAUSE_US = 10_000
"""Pause if another replica has claimed the step that would be the probe."""


class ProbeSource(Protocol):
    """Claims and dispatches probes."""

    async def claim_probe(self, url: str) -> bool:
        """Claim the parked step of the task that is due longest and dispatch it as a probe; whether there was one."""
        ...


class Announcing(Protocol):
    """Announces steps that are parked no more."""

    def unparked(self, steps: Sequence[ReadyStep]) -> None:
        """These steps are pending: look for them, and tell the other replicas to."""
        ...


class Prober:
    """Does what the breakers of a shard need. What fails because the database is away is done later."""

    def __init__(
        self,
        store: BreakerStore,
        breakers: Breakers,
        *,
        admission: EagerAdmission,
        ready_queue: ReadyQueue,
        probes: ProbeSource,
        announcer: Announcing,
        clock: Clock,
        logger: Logger,
    ) -> None:
        self._log = logger
        self._store = store
        self._breakers = breakers
        self._admission = admission
        self._ready_queue = ready_queue
        self._probes = probes
        self._announcer = announcer
        self._clock = clock

    async def run(self) -> None:
        """Work until cancelled."""
        failures = 0
        while True:
            try:
                await self._wait()
                await self.work()
                failures = 0
            except Unavailable as error:
                self._log.debug("breakers: %s", error)
                await self._clock.sleep(PROBER_BACKOFF.delay(failures))
                failures += 1
                self._breakers.wakeup.set()
            except Exception:
                self._log.exception("a defect in the breakers")
                await self._clock.sleep(DEFECT_PAUSE_SECONDS)
                self._breakers.wakeup.set()

    async def work(self) -> None:
        """Do what is due now. Raises `Unavailable`; what was not done is done by the next call."""
        self._breakers.wakeup.clear()
        for url, deferred in tuple(self._breakers.deferred.items()):
            await self._do(url, deferred.deed)
            if self._breakers.deferred.get(url) is deferred:  # else there is something else to do by now
                del self._breakers.deferred[url]
        if not self._admission.draining.is_set():
            for url in self._breakers.due():
                await self._probe(url)

    async def _wait(self) -> None:
        """Wait until there is something to do: an event, a probe that falls due, or an available slot for one that is."""
        wakeup = self._breakers.wakeup
        if self._breakers.due() and not self._admission.draining.is_set():
            if self._admission.slots.available > 0:
                return
            waits = [asyncio.ensure_future(event.wait()) for event in (wakeup, self._admission.slots.has_available)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()
            return
        at = None if self._admission.draining.is_set() else self._breakers.next_at()
        seconds = None if at is None else max(0, at - self._clock.now()) / 1_000_000 + 0.001
        await self._clock.wait(wakeup, seconds)

    async def _do(self, url: str, deed: Deed) -> None:
        store = self._store
        if deed is Deed.PARK:
            await store.trip(url, self._breakers.of(url).cause)
            await store.park(url)
            return
        await store.untrip(url)
        count = 0
        while steps := await store.release(url, UNPARK_BATCH_STEPS):
            count += len(steps)
            self._announcer.unparked(steps)
        self._log.info("task %s serves again: %d steps were parked", url, count, extra={"task": url})

    async def _probe(self, url: str) -> None:
        """Send the parked step that is due longest as a probe; if there is none, the next step that comes will be it."""
        breakers, store = self._breakers, self._store
        holds = self._admission.holds
        if holds.active and holds.find(url, "") is not None:
            breakers.no_probe_until(url, None)  # the end of the hold wakes it (K2)
            return
        if self._admission.slots.available <= 0 or await self._probes.claim_probe(url):
            return
        due_in = await store.next_probe(url)
        if due_in is None and not await store.is_tripped(url) and url not in breakers.deferred:
            breakers.apply(url, Event.RELEASED)
        else:
            breakers.no_probe_until(
                url, None if due_in is None else self._clock.now() + max(TAKEN_PROBE_PAUSE_US, due_in)
            )
        self._ready_queue.wake()
