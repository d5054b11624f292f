"""Idempotency keys over all shards (O1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.new_flows import Created
from dwarf_nats.engine.projections import current_outcome, flow_key
from dwarf_nats.errors import Conflict, Unavailable
from dwarf_nats.ports import DatabaseAway
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

    async def key_of_any(self, idempotency_key: str, fairness_key: str) -> str | None:
        """As `key_of`; finds also a flow that a schedule has made without the home of its key. Every shard must be there."""
        for shard in self._shards.values():
            row = await shard.store.flows.by_idempotency_key(fairness_key, idempotency_key)
            if row is not None:
                return flow_key(shard.number, row)
        return None

    async def _find(self, fairness_key: str, idempotency_key: str) -> tuple[Shard, FlowRow] | None:
        """Ask the shards that may keep a key for its flow. No other shard need be there."""
        homes = self._deployment.homes(fairness_key, idempotency_key)
        found = await asyncio.gather(*(self._find_by_home(one, fairness_key, idempotency_key) for one in homes))
        return next((one for one in found if one is not None), None)

    async def _find_by_home(self, home: Shard, fairness_key: str, idempotency_key: str) -> tuple[Shard, FlowRow] | None:
        """Find the flow of a key that a shard keeps, there or on the shard for which the key is reserved."""
        try:
            if len(self._shards) == 1:
                row = await home.store.flows.by_idempotency_key(fairness_key, idempotency_key)
                return None if row is None else (home, row)
            row, (_, _, held) = await asyncio.gather(
                home.store.flows.by_idempotency_key(fairness_key, idempotency_key),
                home.store.keys.lookup(fairness_key, idempotency_key),
            )
        except Unavailable as error:
            raise DatabaseAway(
                f"shard {home.number} keeps this idempotency key, and its database is away: only there it is known whether"
                f" the key was used, so ask again ({error.message})"
            ) from None
        if row is not None:
            return home, row
        if held is None or not held.shard:
            return None
        at = self._shards.get(held.shard)
        if at is None:
            raise self._deployment.unknown_shard(held.shard)
        row = await at.store.flows.by_idempotency_key(fairness_key, idempotency_key)
        return None if row is None else (at, row)

    async def reserve(self, home: Shard, new: NewFlow) -> int:
        """Take the key of a flow to be created on another shard than its home; return the shard on which it may be created.

        If the same request has taken it before, that is the shard it was reserved for then; there the flow gets the reserved
        id, and whoever is first creates it. 0: look again. Raises `Conflict` if another request has taken it.
        """
        flow = new.flow
        if await home.store.keys.reserve(new) is not None:
            return flow.shard
        held = await self.settle(home, new)
        if held is None or not held.shard:
            return 0
        if held.shard == flow.shard:
            flow.flow_id = flow.root_id = held.flow_id
            flow.token = held.token
        return held.shard

    async def settle(self, home: Shard, new: NewFlow) -> Reservation | None:
        """Find out why a key could not be taken at its home; return its reservation if the same request left no flow.

        The key of a flow that is gone is free when this returns: ask again. Raises `Conflict`.
        """
        flow = new.flow
        count, counts, held = await home.store.keys.lookup(flow.fairness_key, new.idempotency_key)
        self._deployment.record_count(home.number, count, counts)
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
