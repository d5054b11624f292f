"""Heals what a crash leaves of limits: permits whose holder is over, steps that nobody woke, counts nobody uses (K1, B2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.limiting import Over

if TYPE_CHECKING:
    from dwarf_nats.engine.limiting.limiter import LimitedShard, Limiter
    from dwarf_nats.ports import Clock, Logger
    from dwarf_nats.rules.limiting import Permit

SWEEP_SECONDS = 2.0
"""Between two sweeps: so long does the slot of a dead replica's step wait once the step is taken from it."""
PERMITS_PAGE, QUEUES_PAGE, WAITS_PAGE = 2_000, 1_000, 2_000
"""Permits, queues and rows of queues that one sweep looks at; the next one goes on behind them."""
BRISK_SECONDS = 0.2
"""The pause after a sweep that had queues woken and left others: after a crash or a change, 100,000 keys may have room."""
REST_SECONDS = 10.0
"""The pause after a sweep that found neither a permit nor a queue, unless a limit changes: then nothing waits to be healed."""
PRUNE_RUNS = 30
"""Sweeps from one removal of unused counts to the next."""
COUNT_AGE_US = 3_600_000_000
"""Time after which the count of an unused slot is removed."""


class LimitSweep:
    """Looks through permits and queues, a page at a time, round and round. Rests while there is no limit."""

    def __init__(self, limiter: Limiter, refresh: Callable[[], Awaitable[None]], clock: Clock, logger: Logger) -> None:
        self._limiter = limiter
        self._refresh = refresh
        self._clock = clock
        self._log = logger
        self._job: asyncio.Task[None] | None = None
        self._permit = ""
        self._queues: dict[int, tuple[str, str]] = {}
        self._waits: dict[int, int] = {}
        self._runs = 0
        self._resting = False
        self._more = False
        self._clean = False
        """No limit, and a whole round that found nothing left of one."""

    def start(self) -> None:
        """Sweep from now on."""
        self._clean = False
        self._job = asyncio.create_task(self._run(), name="dwarf-limit-sweep")

    async def close(self) -> None:
        """Sweep no more."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                if self._limiter.book.active or not self._clean:
                    await self.sweep()
            except Unavailable as error:
                self._log.debug("limits: %s", error)
            except Exception:
                self._log.exception("a defect in the sweep of limits")
            brisk = BRISK_SECONDS if self._more else SWEEP_SECONDS
            if self._resting:
                await self._rest()
            else:
                await self._clock.sleep(brisk)

    async def _rest(self) -> None:
        """Sleep, unless a limit changes. It is upkeep: nothing is due at its end, as it would be with `wait`."""
        ends = [
            asyncio.ensure_future(self._clock.sleep(REST_SECONDS)),
            asyncio.ensure_future(self._limiter.changed.wait()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def sweep(self) -> None:
        """Look through one page of everything. Raises `Unavailable`."""
        book = self._limiter.book
        self._limiter.changed.clear()
        self._more = False
        found = await self._take_back()
        for shard in self._limiter.opened():
            queues = await self._wake(shard)
            found |= queues
            after = self._waits.get(shard.number, 0)
            if queues or after:
                self._waits[shard.number] = await shard.limits.clear_stale(after, WAITS_PAGE)
        self._runs += 1
        if self._runs % PRUNE_RUNS == 0:
            await self._limiter.home.prune_counts(COUNT_AGE_US, PERMITS_PAGE)
        self._resting = not found
        self._clean = not book.active and not found

    async def _take_back(self) -> bool:
        """Take back the permits that are over; whether there are any."""
        page = await self._limiter.home.permits(self._permit, PERMITS_PAGE)
        self._permit = page[-1].permit if len(page) == PERMITS_PAGE else ""
        await self._learn(permit.name for permit in page)
        by_shard: dict[int, list[Permit]] = {}
        for permit in page:
            by_shard.setdefault(permit.shard, []).append(permit)
        for number, permits in by_shard.items():
            shard = self._limiter.shards.get(number)
            if shard is None or not shard.opened:
                continue
            over, parked = await shard.limits.ended(permits)
            unknown = [one for one in permits if one.name not in self._limiter.book.by_name and one not in over]
            self._limiter.over(Over(one.permit, one.generation, slot=one.slot) for one in [*over, *unknown])
            if parked:
                shard.found_ready(await shard.limits.unpark(parked))
        return bool(page)

    async def _learn(self, names: Iterable[str]) -> None:
        """Make sure that a name which is not known is of no limit, rather than of one that was put a moment ago."""
        if any(name not in self._limiter.book.by_name for name in names):
            await self._refresh()

    async def _wake(self, shard: LimitedShard) -> bool:
        """Have queues looked at whose slots have room; whether there are any queues."""
        limiter, after = self._limiter, self._queues.get(shard.number, ("", ""))
        page = await shard.limits.queues(after, QUEUES_PAGE)
        self._queues[shard.number] = page[-1] if len(page) == QUEUES_PAGE else ("", "")
        await self._learn(name for name, _ in page)
        known = limiter.book.by_name
        for name in {name for name, _ in page if name not in known}:
            await limiter.release(name)
        slots = {slot: known[name] for name, slot in page if name in known}
        counts = await limiter.home.counts(slots) if slots else {}
        filled = 0
        for slot, limit in slots.items():
            if slot not in counts:
                limiter.fill([slot])
                filled += 1
                continue
            count, now = counts[slot]
            count.refill(limit, now)
            denial = count.denies(limit)
            # A permit that is reserved may be of a step that nobody has woken.
            if denial is None or count.reserved or denial.retry_us is not None:
                limiter.fill([slot])
                filled += denial is None
        self._more |= len(page) == QUEUES_PAGE and filled > len(page) // 2
        return bool(page)
