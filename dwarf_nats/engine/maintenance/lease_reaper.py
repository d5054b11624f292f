"""The lease reaper: takes back the steps of replicas that are silent, and what this replica does not know of (B1, B2, B6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import HEARTBEAT_SHARE, Duty
from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.steps import StepRef

if TYPE_CHECKING:
    from dwarf_nats.engine.availability import Availability
    from dwarf_nats.engine.backpressure import ShardBackpressure
    from dwarf_nats.engine.execution.in_flight import InFlight
    from dwarf_nats.engine.maintenance.integrity import Integrity
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.scheduling.ready_queue import ReadyQueue
    from dwarf_nats.ports import ReplicaStore, StepStore

SWEEP_RUNS = 3
"""Runs from one sweep to the next: a little more than the time after which a replica counts as dead."""
DEAD_REPLICAS_RUNS = 15
"""Runs from one removal of dead replicas to the next: they are in nobody's way."""
INTEGRITY_RUNS = 60
"""Runs from one integrity check to the next: it looks at much, and finds something only after a crash."""
AFTER_FAILURE = -1
"""No number of outages: what a run could not do, the next one does first."""


class LeaseReaper(Duty):
    """Runs as often as the heartbeat, sweeps now and then, and has the integrity of flows checked rarely."""

    def __init__(
        self,
        replica: Replica,
        replicas: ReplicaStore,
        steps: StepStore,
        *,
        availability: Availability,
        in_flight: InFlight,
        ready_queue: ReadyQueue,
        backpressure: ShardBackpressure,
        integrity: Integrity,
    ) -> None:
        self._settings = replica.settings
        self._counters = replica.counters
        self._log = replica.logger
        self._replicas = replicas
        self._steps = steps
        self._availability = availability
        self._in_flight = in_flight
        self._ready_queue = ready_queue
        self._backpressure = backpressure
        self._integrity = integrity
        self._runs = 0
        self._outages = 0

    def begin(self) -> None:
        """Count runs and outages from the opening of the database."""
        self._runs = 0
        self._outages = self._availability.outages

    def interval(self) -> float:
        return self._settings.replica_timeout_ms / 1000 * HEARTBEAT_SHARE

    async def run_once(self) -> None:
        """Sweep every few runs; after an outage first release what is not in flight (B6)."""
        before, self._outages = self._outages, self._availability.outages
        # The other replicas could not renew their rows either while it was away: they are given time.
        self._runs = self._runs + 1 if self._outages == before else 1
        try:
            if self._outages != before:
                await self._replicas.release_unowned_leases([step.step_id for step in self._in_flight.steps])
                self._ready_queue.wake()
            if self._runs % SWEEP_RUNS == 0:
                await self.sweep()
            if self._runs % DEAD_REPLICAS_RUNS == 0:
                await self._replicas.delete_dead(self._settings.replica_timeout_ms)
            if self._runs % INTEGRITY_RUNS == 0:
                await self._integrity.run_once()
        except Unavailable:
            self._outages = AFTER_FAILURE
            raise

    async def sweep(self) -> None:
        """Learn what no signal told, take up the steps of silent replicas, end tasks that nobody wants (B1, B2, O10)."""
        await self._backpressure.reconcile()
        if await self.reclaim():
            self._ready_queue.wake()
        running = self._in_flight.executing
        for step_id in await self._steps.cancelled_among(list(running)) if running else ():
            if step_id in running:  # nobody told, or the signal was lost
                self._in_flight.cancel([StepRef(step_id, running[step_id])])

    async def reclaim(self) -> int:
        """Make the steps of silent replicas pending again, and those past their lease; how many there were (B2)."""
        steps = await self._replicas.reclaim_expired_leases(self._settings.replica_timeout_ms)
        if steps:
            number = self._replicas.shard
            self._counters.recovered.add(n=steps)
            self._log.info(
                "shard %d: %d steps of silent replicas are pending again", number, steps, extra={"shard": number}
            )
        return steps
