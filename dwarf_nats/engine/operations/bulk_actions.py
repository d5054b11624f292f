"""The actions of bulk operations: what is done for a group of flows, and why it was not done for one (M1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from dwarf_nats.engine.operations.control import runs_anew
from dwarf_nats.engine.operations.frozen_graphs import with_graphs
from dwarf_nats.engine.projections import final_state_of
from dwarf_nats.errors import Conflict, DwarfError, NotFound
from dwarf_nats.workflow.bulk import Bulk, BulkAction

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.control import FlowControl
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Member

AT_ONCE = 4
"""Members at once that need a transaction each."""
ALONE_WEIGHT = 64
"""Units of work for a flow that is changed by itself, in a transaction or several of its own (`rules.pacing`)."""
WEIGHTS = {BulkAction.CANCEL: 8, BulkAction.DELETE: 3, BulkAction.RESTART: 8}
"""Units of work for a flow of actions that change many in one transaction, with its audit record and what is told of it."""
STARTS = frozenset({BulkAction.RESTART, BulkAction.RESTART_FAILED, BulkAction.RESUME})
"""Actions after which a flow runs."""
Refusals: TypeAlias = dict[int, DwarfError]
"""Flow id → why the action was not carried out for it."""
One: TypeAlias = "Callable[[Member], Awaitable[object]]"


class BulkActions:
    """Carries out one bulk operation on one shard, group by group.

    Flows that can be changed together are, in one transaction; every other one by its own operation, whose refusal is kept.
    """

    def __init__(self, bulk: Bulk, shard: Shard, control: FlowControl, replica: Replica, *, moment: int) -> None:
        self._bulk = bulk
        self._shard = shard
        self._control = control
        self._graphs = replica.graphs
        self._limits = replica.settings.limits()
        self._moment = moment
        """When the operation began on the shard."""

    @property
    def weight(self) -> int:
        """The work for one flow, for the pace of the shard."""
        return WEIGHTS.get(self._bulk.action, ALONE_WEIGHT)

    @property
    def starts(self) -> bool:
        """Tell whether the flows run afterwards."""
        return self._bulk.action in STARTS

    async def carry_out(self, group: Sequence[Member]) -> Refusals:
        """Do it for these flows; return those for which it was refused."""
        done = await self._together([one.flow_id for one in group])
        return await self._one_by_one([one for one in group if one.flow_id not in done])

    async def _together(self, flow_ids: list[int]) -> set[int]:
        """Do it for those for which it can be done in one transaction; return them."""
        store = self._shard.store.bulk
        match self._bulk.action:
            case BulkAction.CANCEL:
                return await self._cancel(flow_ids)
            case BulkAction.RESTART:
                change = await store.restart(flow_ids)
                runs_anew(self._shard, change)
                self._shard.pace.had_steps(len(change.changed), change.steps)
                return {flow.flow_id for flow in change.changed}
            case BulkAction.DELETE:
                deleted = await store.delete(flow_ids)
                for flow_id in deleted:
                    self._shard.waiters.wake(flow_id, None)
                return set(deleted)
            case _:
                return set()

    async def _cancel(self, flow_ids: list[int]) -> set[int]:
        shard = self._shard
        change = await with_graphs(
            self._graphs,
            shard.number,
            lambda graph_of: shard.store.bulk.cancel(
                flow_ids,
                self._bulk.reason,
                lambda flow, steps: final_state_of(graph_of(flow), list(steps), self._limits),
                lambda flow: graph_of(flow).compensates,
            ),
        )
        if change.changed:
            shard.announcer.controlled(change, shard.announcer.stopped_flows(change))
        return {flow.flow_id for flow in change.changed}

    async def _one_by_one(self, members: Sequence[Member]) -> Refusals:
        refused: Refusals = {}
        turns = asyncio.Semaphore(AT_ONCE)
        carry_out = self._operation()

        async def attempt(member: Member) -> None:
            async with turns:
                try:
                    await carry_out(member)
                except DwarfError as error:
                    refused[member.flow_id] = error

        async with asyncio.TaskGroup() as attempts:
            for member in members:
                attempts.create_task(attempt(member))
        return refused

    def _operation(self) -> One:
        """The operation on one flow."""
        bulk, control = self._bulk, self._control
        match bulk.action:
            case BulkAction.CANCEL:
                return lambda member: control.cancel(self._key(member), bulk.reason)
            case BulkAction.RESTART:
                return lambda member: control.restart(self._key(member), None)
            case BulkAction.RESTART_FAILED:
                return self._restart_failed
            case BulkAction.RESUME:
                return lambda member: control.resume(self._key(member), bulk.data)
            case BulkAction.DELETE:
                return lambda member: control.delete(self._key(member))
            case BulkAction.TAG:
                assert bulk.tags is not None
                tags = bulk.tags
                return lambda member: control.tag(self._key(member), tags)

    def _key(self, member: Member) -> str:
        return f"{self._shard.number}-{member.flow_id}-{member.token}"

    async def _restart_failed(self, member: Member) -> None:
        """Run each step again that failed. Raises the first refusal, after the others were tried."""
        steps = await self._shard.store.bulk.failed_steps(member.flow_id, self._moment)
        if not steps:
            raise Conflict("no step of the flow has failed, so none can run again")
        refusals: list[DwarfError] = []
        gone = 0
        for step in steps:
            try:
                await self._control.restart_from(f"{step.shard}-{step.id}-{step.token}", None)
            except NotFound:
                gone += 1  # what it followed from runs again
            except DwarfError as refusal:
                refusals.append(refusal)
        if gone == len(steps):
            raise NotFound("the flow was deleted, or runs again already")
        if refusals:
            raise refusals[0]
