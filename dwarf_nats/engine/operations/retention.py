"""Retention rules: put, listed, deleted and tried (M2)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.retention import RetentionPlan
from dwarf_nats.workflow.retention import KIND, RetentionInfo, RetentionPreview, check_name, checked_rule, rules_of

if TYPE_CHECKING:
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Removal
    from dwarf_nats.workflow.retention import RetentionRule

PREVIEW_SECONDS = 1.5
"""Time after which a preview reads no more flows: callers wait for the reply."""
LOOKED_AT = 2_000
"""Flows that one statement of a preview reads."""
START = (-1, -1)
"""The place before the oldest flow."""
Infos = list[RetentionInfo]


class RetentionOperations:
    """The operations on retention rules."""

    def __init__(self, placement: Placement, replica: Replica) -> None:
        self._placement = placement
        self._definitions = replica.definitions

    async def put(self, rule: RetentionRule) -> None:
        """Set a rule, in place of the one of its name. Raises `BadRequest`, `Unavailable`."""
        checked_rule(rule)
        await self._definitions.put(KIND, rule.name, rule.body())

    async def list(self) -> Infos:
        """Return the rules by name, with what they have removed on the shards that answer. Raises `Unavailable`."""
        found = {one.name: one for one in await self._definitions.list(KIND)}
        counted = await asyncio.gather(*map(_removals, self._placement.all_shards())) if found else []
        infos = []
        for name, rule in rules_of(found).items():
            removals = [one[name] for one in counted if name in one]
            runs = [one.last_run for one in removals if one.last_run is not None]
            removed = sum(one.removed for one in removals)
            infos.append(RetentionInfo(rule, removed, max(runs, default=None), found[name].updated_at))
        return infos

    async def delete(self, name: str) -> None:
        """Remove a rule: what it has not removed stays. Raises `NotFound`, `Unavailable`."""
        await self._definitions.delete(KIND, check_name(name))
        await asyncio.gather(*(_forget(shard, name) for shard in self._placement.all_shards()))

    async def preview(self, rule: RetentionRule) -> RetentionPreview:
        """Count what a rule would remove now. `rule`: one that is there, by its name, or one to be tried, with its age.

        Raises `BadRequest`, `NotFound`, `Unavailable`.
        """
        if rule.older_than_ms:
            checked_rule(rule)
        else:
            definition = await self._definitions.get(KIND, check_name(rule.name))
            rule = rules_of({rule.name: definition})[rule.name]
        until = time.monotonic() + PREVIEW_SECONDS
        parts = await asyncio.gather(
            *(_preview(shard, RetentionPlan([rule]), until) for shard in self._placement.all_shards())
        )
        oldest = [part.oldest for part in parts if part.oldest is not None]
        return RetentionPreview(
            sum(part.flows for part in parts), min(oldest, default=None), any(part.truncated for part in parts)
        )


async def _preview(shard: Shard, plan: RetentionPlan, until: float) -> RetentionPreview:
    """Go through the flows of a shard that may be old enough, as far as there is time."""
    place, ended = START, list[int]()
    while True:
        found = await shard.store.retention.look(place, plan.least_age_us, LOOKED_AT)
        ended += [flow.updated_at for flow in found.flows if plan.rule_for(flow, found.now)]
        more = len(found.flows) == LOOKED_AT
        if not more or time.monotonic() > until:
            return RetentionPreview(len(ended), min(ended, default=None), more)
        place = (found.flows[-1].created_at, found.flows[-1].flow_id)


async def _removals(shard: Shard) -> dict[str, Removal]:
    """Return the removals of the rules on a shard; none while its database is away."""
    try:
        return await shard.store.retention.removals()
    except Unavailable:
        return {}


async def _forget(shard: Shard, name: str) -> None:
    """Forget the count of a rule; where the database is away the next pass there does."""
    try:
        await shard.store.retention.forget(name)
    except Unavailable:
        return
