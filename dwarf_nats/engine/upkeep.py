"""What a replica does for a shard beside running steps: says that it lives, takes up what others left, clears away (B1-B5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.steps import StepRef

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Clock

BEAT = 0.4
"""How often a replica renews its row, as a share of the time after which it is taken for dead."""
LOOK_SECONDS = 2.0
"""A flow that is waited for is looked at in the database so often, should nobody tell that it stopped."""
REMOVE_SECONDS = 60.0
REMOVE_AGE_MS = 60_000
PRUNE_SECONDS = 60.0
PRUNED = 500
PRUNED_PAGES = 20
"""How often graphs are looked at for those that nothing uses, how many in one transaction, and how many transactions a time."""
REMOVED = 1_000
"""Flows marked delete_on_completion are looked for so often, removed at this age, so many in one transaction."""


class Upkeep:
    """The jobs of one shard that go on while it is open; none of them ends by itself."""

    def __init__(
        self,
        shard: Shard,
        clock: Clock,
        heal: Callable[[Shard], Awaitable[None]],
        agree: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self._shard = shard
        self._clock = clock
        self._heal = heal
        self._agree = agree
        self._pruned = ""

    def jobs(self, name: str) -> Mapping[str, Coroutine[Any, Any, None]]:
        """By name; for a shard that was just opened for the replica of this name."""
        self._shard.availability.heard_at = self._clock.now()
        return {
            "pulse": self._forever(self._beat_seconds, lambda: self._beat(name)),
            "reaper": self._reap(),
            "looker": self._look_for_waiters(),
            "pruner": self._forever(lambda: PRUNE_SECONDS, self._prune),
            "remover": self._forever(lambda: REMOVE_SECONDS, self._clear_away),
        }

    def _beat_seconds(self) -> float:
        return self._shard.settings.replica_timeout_ms / 1000 * BEAT

    async def _forever(self, seconds: Callable[[], float], duty: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._clock.sleep(seconds())
            await self._done(duty)

    async def _done(self, duty: Callable[[], Awaitable[None]]) -> bool:
        """Do a duty; whether the database was there for it. A defect is told, and the next time is another try."""
        shard = self._shard
        try:
            await duty()
        except Unavailable as error:
            shard.log.debug("shard %d: %s", shard.number, error, extra={"shard": shard.number})
            return False
        except Exception:
            shard.log.exception("a defect in the upkeep of shard %d", shard.number)
        return True

    async def _beat(self, name: str) -> None:
        """Say that this replica lives (B2), whatever else it may be waiting for."""
        shard = self._shard
        shard.debug_log.refresh()
        try:
            pulse = await shard.store.heartbeat(name)
        except Unavailable as error:
            shard.availability.report_away(str(error))
            shard.availability.count_outage()
            raise
        shard.gate.held = pulse.held
        shard.availability.report_answer()
        if pulse.due_in is not None:
            shard.ready_queue.hint_any(pulse.due_in)
        shard.availability.heard_at = self._clock.now()
        await self._agree(shard.number, pulse.shards)

    async def _look_for_waiters(self) -> None:
        """Ask the database about those flows that have been waited for a while: who stops one may not have said so (B1, O4)."""
        waiters = self._shard.waiters
        before: set[int] = set()

        async def look() -> None:
            if before & now:
                for flow_id in await self._shard.store.stopped_among(sorted(before & now)):
                    waiters.wake(flow_id, None)

        while True:
            await waiters.some.wait()
            await self._clock.sleep(LOOK_SECONDS)
            now = waiters.waited_for()
            await self._done(look)
            before = now

    async def _clear_away(self) -> None:
        """Remove what is marked delete_on_completion, a minute after it has completed, however much that is (O1)."""
        store = self._shard.store
        while await store.is_leader() and await store.remove_completed(REMOVE_AGE_MS, REMOVED):
            pass

    async def _prune(self) -> None:
        """Remove graphs that no flow and no registry entry uses any more (G10)."""
        store = self._shard.store
        for _ in range(PRUNED_PAGES):
            if not await store.is_leader():
                return
            _, self._pruned = await store.prune_graphs(self._pruned, PRUNED)
            if not self._pruned:
                return

    async def _reap(self) -> None:
        """Sweep every few beats; after an outage first give back what is not in hand (B6)."""
        shard = self._shard
        ticks = 0
        outages = shard.outages

        async def tick() -> None:
            if outages != before:
                await shard.store.release_unowned_leases([step.step_id for step in shard.in_flight.steps])
                shard.wake()
            if ticks % 3 == 0:
                await self.sweep()
                if ticks % 15 == 0:
                    await shard.store.delete_dead_replicas(shard.settings.replica_timeout_ms)
                if ticks % 60 == 0:
                    await self._heal(shard)

        while True:
            await self._clock.sleep(self._beat_seconds())
            before, outages = outages, shard.outages
            # The other replicas could not renew their rows either while it was away: they are given time.
            ticks = ticks + 1 if outages == before else 1
            if not await self._done(tick):
                outages = -1

    async def sweep(self) -> None:
        """Learn what no signal told, take up the steps of silent replicas, tell tasks that nobody wants (B1, B2, O10)."""
        shard = self._shard
        await shard.gate.sweep()
        if found := await shard.store.reclaim_expired_leases(shard.settings.replica_timeout_ms):
            self.recovered(found)
            shard.wake()
        running = shard.in_flight.executing
        for step_id in await shard.store.cancelled_among(list(running)) if running else ():
            if step_id in running:  # nobody told, or the signal was lost
                shard.in_flight.cancel([StepRef(step_id, running[step_id])])

    def recovered(self, steps: int) -> None:
        """So many steps of silent replicas, or past their lease, are pending again (B2)."""
        shard = self._shard
        if steps:
            shard.counters.recovered.add(n=steps)
            shard.log.info(
                "shard %d: %d steps of silent replicas are pending again", shard.number, steps,
                extra={"shard": shard.number},
            )  # fmt: skip
