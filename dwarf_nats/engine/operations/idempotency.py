"""Idempotency keys over all shards: who has one, and what becomes of one whose flow was never made, or is gone (O1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from dwarf_nats.engine.deployment import Deployment
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.rows import FlowRow, Reservation
    from dwarf_nats.rules.steps import NewFlow

UNFINISHED_US = 60_000_000
"""After so long a request that reserved a key and made no flow is taken to be given up, if another one wants the key."""


class Keys:
    """The idempotency keys of a deployment."""

    def __init__(self, shards: Mapping[int, Shard], deployment: Deployment) -> None:
        self._shards = shards
        self._deployment = deployment

    async def made(self, fairness_key: str, idempotency_key: str) -> tuple[Shard, FlowRow] | None:
        """The flow that has a key, on any shard: keys outlive a change of the number of shards."""
        among = list(self._shards.values())
        rows = await asyncio.gather(*(one.store.flow_by_idempotency(fairness_key, idempotency_key) for one in among))
        return next(((one, row) for one, row in zip(among, rows, strict=True) if row is not None), None)

    async def reserve(self, home: Shard, new: NewFlow) -> bool:
        """Take the key of a flow to be made on another shard than its home; whether the flow may be made.

        If the same request has taken it before, the flow gets the id that was reserved then: whoever is first makes it. Raises
        `Conflict` if another request has taken it.
        """
        if await home.store.reserve(new) is not None:
            return True
        held = await self.settle(home, new)
        facts = new.facts
        if held is None or held.shard != facts.shard:
            return False
        facts.flow_id = facts.root_id = held.flow_id
        facts.token = held.token
        return True

    async def settle(self, home: Shard, new: NewFlow) -> Reservation | None:
        """Why a key could not be taken at its home; the reservation, if the same request left it without a flow.

        The key of a flow that is gone is free when this returns: ask again. Raises `Conflict`.
        """
        facts = new.facts
        count, held = await home.store.key(facts.fairness_key, new.idempotency_key)
        self._deployment.learned(home.number, count)
        if count != new.shards or held is None:
            return None
        at = self._shards.get(held.shard or home.number)
        if at is None:
            raise self._deployment.unknown(held.shard)
        if held.shard:
            there = await at.store.placed(held.flow_id)
        else:
            there = await at.store.flow_by_id(held.flow_id) is not None
        if there:
            return None
        if there is None:
            if held.request_digest == new.request_digest:
                return held
            if held.age_us < UNFINISHED_US:
                raise in_use(new.idempotency_key)
            if not await at.store.fence(facts.fairness_key, new.idempotency_key, held.flow_id):
                return None  # it was made this moment
        await home.store.free_key(facts.fairness_key, new.idempotency_key, held.shard, held.flow_id)
        return None

    async def give_up(self, home: Shard, new: NewFlow) -> None:
        """Free the key of a flow that is not to be made after all, unless the same request has made it elsewhere."""
        facts = new.facts
        with contextlib.suppress(Unavailable):
            if await self._shards[facts.shard].store.fence(facts.fairness_key, new.idempotency_key, facts.flow_id):
                await home.store.free_key(facts.fairness_key, new.idempotency_key, facts.shard, facts.flow_id)


def in_use(idempotency_key: str) -> Conflict:
    """What a request is told whose key belongs to another one."""
    return Conflict(
        f"idempotency key {idempotency_key[:80]!r} was used before for another workflow, thread or state:"
        " use a new key, or repeat the first request unchanged"
    )
