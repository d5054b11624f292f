"""Reading the gauges (T1): only while somebody collects them, once for every collection, shortly before the next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.backpressure.rate_limits import WIDE_OPEN_RATE
from dwarf_nats.engine.maintenance.flow_gauges import FlowGauges
from dwarf_nats.errors import Unavailable
from dwarf_nats.ports.definitions import HOME
from dwarf_nats.telemetry import catalogue
from dwarf_nats.telemetry.catalogue import BANDS, COUNTED, KEYS, LATE_SECONDS

if TYPE_CHECKING:
    from dwarf_nats.engine.maintenance.maintenance import Maintenance
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.telemetry.counters import Labels
    from dwarf_nats.workflow.records import PriorityBacklog

TICK_SECONDS = 1.0
LEAD_US = 2_000_000
"""Time before the next expected collection at which the gauges are read: enough for a slow database."""


class Gauges:
    """Reads what stands for now: of the databases with one bounded statement per shard, the rest from what is in hand.

    Exporters collect in a thread of their own, and get what was read last: nobody waits for anybody.
    """

    def __init__(self, replica: Replica, shards: Mapping[int, Shard], maintenance: Mapping[int, Maintenance]) -> None:
        self._instruments = replica.instruments
        self._backpressure = replica.backpressure
        self._limits = replica.limits
        self._clock = replica.clock
        self._log = replica.logger
        self._shards = shards
        self._sources = replica.sources
        self._maintenance = maintenance
        self.flows = FlowGauges(replica, shards)
        self._job: asyncio.Task[None] | None = None
        self._instruments.external_counters = {
            catalogue.OUTAGES: lambda: self._of_shards(lambda shard: shard.availability.outages),
            catalogue.COMMITS: lambda: self._of_shards(lambda shard: shard.committer.groups),
            catalogue.COMMITTED: lambda: self._of_shards(lambda shard: shard.committer.members),
        }

    def start(self) -> None:
        """Show and read from now on, if anybody listens."""
        self._instruments.open()
        if self._instruments.listening:
            self._job = asyncio.create_task(self._run(), name="dwarf-gauges")

    async def close(self) -> None:
        """Show nothing any more."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
        self._instruments.close()

    async def _run(self) -> None:
        await self._safely()
        collected = self._clock.now()
        due: int | None = None
        while True:
            await self._clock.sleep(TICK_SECONDS)
            now = self._clock.now()
            if self._instruments.was_collected:
                self._instruments.was_collected = False
                interval, collected = now - collected, now
                # Where the next was expected later than it came, it is read for at once.
                due = now + max(0, interval - LEAD_US) if due is None else now
            if due is not None and due <= now:
                due = None
                await self._safely()

    async def _safely(self) -> None:
        try:
            await self.read()
        except Exception:
            self._log.exception("a defect while reading the gauges")

    async def read(self) -> None:
        """Read all gauges now, flows if it is time. Those of a shard whose database is away are left out."""
        running: Counter[Labels] = Counter()
        bands: list[PriorityBacklog] = []
        for shard in tuple(self._shards.values()):
            running.update((step.url,) for step in shard.in_flight.steps)
            if not shard.availability.is_away:
                try:
                    bands += await shard.store.steps.backlogs(BANDS, COUNTED, KEYS)
                except Unavailable as error:
                    self._log.debug("shard %d: %s", shard.number, error, extra={"shard": shard.number})
        self._show_lines(bands)
        await self._show_limits()
        await self._read_late()
        await self._show_outboxes()
        show = self._instruments.show
        if self._sources is not None:
            show(catalogue.SOURCE_PENDING, {(name,): count for name, count in self._sources.pending().items()})
        show(catalogue.RUNNING, running)
        show(catalogue.FLOWS_ORPHANED, {(): sum(one.integrity.stalled_flows for one in self._maintenance.values())})
        show(catalogue.SHARD_UP, self._of_shards(lambda shard: int(not shard.availability.is_away)))
        show(
            catalogue.RATE_LIMIT,
            {(url,): rate for url, rate in self._backpressure.valves.rates().items()},
            WIDE_OPEN_RATE,
        )
        tripped = [one.url for one in self._backpressure.task_health() if one.tripped_at]
        show(catalogue.BREAKER_STATE, dict.fromkeys([(url,) for url in tripped], 1))
        try:
            await self.flows.read_if_due()
        except Unavailable as error:
            self._log.debug("flows were not counted: %s", error)

    async def _read_late(self) -> None:
        home = self._shards.get(HOME)
        if home is None or home.availability.is_away:
            return
        try:
            late = await home.store.schedules.late(LATE_SECONDS * 1_000_000, COUNTED)
        except Unavailable as error:
            self._log.debug("schedules: %s", error)
        else:
            self._instruments.show(catalogue.SCHEDULES_LATE, {(): late})

    async def _show_outboxes(self) -> None:
        rows: dict[Labels, float] = {}
        oldest: dict[Labels, float] = {}
        for shard in tuple(self._shards.values()):
            if shard.store.outbox is None or shard.availability.is_away:
                continue
            try:
                depth = await shard.store.outbox.depth(COUNTED)
            except Unavailable as error:
                self._log.debug("shard %d: %s", shard.number, error, extra={"shard": shard.number})
                continue
            number = str(shard.number)
            rows |= {(number, "waiting"): depth.waiting, (number, "rejected"): depth.rejected}
            oldest[number,] = depth.oldest_us / 1_000_000
        self._instruments.show(catalogue.OUTBOX_ROWS, rows)
        self._instruments.show(catalogue.OUTBOX_OLDEST, oldest)

    def _show_lines(self, bands: list[PriorityBacklog]) -> None:
        pending: Counter[Labels] = Counter()
        keys: Counter[Labels] = Counter()
        oldest: dict[Labels, float] = {}
        for band in bands:
            label = (str(band.priority),)
            pending[label] += band.steps
            keys[label] += band.fairness_keys
            oldest[label] = max(oldest.get(label, 0.0), band.oldest_us / 1_000_000)
        self._instruments.show(catalogue.QUEUE_DEPTH, {(): pending.total()})
        self._instruments.show(catalogue.PENDING, pending)
        self._instruments.show(catalogue.FAIRNESS_KEYS, keys)
        self._instruments.show(catalogue.OLDEST, oldest)

    async def _show_limits(self) -> None:
        """Show what limits count, and how many wait for them."""
        if not self._limits.book.active:
            return
        names = self._limits.book.by_name
        waiting: Counter[Labels] = Counter({(name,): 0 for name in names})
        oldest: dict[Labels, float] = dict.fromkeys(waiting, 0.0)
        try:
            running = await self._limits.home.running()
            for shard in self._limits.opened():
                for name, found in (await shard.limits.waiting()).items():
                    waiting[name,] += found.steps
                    oldest[name,] = max(oldest.get((name,), 0.0), found.oldest_us / 1e6)
        except Unavailable as error:
            self._log.debug("limits: %s", error)
            return
        self._instruments.show(catalogue.LIMIT_RUNNING, {(name,): running.get(name, 0) for name in names})
        self._instruments.show(catalogue.LIMIT_WAITING, waiting)
        self._instruments.show(catalogue.LIMIT_OLDEST_WAIT, oldest)

    def _of_shards(self, what: Callable[[Shard], float]) -> dict[Labels, float]:
        return {(str(number),): what(shard) for number, shard in tuple(self._shards.items())}
