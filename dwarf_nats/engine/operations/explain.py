"""Explanations of flows: what their living steps wait for (Q2)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.engine.replica_lookup import ReplicaLookup
from dwarf_nats.errors import Internal
from dwarf_nats.rules import explaining_flow
from dwarf_nats.rules.explaining_flow import MAX_WAITS
from dwarf_nats.rules.explaining_queue import Scene
from dwarf_nats.rules.replica_facts import Question, ReplicaFacts
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.living import Living, LivingStep, Moment
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.workflow.explanation import Explanation, WaitsFor
    from dwarf_nats.workflow.graph import Graph

MAX_READS = 3
"""How often a flow is read that goes on at the very moment at which its steps are looked for."""


class FlowExplanations:
    """Explains flows. The databases say what steps wait for; replicas add what only they know."""

    def __init__(self, placement: Placement, replica: Replica, lookup: ReplicaLookup) -> None:
        self._placement = placement
        self._settings = replica.settings
        self._graphs = replica.graphs
        self._holds = replica.holds
        self._lookup = lookup
        self._peers = replica.peers

    async def explain(self, flow: str) -> Explanation:
        shard, key = self._placement.locate(flow)
        store = shard.store
        for number in range(1, MAX_READS + 1):
            row = await store.flows.get(key)
            if row.status.terminal:
                break
            timeout_ms = self._settings.replica_timeout_ms
            living = await store.explanations.living(row, limit=MAX_WAITS, replica_timeout_ms=timeout_ms)
            if living.steps or number == MAX_READS:
                return await self._living(shard, row, living)
        return explaining_flow.ended_flow(shard.number, row, await store.explanations.failure(row))

    async def _living(self, shard: Shard, row: FlowRow, living: Living) -> Explanation:
        scene = self._scene(shard, living.moment, await self._all_facts(shard, living))
        graphs = await self._graphs_of(shard, living)
        return explaining_flow.living_flow(row, living, graphs, scene)

    async def _graphs_of(self, shard: Shard, living: Living) -> dict[int, Graph]:
        found: dict[int, Graph] = {}
        for flow_id in {step.flow_id for step in (*living.steps, *living.callers.values())}:
            flow = living.flows.get(flow_id)
            graph = None if flow is None else await self._graph(shard.number, flow.graph_digest)
            if graph is not None:
                found[flow_id] = graph
        return found

    async def _graph(self, shard: int, digest: str) -> Graph | None:
        try:
            return await self._graphs.frozen(shard, digest)
        except Internal:  # it was removed with the flow meanwhile
            return None

    async def _all_facts(self, shard: Shard, living: Living) -> list[ReplicaFacts]:
        """The facts of all living replicas that have something to do with these steps, and answer."""
        own = self._facts(shard, living.steps)
        question = _question(shard, living.steps)
        others = {replica.name for replica in living.replicas} - {one.name for one in own}
        if not question.urls:  # nothing is due that any replica may take
            others &= {step.replica for step in living.steps if step.replica is not None}
        if self._peers is None or not others:
            return own
        return own + await self._peers.facts(question, others)

    def _facts(self, shard: Shard, steps: Collection[LivingStep]) -> list[ReplicaFacts]:
        """The facts of replicas about these steps, those of this one first."""
        return [self._lookup.facts(_question(shard, steps))]

    def _scene(self, shard: Shard, moment: Moment, facts: Sequence[ReplicaFacts], *, complete: bool = True) -> Scene:
        return Scene(
            shard=shard.number,
            now=moment.now,
            best_priority=moment.best_priority,
            replica_timeout_us=self._settings.replica_timeout_ms * 1000,
            budget_ms=self._settings.time_budget_ms,
            replicas=facts,
            holds=self._holds.holds,
            complete=complete,
        )

    async def waits_for(self, shard: Shard, flow_ids: Sequence[int]) -> dict[int, WaitsFor]:
        """Return what the oldest living step of each of these flows waits for, by flow id; one query for all."""
        if not flow_ids:
            return {}
        moment, steps = await shard.store.explanations.oldest(flow_ids)
        if moment is None:
            return {}
        scene = self._scene(shard, moment, self._facts(shard, steps), complete=False)
        return {step.flow_id: explaining_flow.waits_for(step, scene) for step in steps}


def _question(shard: Shard, steps: Collection[LivingStep]) -> Question:
    """What is asked of replicas about these steps: those that are claimed, and the tasks of those that are due."""
    return Question(
        shard.number,
        [step.step_id for step in steps if step.replica is not None],
        list({step.url for step in steps if step.status == Status.PENDING}),
    )
