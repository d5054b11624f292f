"""Change the policies of shards: which take new flows, and how many (O17)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest
from dwarf_nats.rules.shard_policies import KIND, ShardPolicy, changed_policy, check_one_is_open, write_policy

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard


class ShardPolicies:
    """The operation on policies. `Engine` documents it."""

    def __init__(self, shards: Mapping[int, Shard], replica: Replica) -> None:
        self._shards = shards
        self._definitions = replica.definitions
        self._deployment = replica.deployment

    async def put(self, number: int, *, cordoned: bool | None, weight: float | None) -> ShardPolicy:
        if number not in self._shards:
            raise BadRequest(
                f"there is no shard {number}: this deployment has {', '.join(map(str, sorted(self._shards)))}"
            )
        await self._definitions.refresh()
        policy = changed_policy(self._deployment.policy(number), cordoned=cordoned, weight=weight)
        agreed = [one for one in self._shards if one <= self._deployment.count or not self._deployment.count]
        if policy.cordoned:
            check_one_is_open(agreed, {**self._deployment.policies, number: policy})
        await self._definitions.put(KIND, str(number), write_policy(policy))
        return policy
