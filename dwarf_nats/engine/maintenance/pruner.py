"""The pruners: remove what nothing uses any more; the leader of the replicas does it (O1, G10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty

if TYPE_CHECKING:
    from dwarf_nats.ports import ControlStore, GraphStore, ReplicaStore

PRUNE_SECONDS = 60.0
"""Between two runs of a pruner: what it removes is in nobody's way."""
COMPLETED_AGE_MS = 60_000
"""Age since their end at which flows marked delete_on_completion are removed: callers may still read the outcome before."""
COMPLETED_BATCH_FLOWS = 1_000
"""Flows removed in one transaction: bounds its locks and its time."""
GRAPH_BATCH = 500
"""Graphs looked at in one transaction."""
GRAPH_BATCHES = 20
"""Transactions of one run; the next run goes on where it ended."""


class FlowPruner(Duty):
    """Removes completed flows that are marked delete_on_completion."""

    def __init__(self, replicas: ReplicaStore, control: ControlStore) -> None:
        self._replicas = replicas
        self._control = control

    def interval(self) -> float:
        return PRUNE_SECONDS

    async def run_once(self) -> None:
        """Remove all there are, however many."""
        while await self._replicas.is_leader() and await self._control.remove_completed(
            COMPLETED_AGE_MS, COMPLETED_BATCH_FLOWS
        ):
            pass


class GraphPruner(Duty):
    """Removes graphs that no flow and no registry entry uses any more."""

    def __init__(self, replicas: ReplicaStore, graphs: GraphStore) -> None:
        self._replicas = replicas
        self._graphs = graphs
        self.cursor = ""
        """The digest up to which graphs were looked at; empty at the beginning."""

    def interval(self) -> float:
        return PRUNE_SECONDS

    async def run_once(self) -> None:
        """Look at the next graphs, up to the last one or to the most of one run."""
        for _ in range(GRAPH_BATCHES):
            if not await self._replicas.is_leader():
                return
            _, self.cursor = await self._graphs.prune(self.cursor, GRAPH_BATCH)
            if not self.cursor:
                return
