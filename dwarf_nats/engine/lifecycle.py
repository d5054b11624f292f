"""Start and stop of a replica, and of its shards (O17, B3)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dwarf_nats.engine.assembly import new_shard
from dwarf_nats.engine.limiting.sweep import LimitSweep
from dwarf_nats.engine.maintenance.gauges import Gauges
from dwarf_nats.engine.maintenance.maintenance import Maintenance
from dwarf_nats.errors import BadRequest, DwarfError, Unavailable
from dwarf_nats.ports import Unusable

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.all import Operations
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Store

REOPEN_SECONDS = 1.0
"""Between two attempts to open a database that was away at the start."""


class Lifecycle:
    """Starts and stops a replica: opens its shards, keeps trying those that are away, drains and closes them."""

    def __init__(self, shards: dict[int, Shard], replica: Replica, operations: Operations) -> None:
        self._shards = shards
        self._replica = replica
        self._operations = operations
        self.maintenance = {number: Maintenance(shard, replica, operations) for number, shard in shards.items()}
        self._limit_sweep = LimitSweep(replica.limits, replica.definitions.refresh, replica.clock, replica.logger)
        self._operations = operations
        self.maintenance = {number: Maintenance(shard, replica, operations) for number, shard in shards.items()}
        self.gauges = Gauges(replica, shards, self.maintenance)
        self._deployment = replica.deployment
        self._clock = replica.clock
        self._log = replica.logger
        self._opening: set[asyncio.Task[None]] = set()
        self.ready = False
        """Started and not stopping."""

    # -- start and stop

    async def start(self, *, migrate: bool, patient: bool) -> None:
        """Open the shards and take up work. Raises as `Engine.startup`."""
        self._replica.slots.reset()
        await self._open_all(migrate=migrate, patient=patient)
        self._replica.limits.start()
        self._limit_sweep.start()
        self._replica.fetcher.start()
        self.gauges.start()
        self.ready = True

    def configure(self, **settings: int | None) -> None:
        """Change settings; `None` leaves one as it is. Raises as `Engine.configure`."""
        given = {name: value for name, value in settings.items() if value is not None}
        for name, value in given.items():
            if value < 1:
                raise BadRequest(f"setting {name} must be at least 1, got {value}")
            setattr(self._replica.settings, name, value)
        self._replica.slots.resized()
        if "pool" in given:
            for shard in self._shards.values():
                shard.store.resize(given["pool"])

    def stop_claiming(self) -> None:
        """Take no more work."""
        self._replica.fetcher.stop()
        for shard in self._shards.values():
            shard.stop_claiming()

    async def stop(self) -> None:
        """Drain (B3): stop claiming, wait for the steps in flight up to `drain_ms`, release the rest at once, close."""
        if not self.ready:
            return
        self.ready = False
        await self._stop_opening()
        self.stop_claiming()
        drain_ms = self._replica.settings.drain_ms
        if drain_ms:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_ms / 1000):
                    await self._replica.slots.idle.wait()
        await self._replica.fetcher.close()
        await self.gauges.close()
        await self._replica.events.close()
        await self._replica.definitions.close()
        await self._replica.audit.close()
        for shard in self._shards.values():
            await shard.in_flight.release_all()
        await asyncio.gather(*(shard.close() for shard in self._shards.values()))
        await self._limit_sweep.close()
        await self._replica.limits.close()

    # -- shards

    async def _open_all(self, *, migrate: bool, patient: bool) -> None:
        """Open every shard and agree with the other replicas on their number; all or none stay open.

        If `patient`, one that can be opened is enough: the others are opened when their databases come. Raises as
        `Engine.startup`.
        """
        shards = list(self._shards.values())
        for shard in shards:
            shard.store.replicas.known_shards = len(shards)
        found = await asyncio.gather(*(self._open(shard, migrate=migrate) for shard in shards), return_exceptions=True)
        failed = {shard.number: error for shard, error in zip(shards, found, strict=True) if error is not None}
        opened = [shard for shard in shards if shard.number not in failed]
        grave = [error for error in failed.values() if not _may_pass(error)]
        if failed and (grave or not patient or not opened):
            await self._close(opened)
            raise (grave or [*failed.values()])[0]
        for number, error in failed.items():
            self._log.warning("shard %d is away and taken up when it comes: %s", number, error, extra={"shard": number})
            self._shards[number].availability.report_away(str(error))
            self._open_later(self._shards[number], migrate=migrate)
        try:
            await self._deployment.agree()
        except Unavailable as error:  # the next heartbeat goes on
            self._log.warning("%s", error)
        except BaseException:
            await self._stop_opening()
            await self._close(shard for shard in self._shards.values() if shard.opened)
            raise

    async def add(self, store: Store, *, migrate: bool) -> None:
        """Open one more shard, give it the registry of graphs, and tell the other replicas. Raises as `Engine.add_shard`."""
        following = max(self._shards) + 1
        if store.shard != following:
            raise BadRequest(
                f"the next shard is number {following}, got {store.shard}: shards are only added, in order"
            )
        shard = new_shard(self._replica, store)
        self.maintenance[shard.number] = Maintenance(shard, self._replica, self._operations)
        store.replicas.known_shards = following
        await self._open(shard, migrate=migrate)
        try:
            await self._replica.graphs.add_store(store.shard, store.graphs)
        except BaseException:
            await self._close([shard])
            raise
        self._shards[shard.number] = shard
        for one in self._shards.values():
            one.store.replicas.known_shards = following
            with contextlib.suppress(Unavailable):  # its next heartbeat tells
                await one.store.replicas.heartbeat(self._replica.name)
        await self._deployment.agree()

    async def _stop_opening(self) -> None:
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    async def _open(self, shard: Shard, *, migrate: bool) -> None:
        await shard.open(
            self._replica.name,
            migrated=migrate,
            duties=self.maintenance[shard.number],
            admit=self._deployment.admit,
        )

    async def _close(self, shards: Iterable[Shard]) -> None:
        for shard in shards:
            shard.stop_claiming()
            await shard.close()

    def _open_later(self, shard: Shard, *, migrate: bool) -> None:
        task = asyncio.create_task(self._until_open(shard, migrate=migrate), name=f"dwarf-opener-{shard.number}")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _until_open(self, shard: Shard, *, migrate: bool) -> None:
        while True:
            await self._clock.sleep(REOPEN_SECONDS)
            try:
                await self._open(shard, migrate=migrate)
                await self._deployment.agree()
            except DwarfError as error:
                shard.availability.report_away(str(error))
            else:
                shard.availability.report_answer()
                self._log.info("shard %d is here", shard.number, extra={"shard": shard.number})
                return


def _may_pass(error: BaseException) -> bool:
    """Tell whether waiting may help: the database is away, not unusable."""
    return isinstance(error, Unavailable) and not isinstance(error, Unusable)
