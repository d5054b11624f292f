"""Waits for flows to stop (O3, O4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.checks import wait_seconds
from dwarf_nats.engine.operations.new_flows import Created
from dwarf_nats.engine.projections import current_outcome
from dwarf_nats.errors import TimedOut

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.create import Creator
    from dwarf_nats.engine.operations.new_flows import GivenState
    from dwarf_nats.engine.operations.queries import FlowQueries
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.options import FlowOptions
    from dwarf_nats.workflow.records import Outcome


class FlowWaits:
    """Holds callers until their flows stop. `Engine` documents the methods."""

    def __init__(self, placement: Placement, creator: Creator, queries: FlowQueries) -> None:
        self._placement = placement
        self._creator = creator
        self._queries = queries

    async def run(
        self, workflow: str | Graph, state: GivenState, options: FlowOptions | None, timeout: float | None
    ) -> Outcome:
        created = await self._creator.create(workflow, state, options, start=True, wait=True)
        return await self._wait(created, timeout)

    async def await_(self, flow: str, timeout: float | None) -> Outcome:
        shard, key = self._placement.locate(flow)
        future = shard.waiters.add(key.id)
        try:
            outcome = await current_outcome(shard.store.flows, await shard.store.flows.get(key))
        except BaseException:
            shard.waiters.drop(key.id, future)
            raise
        if outcome.status.stopped:
            shard.waiters.drop(key.id, future)
            return outcome
        return await self._wait(Created(shard, flow, key.id, future), timeout)

    async def poll(self, flow: str, timeout: float | None) -> Outcome:
        try:
            return await self.await_(flow, timeout)
        except TimedOut:
            return await self._queries.snapshot(flow)

    async def _wait(self, flow: Created, timeout: float | None) -> Outcome:
        waiters, future = flow.shard.waiters, flow.outcome
        try:
            async with asyncio.timeout(wait_seconds(timeout)):
                while (outcome := await future) is None:  # somebody says it stopped: the database knows
                    future = waiters.add(flow.flow_id)
                    current = await self._queries.snapshot(flow.key)
                    if current.status.stopped:
                        return current
                return outcome
        except TimeoutError:
            raise TimedOut(
                f"flow {flow.shard.number}-{flow.flow_id} did not stop within {timeout} s; it goes on: await it again",
                flowKey=flow.key,
            ) from None
        finally:
            waiters.drop(flow.flow_id, future)
