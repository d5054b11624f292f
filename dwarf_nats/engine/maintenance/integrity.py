"""Sweeps of one shard, done by one of the replicas that live (B5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.control import stopped_flows
from dwarf_nats.engine.operations.frozen_graphs import with_final_states

if TYPE_CHECKING:
    from dwarf_nats.engine.deployment import Deployment
    from dwarf_nats.engine.graphs import GraphBook
    from dwarf_nats.engine.shard import Shard

ORPHANED_AFTER_MS = 300_000
SHOWN = 10


class Integrity:
    """Repairs what a crash has left in a database; the leader of its replicas does it."""

    def __init__(self, graphs: GraphBook, deployment: Deployment) -> None:
        self._graphs = graphs
        self._deployment = deployment

    async def run_once(self, shard: Shard) -> None:
        """Repair flows, then free the idempotency keys of flows that are gone. Raises `Unavailable`."""
        await sweep(shard, self._graphs)
        if await shard.store.is_leader():
            await self._deployment.tidy(shard)


async def sweep(shard: Shard, graphs: GraphBook) -> None:
    """Heal what a crash can leave, and count what nobody can: running flows without any live step."""
    if not await shard.store.is_leader():
        shard.orphaned = 0
        return
    woken = await shard.store.resume_orphaned_parents()
    if woken.due:
        shard.log.warning(
            "shard %d: %d steps waited for sub-workflows that had ended or were gone", shard.number, len(woken.due),
            extra={"shard": shard.number},
        )  # fmt: skip
        shard.announcer.controlled(woken, [])
    unwanted = await with_final_states(graphs, shard.number, shard.limits, shard.store.cancel_orphaned_children)
    if unwanted.changed or unwanted.running:
        shard.log.warning(
            "shard %d: %d sub-workflows had no caller any more", shard.number, len(unwanted.changed),
            extra={"shard": shard.number},
        )  # fmt: skip
        shard.announcer.controlled(unwanted, stopped_flows(shard, unwanted))
    orphaned = await shard.store.orphaned(ORPHANED_AFTER_MS)
    if len(orphaned) != shard.orphaned:
        shard.orphaned = len(orphaned)
        if orphaned:
            names = ", ".join(f"{shard.number}-{flow_id}" for flow_id in orphaned[:SHOWN])
            shard.log.error(
                "shard %d: %d running flows have no live step: %s%s; look at their history, then restart or cancel them",
                shard.number, len(orphaned), names, ", …" if len(orphaned) > SHOWN else "",
                extra={"shard": shard.number, "flow_ids": names},
            )  # fmt: skip
