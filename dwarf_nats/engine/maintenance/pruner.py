"""The pruners: remove what nothing uses any more; the leader of the replicas does it (O1, G10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.engine.pacing import Pace
    from dwarf_nats.ports import AuditStore, Clock, ControlStore, GraphStore, ReplicaStore
    from dwarf_nats.settings import EngineSettings

PRUNE_SECONDS = 60.0
"""Between two runs of a pruner: what it removes is in nobody's way."""
GRAPH_PRUNE_SECONDS = 180.0
"""Between two runs over the graphs, of which few are put."""
AUDIT_PRUNE_SECONDS = 600.0
"""Between two looks for audit records: they are kept for days."""
COMPLETED_AGE_MS = 60_000
"""Age since their end at which flows marked delete_on_completion are removed: callers may still read the outcome before."""
COMPLETED_BATCH_FLOWS = 1_000
"""Flows removed in one transaction: bounds its locks and its time."""
AUDIT_BATCH = 1_000
"""Audit records removed in one transaction."""
AUDIT_PAUSE_SECONDS = 0.1
"""Between two of them, so that other work is not held up."""
GRAPH_BATCH = 500
"""Graphs looked at in one transaction."""
GRAPH_BATCHES = 20
"""Transactions of one run; the next run goes on where it ended."""


class FlowPruner(Duty):
    """Removes completed flows that are marked delete_on_completion."""

    def __init__(self, replicas: ReplicaStore, control: ControlStore, pace: Pace) -> None:
        self._replicas = replicas
        self._control = control
        self._pace = pace

    def interval(self) -> float:
        return PRUNE_SECONDS

    async def run_once(self) -> None:
        """Remove all there are, however many, at the pace of the shard."""
        places = range(COMPLETED_BATCH_FLOWS)
        more = True
        while more and await self._replicas.is_leader():
            _, more = await self._pace.run(places, self._remove)

    async def _remove(self, places: Sequence[int]) -> bool:
        return await self._control.remove_completed(COMPLETED_AGE_MS, len(places))


class AuditPruner(Duty):
    """Removes audit records that have been kept for as long as the setting says (M3)."""

    def __init__(self, replicas: ReplicaStore, audit: AuditStore, settings: EngineSettings, clock: Clock) -> None:
        self._replicas = replicas
        self._audit = audit
        self._settings = settings
        self._clock = clock

    def interval(self) -> float:
        return AUDIT_PRUNE_SECONDS

    async def run_once(self) -> None:
        """Remove all there are, in small steps with pauses between them."""
        while self._settings.audit_ms and await self._replicas.is_leader():
            if await self._audit.remove_old(self._settings.audit_ms, AUDIT_BATCH) < AUDIT_BATCH:
                return
            await self._clock.sleep(AUDIT_PAUSE_SECONDS)


class GraphPruner(Duty):
    """Removes graphs that no flow and no registry entry uses any more."""

    def __init__(self, replicas: ReplicaStore, graphs: GraphStore) -> None:
        self._replicas = replicas
        self._graphs = graphs
        self.cursor = ""
        """The digest up to which graphs were looked at; empty at the beginning."""

    def interval(self) -> float:
        return GRAPH_PRUNE_SECONDS

    async def run_once(self) -> None:
        """Look at the next graphs, up to the last one or to the most of one run."""
        for _ in range(GRAPH_BATCHES):
            if not await self._replicas.is_leader():
                return
            _, self.cursor = await self._graphs.prune(self.cursor, GRAPH_BATCH)
            if not self.cursor:
                return
