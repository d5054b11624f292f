"""Operations that read flows (O5-O9, O16), and the one that purges what a query finds (O9)."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations import history, paging
from dwarf_nats.engine.operations.checks import check_query, checked_limit
from dwarf_nats.engine.operations.step_links import StepLinks
from dwarf_nats.engine.projections import current_outcome, nested_history, step_with_state
from dwarf_nats.errors import BadRequest, DwarfError, Internal, NotFound, TooLarge
from dwarf_nats.render.history import history_mermaid
from dwarf_nats.rules import breakpoints
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.keys import parse_key
from dwarf_nats.workflow.limits import over
from dwarf_nats.workflow.options import LIST_DEFAULT_FLOWS, Query
from dwarf_nats.workflow.records import FlowCounts, ShardInfo
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.explain import FlowExplanations
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.workflow.records import FlowSummary, Outcome, Step

PURGE_MAX_FLOWS = 10_000
"""Most flows of one purge, and how many without a limit."""
PURGE_BATCH_FLOWS = 1_000
"""Flows removed in one transaction of a purge, so that it holds no locks for long."""
LIST_MAX_FLOWS = 1_000
HISTORY_MAX_STEPS = 1_000
"""Most steps of one page of a history."""
HISTORY_THREAD_MIN_STEPS = 1_000
"""A history of more steps is put together in a thread: it takes long, and the others need their turn."""
INFO_PRIORITIES, INFO_STEPS, INFO_KEYS = 8, 1_000, 100
"""Best priorities of a shard whose backlog is told, and of each the steps and fairness keys that are counted."""
SHARD_INFO_SECONDS = 10.0
"""Longest wait for the numbers of one shard, before it is reported as not answering."""


class FlowQueries:
    """Reads flows, steps and shards. `Engine` documents the methods."""

    def __init__(self, placement: Placement, replica: Replica, explanations: FlowExplanations) -> None:
        self._placement = placement
        self._explanations = explanations
        self._deployment = replica.deployment
        self._graphs = replica.graphs
        self._limits = replica.settings.limits()

    # -- one flow

    async def snapshot(self, flow: str) -> Outcome:
        shard, key = self._placement.locate(flow)
        row = await shard.store.flows.get(key)
        outcome = await current_outcome(shard.store.flows, row)
        outcome.breakpoints = () if row.breakpoints is None else breakpoints.read(row.breakpoints)
        return outcome

    async def fingerprint(self, flow: str) -> tuple[str, Status]:
        shard, key = self._placement.locate(flow)
        facts = await shard.store.flows.fingerprint(await shard.store.flows.get(key))
        if not facts:
            raise NotFound(f"no flow {key.public_id}: it was deleted")
        return hashlib.sha256("|".join(facts).encode()).hexdigest()[:32], Status(facts[0])

    async def history(self, flow: str) -> list[Step]:
        shard, key = self._placement.locate(flow)
        store = shard.store
        flows = await store.flows.called(await store.flows.get(key))
        flow_ids = [one.flow_id for one in flows]
        most = self._limits.max_history
        if await store.flows.count_steps(flow_ids, most) > most:
            remedy = "read its history page by page"
            raise TooLarge(over(f"flow {key.public_id} has more than {most} steps", "max_history", most, remedy))
        steps = await store.flows.steps(flow_ids)
        found = {one.flow_id: await self._graph(key.shard, one.graph_digest) for one in flows}
        graphs = {flow_id: graph for flow_id, graph in found.items() if graph is not None}
        nested = partial(nested_history, key.shard, key.id, flows=flows, steps=steps, graphs=graphs)
        shown = await asyncio.to_thread(nested) if len(steps) > HISTORY_THREAD_MIN_STEPS else nested()
        shard.progress.show(shown)
        return shown

    async def history_page(self, flow: str, limit: int, cursor: str) -> tuple[list[Step], str]:
        limit = checked_limit(limit, limit, HISTORY_MAX_STEPS)
        shard, key = self._placement.locate(flow)
        row = await shard.store.flows.get(key)
        graph_of = partial(self._graph, key.shard)
        steps, cursor = await history.page(shard.store.histories, row, cursor, limit, graph_of=graph_of)
        shard.progress.show(steps)
        return steps, cursor

    async def _graph(self, shard: int, digest: str) -> Graph | None:
        """Return a graph that flows were created with, or nothing if it was removed with the last of them meanwhile."""
        try:
            return await self._graphs.frozen(shard, digest)
        except Internal:
            return None

    async def mermaid(self, flow: str, fits: Callable[[str], bool]) -> str:
        shard, key = self._placement.locate(flow)
        row = await shard.store.flows.get(key)
        return await asyncio.to_thread(history_mermaid, await self.history(flow), row.workflow, fits)

    async def flow_graph(self, flow: str) -> Graph:
        shard, key = self._placement.locate(flow)
        row = await shard.store.flows.get(key)
        graph = await self._graph(key.shard, row.graph_digest)
        if graph is None:  # it went with the last of its flows
            raise NotFound(f"no flow {key.public_id}: it was deleted")
        return Graph.from_json(graph.to_json())  # a copy: flows go on with the one that is kept

    async def step(self, step: str) -> Step:
        shard, key = self._placement.locate(step, "step")
        store = shard.store
        row = await store.flows.step(key)
        flow = await store.flows.by_id(row.flow_id)
        graph = None if flow is None else await self._graph(key.shard, flow.graph_digest)
        record = step_with_state(key.shard, row, graph, await history.fan_outs_of(store.histories, [row]))
        shard.progress.show([record])
        if flow is None:
            return record
        links = StepLinks(store.flows, store.histories, flow.root_id)
        child = await links.child(row)
        if child is not None:
            record.subgraph, record.sub_workflow = True, child.workflow
            record.sub_flow_key = f"{key.shard}-{child.flow_id}-{child.token}"
        before, after = await links.preceding(row), await links.following(row)
        record.prev_key = None if before is None else f"{key.shard}-{before.step_id}-{before.token}"
        record.next_key = None if after is None else f"{key.shard}-{after.step_id}-{after.token}"
        return record

    # -- many flows

    async def list_flows(self, query: Query | None, cursor: str) -> tuple[list[FlowSummary], str]:
        query = query if query is not None else Query()
        limit = checked_limit(query.limit, LIST_DEFAULT_FLOWS, LIST_MAX_FLOWS)
        shards, thread_id = await self.scope(query)
        flows, following = await paging.page(shards, query, limit, thread_id=thread_id, cursor=cursor)
        await self._explain(shards, flows)
        return flows, following

    async def count(self, query: Query | None) -> FlowCounts:
        query = query if query is not None else Query()
        shards, thread_id = await self.scope(query)
        found = await asyncio.gather(*(shard.store.flows.counts(query, thread_id) for shard in shards))
        total: Counter[Status] = Counter()
        for one in found:
            total.update(one.counts)
        more = frozenset[Status]().union(*(one.more for one in found))
        ends = [one.searched_to for one in found if one.searched_to is not None]
        return FlowCounts(dict(total), more=more, searched_to=max(ends, default=None))

    async def _explain(self, shards: list[Shard], flows: list[FlowSummary]) -> None:
        """Tell of the flows that have not ended what they wait for."""
        living: dict[int, dict[int, FlowSummary]] = {}
        for flow in flows:
            if not flow.status.terminal:
                key = parse_key(flow.flow_key)
                living.setdefault(key.shard, {})[key.id] = flow
        asked = [shard for shard in shards if shard.number in living]
        found = await asyncio.gather(
            *(self._explanations.waits_for(shard, list(living[shard.number])) for shard in asked)
        )
        for shard, waits in zip(asked, found, strict=True):
            for flow_id, waits_for in waits.items():
                living[shard.number][flow_id].waits_for = waits_for

    async def purge(self, query: Query) -> int:
        limit = checked_limit(query.limit, PURGE_MAX_FLOWS, PURGE_MAX_FLOWS)
        if query.status is None and query.workflow is None and query.older_than_ms is None:
            raise BadRequest(
                "purge needs at least one of status, workflow, olderThanMs, so that nothing goes by accident"
            )
        if query.status is Status.RUNNING:
            raise BadRequest("running flows are never purged: cancel them first")
        shards, thread_id = await self.scope(query)
        removed = 0
        for shard in shards:
            while removed < limit:
                wanted = min(PURGE_BATCH_FLOWS, limit - removed)
                done = await shard.store.control.purge(query, thread_id, wanted)
                removed += done
                if done < wanted:
                    break
        return removed

    async def scope(self, query: Query) -> tuple[list[Shard], int | None]:
        """Check a query; return the shards it is about, and the id of its thread."""
        check_query(query)
        shards = self._placement.shards_of(query)
        if query.thread is None:
            return shards, None
        shard, key = self._placement.locate(query.thread, "thread")
        thread = await shard.store.flows.thread(key)
        return [one for one in shards if one is shard], thread.thread_id

    # -- shards

    async def shard_info(self) -> list[ShardInfo]:
        return list(await asyncio.gather(*(self._info(shard) for shard in self._placement.all_shards())))

    async def _info(self, shard: Shard) -> ShardInfo:
        before, policy = time.perf_counter(), self._deployment.policy(shard.number)
        try:
            async with asyncio.timeout(SHARD_INFO_SECONDS):
                flows, steps = await shard.store.flows.size()
                backlog = await shard.store.steps.backlogs(INFO_PRIORITIES, INFO_STEPS, INFO_KEYS)
                keys = await shard.store.steps.key_backlogs([one.priority for one in backlog])
        except (DwarfError, TimeoutError) as error:
            reason = str(error) or f"no answer within {SHARD_INFO_SECONDS:g} s"
            return ShardInfo(shard=shard.number, error=reason, cordoned=policy.cordoned, weight=policy.weight)
        return ShardInfo(
            shard=shard.number,
            latency_ms=round((time.perf_counter() - before) * 1000, 3),
            flows=flows,
            steps=steps,
            joining=shard.number > self._deployment.count > 0,
            cordoned=policy.cordoned,
            weight=policy.weight,
            backlog=[replace(one, keys=keys[one.priority]) for one in backlog],
        )
