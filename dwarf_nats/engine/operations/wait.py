"""Waits for flows to stop (O3, O4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.checks import wait_seconds
from dwarf_nats.engine.projections import current_outcome
from dwarf_nats.errors import TimedOut

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.create import Creator
    from dwarf_nats.engine.operations.new_flows import GivenState
    from dwarf_nats.engine.operations.queries import FlowQueries
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.options import FlowOptions
    from dwarf_nats.workflow.records import Outcome


class FlowWaits:
    """Holds callers until their flows stop."""

    def __init__(self, placement: Placement, creator: Creator, queries: FlowQueries) -> None:
        self._placement = placement
        self._creator = creator
        self._queries = queries

    async def run(
        self, workflow: str | Graph, state: GivenState, options: FlowOptions | None, timeout: float | None
    ) -> Outcome:
        created = await self._creator.create(workflow, state, options, start=True, wait=True)
        return await self._wait(created.shard, created.key, created.flow_id, created.outcome, timeout)

    async def await_(self, flow: str, timeout: float | None) -> Outcome:
        shard, key = self._placement.locate(flow)
        future = shard.waiters.add(key.id)
        try:
            outcome = await current_outcome(shard.store, await shard.store.flows.get(key))
        except BaseException:
            shard.waiters.drop(key.id, future)
            raise
        if outcome.status.stopped:
            shard.waiters.drop(key.id, future)
            return outcome
        return await self._wait(shard, flow, key.id, future, timeout)

    async def poll(self, flow: str, timeout: float | None) -> Outcome:
        try:
            return await self.await_(flow, timeout)
        except TimedOut:
            return await self._queries.snapshot(flow)

    async def _wait(
        self, shard: Shard, flow: str, flow_id: int, future: asyncio.Future[Outcome | None], timeout: float | None
    ) -> Outcome:
        try:
            async with asyncio.timeout(wait_seconds(timeout)):
                while (outcome := await future) is None:  # somebody says it stopped: the database knows
                    future = shard.waiters.add(flow_id)
                    current = await self._queries.snapshot(flow)
                    if current.status.stopped:
                        return current
                return outcome
        except TimeoutError:
            raise TimedOut(
                f"flow {shard.number}-{flow_id} did not stop within {timeout} s; it goes on: await it again",
                flowKey=flow,
            ) from None
        finally:
            shard.waiters.drop(flow_id, future)
