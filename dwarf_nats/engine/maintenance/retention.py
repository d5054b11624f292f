"""Retention: removes ended flows that the rules find, in small steps; the leader of the replicas does it (M2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.maintenance.duty import Duty
from dwarf_nats.rules.retention import RetentionPlan
from dwarf_nats.workflow.retention import KIND, rules_of

if TYPE_CHECKING:
    from dwarf_nats.engine.definitions import Definitions
    from dwarf_nats.engine.pacing import Pace
    from dwarf_nats.ports import Definition, ReplicaStore, RetentionStore

PASS_SECONDS = 60.0
"""Least time between two passes over the flows."""
MAX_PASS_SECONDS = 3_600.0
"""Longest time between two passes."""
LOOKING_SHARE = 0.02
"""Share of the time that is spent on looking at flows which stay: passes over many flows are further apart."""
LOOKED_AT = 1_000
"""Flows that one statement reads: a few milliseconds."""
START = (-1, -1)
"""The place before the oldest flow."""


class Retention(Duty):
    """Removes flows of one shard. Without rules it waits for one."""

    wanted: asyncio.Event
    """Set while there are rules."""

    def __init__(self, definitions: Definitions, replicas: ReplicaStore, retention: RetentionStore, pace: Pace) -> None:
        self._replicas = replicas
        self._retention = retention
        self._pace = pace
        self._plan: RetentionPlan | None = None
        self._looking_seconds = 0.0
        self.wanted = asyncio.Event()
        definitions.watch(KIND, self._follow)

    def _follow(self, definitions: Mapping[str, Definition]) -> None:
        rules = rules_of(definitions)
        self._plan = RetentionPlan([*rules.values()]) if rules else None
        if rules:
            self.wanted.set()
        else:
            self.wanted.clear()

    def interval(self) -> float:
        return min(max(PASS_SECONDS, self._looking_seconds / LOOKING_SHARE), MAX_PASS_SECONDS)

    async def run_once(self) -> None:
        """Go through all flows that may be old enough, oldest first. A pass ends when the rules change."""
        plan, self._looking_seconds = self._plan, 0.0
        place = START
        while plan is not None and plan is self._plan and await self._replicas.is_leader():
            began = time.perf_counter()
            found = await self._retention.look(place, plan.least_age_us, LOOKED_AT)
            self._looking_seconds += time.perf_counter() - began
            doomed = [flow.flow_id for flow in found.flows if plan.rule_for(flow, found.now)]
            while doomed and plan is self._plan:
                count, _ = await self._pace.run(doomed, lambda group: self._retention.remove(group, plan.rule_for))
                doomed = doomed[count:]
            if len(found.flows) < LOOKED_AT:
                await self._retention.note_run([rule.name for rule in plan.rules])
                return
            place = (found.flows[-1].created_at, found.flows[-1].flow_id)
            await asyncio.sleep(0)
