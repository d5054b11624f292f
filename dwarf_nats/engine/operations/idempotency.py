"""Idempotency keys over all shards (O1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.new_flows import Created
from dwarf_nats.engine.projections import current_outcome, flow_key
from dwarf_nats.errors import Conflict, Unavailable
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.deployment import Deployment
    from dwarf_nats.engine.operations.new_flows import CreateRequest
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.rows import FlowRow, Reservation
    from dwarf_nats.rules.steps import NewFlow

UNFINISHED_US = 60_000_000
"""Age at which a reserved key without a flow counts as abandoned, if another request wants it; a create takes far less."""


class IdempotencyKeys:
    """The idempotency keys of a deployment: which flow has one, and which are free again."""

    def __init__(self, shards: Mapping[int, Shard], deployment: Deployment) -> None:
        self._shards = shards
        self._deployment = deployment

    async def find_created(self, request: CreateRequest) -> Created | None:
        """Find the flow that an earlier request with the same key has created, on whichever shard; start it if asked to.

        Raises `Conflict` if that request was for something else, `Unavailable`.
        """
        options = request.options
        key = options.idempotency_key or ""
        found = await self._find(options.fairness_key, key)
        if found is None:
            return None
        shard, row = found
        if row.request_digest != request.digest:
            raise key_in_use(key)
        outcome = shard.waiters.add(row.flow_id) if request.wait else asyncio.get_running_loop().create_future()
        if request.start and row.status is Status.CREATED:
            with contextlib.suppress(Conflict):  # somebody else started it meanwhile
                await shard.start(row)
        if request.wait:
            again = await shard.store.flows.by_id(row.flow_id)
            if again is not None and again.status.stopped and not outcome.done():
                current = await current_outcome(shard.store.flows, again)
                if current.status.stopped and not outcome.done():
                    outcome.set_result(current)
        return Created(shard, flow_key(shard.number, row), row.flow_id, outcome)

    async def key_of(self, idempotency_key: str, fairness_key: str) -> str | None:
        """Return the key of the flow that has an idempotency key, on whichever shard. Raises `Unavailable`."""
        found = await self._find(fairness_key, idempotency_key)
        return None if found is None else flow_key(found[0].number, found[1])

    async def _find(self, fairness_key: str, idempotency_key: str) -> tuple[Shard, FlowRow] | None:
        """Ask every shard for the flow that has a key: keys outlive a change of the number of shards."""
        shards = list(self._shards.values())
        rows = await asyncio.gather(
            *(one.store.flows.by_idempotency_key(fairness_key, idempotency_key) for one in shards)
        )
        return next(((one, row) for one, row in zip(shards, rows, strict=True) if row is not None), None)

    async def reserve(self, home: Shard, new: NewFlow) -> bool:
        """Take the key of a flow to be created on another shard than its home; return whether it may be created.

        If the same request has taken it before, the flow gets the id that was reserved then: whoever is first creates it.
        Raises `Conflict` if another request has taken it.
        """
        if await home.store.keys.reserve(new) is not None:
            return True
        held = await self.settle(home, new)
        flow = new.flow
        if held is None or held.shard != flow.shard:
            return False
        flow.flow_id = flow.root_id = held.flow_id
        flow.token = held.token
        return True

    async def settle(self, home: Shard, new: NewFlow) -> Reservation | None:
        """Find out why a key could not be taken at its home; return its reservation if the same request left no flow.

        The key of a flow that is gone is free when this returns: ask again. Raises `Conflict`.
        """
        flow = new.flow
        count, held = await home.store.keys.lookup(flow.fairness_key, new.idempotency_key)
        self._deployment.record_count(home.number, count)
        if count != new.shards or held is None:
            return None
        at = self._shards.get(held.shard or home.number)
        if at is None:
            raise self._deployment.unknown_shard(held.shard)
        if held.shard:
            exists = await at.store.keys.is_placed(held.flow_id)
        else:
            exists = await at.store.flows.by_id(held.flow_id) is not None
        if exists:
            return None
        if exists is None:
            if held.request_digest == new.request_digest:
                return held
            if held.age_us < UNFINISHED_US:
                raise key_in_use(new.idempotency_key)
            if not await at.store.keys.fence(flow.fairness_key, new.idempotency_key, held.flow_id):
                return None  # it was made this moment
        await home.store.keys.free(flow.fairness_key, new.idempotency_key, held.shard, held.flow_id)
        return None

    async def give_up(self, home: Shard, new: NewFlow) -> None:
        """Free the key of a flow that is not to be created after all, unless the same request has created it elsewhere."""
        flow = new.flow
        with contextlib.suppress(Unavailable):
            if await self._shards[flow.shard].store.keys.fence(flow.fairness_key, new.idempotency_key, flow.flow_id):
                await home.store.keys.free(flow.fairness_key, new.idempotency_key, flow.shard, flow.flow_id)


def key_in_use(idempotency_key: str) -> Conflict:
    """Make the error for a request whose key belongs to another one."""
    return Conflict(
        f"idempotency key {idempotency_key[:80]!r} was used before for another workflow, thread or state:"
        " use a new key, or repeat the first request unchanged"
    )
