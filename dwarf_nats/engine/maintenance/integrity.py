"""The integrity check: repairs what a crash can leave in a database; the leader of the replicas does it (B5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.frozen_graphs import with_final_states

if TYPE_CHECKING:
    from dwarf_nats.engine.announcer import Announcer
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.ports import IntegrityStore, ReplicaStore

STALLED_AFTER_MS = 300_000
"""Age of its last change from which on a running flow without a live step counts as stalled: no transaction takes as long."""
SHOWN_FLOWS = 10
"""Flows that a log line names."""


class Integrity:
    """Checks the flows of one shard.

    `free_keys` frees the idempotency keys of flows that are gone.
    """

    def __init__(
        self,
        replica: Replica,
        replicas: ReplicaStore,
        integrity: IntegrityStore,
        announcer: Announcer,
        free_keys: Callable[[], Awaitable[None]],
    ) -> None:
        self._graphs = replica.graphs
        self._limits = replica.settings.limits()
        self._log = replica.logger
        self._replicas = replicas
        self._integrity = integrity
        self._shard = replicas.shard
        self._announcer = announcer
        self._free_keys = free_keys
        self.stalled_flows = 0
        """Running flows without a live step, as last counted; for a person to look at."""

    async def run_once(self) -> None:
        """Repair flows, then free the keys of flows that are gone. Raises `Unavailable`."""
        await self.repair()
        if await self._replicas.is_leader():
            await self._free_keys()

    async def repair(self) -> None:
        """Repair what can be repaired, and count what cannot. Raises `Unavailable`."""
        if not await self._replicas.is_leader():
            self.stalled_flows = 0
            return
        await self._resume_orphaned_parents()
        await self._cancel_orphaned_children()
        await self._count_stalled_flows()

    async def _resume_orphaned_parents(self) -> None:
        resumed = await self._integrity.resume_orphaned_parents()
        if resumed.due:
            self._log.warning(
                "shard %d: %d steps waited for sub-workflows that had ended or were gone",
                self._shard,
                len(resumed.due),
                extra={"shard": self._shard},
            )
            self._announcer.controlled(resumed, [])

    async def _cancel_orphaned_children(self) -> None:
        cancelled = await with_final_states(
            self._graphs, self._shard, self._limits, self._integrity.cancel_orphaned_children
        )
        if cancelled.changed or cancelled.running:
            self._log.warning(
                "shard %d: %d sub-workflows had no caller any more",
                self._shard,
                len(cancelled.changed),
                extra={"shard": self._shard},
            )
            self._announcer.controlled(cancelled, self._announcer.stopped_flows(cancelled))

    async def _count_stalled_flows(self) -> None:
        stalled = await self._integrity.find_stalled_flows(STALLED_AFTER_MS)
        if len(stalled) == self.stalled_flows:
            return
        self.stalled_flows = len(stalled)
        if stalled:
            names = ", ".join(f"{self._shard}-{flow_id}" for flow_id in stalled[:SHOWN_FLOWS])
            self._log.error(
                "shard %d: %d running flows have no live step: %s%s; look at their history, then restart or cancel them",
                self._shard,
                len(stalled),
                names,
                ", …" if len(stalled) > SHOWN_FLOWS else "",
                extra={"shard": self._shard, "flow_ids": names},
            )
