"""Steps that wait in the queues of workers: since when, for how long, and their leases meanwhile (K3)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.engine.execution.budgets import claimed_budget_ms, queue_timeout_ms, time_budget_ms
from dwarf_nats.rules.leases import lease_us
from dwarf_nats.workflow.keys import parse_key

if TYPE_CHECKING:
    from dwarf_nats.engine.execution.in_flight import InFlight
    from dwarf_nats.ports import Clock, StepStore
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.settings import EngineSettings

LEASE_MARGIN_US = 15_000_000
"""A lease is extended when it would last less than this beyond what the step may take: half the grace of a lease."""


@dataclass(slots=True, kw_only=True)
class QueuedStep:
    """A step that a worker has, or had, in its queue. Times are microseconds on this replica's clock."""

    step: ClaimedStep
    since: int
    until: int
    """When it is given back."""
    started_at: int | None = None
    lease_until: int


class QueuedSteps:
    """Knows which steps in flight of one shard wait, or have waited, in the queue of a worker.

    Its lease lasts as long as its claim said. `keep_leases` extends it in time, whether the step waits or has begun late.
    """

    def __init__(self, steps: StepStore, in_flight: InFlight, settings: EngineSettings, clock: Clock) -> None:
        self._steps = steps
        self._in_flight = in_flight
        self._settings = settings
        self._clock = clock
        self._queued: dict[int, QueuedStep] = {}
        self.wanted = asyncio.Event()
        """Set while a lease may have to be extended."""

    def queued(self, step_key: str, service_timeout_ms: int | None) -> int | None:
        """Note that a step waits; the milliseconds that it may, `None` if it is not in flight."""
        step = self._in_flight.find(parse_key(step_key, "step").id)
        if step is None or step.key != step_key:
            return None
        timeout_ms = queue_timeout_ms(step, self._settings, service_timeout_ms)
        budget_ms = max(time_budget_ms(step, self._settings), claimed_budget_ms(step, self._settings))
        now = self._clock.now()
        self._queued[step.step_id] = QueuedStep(
            step=step,
            since=now,
            until=now + timeout_ms * 1000,
            lease_until=step.dispatched_at + lease_us(budget_ms, budget_ms),
        )
        self.wanted.set()
        return timeout_ms

    def started(self, step_key: str) -> None:
        """Note that a step that waited has begun."""
        found = self._queued.get(parse_key(step_key, "step").id)
        if found is not None and found.step.key == step_key:
            found.started_at = self._clock.now()

    def find(self, step: ClaimedStep) -> QueuedStep | None:
        """The step in the queue of its worker, or begun after that; `None` if its worker has not queued it."""
        found = self._queued.get(step.step_id)
        return found if found is not None and found.step is step else None

    async def keep_leases(self) -> None:
        """Extend the leases that would not last, and forget the steps that have ended. Raises `Unavailable`."""
        for step_id, one in list(self._queued.items()):
            step = one.step
            if self._in_flight.find(step_id) is not step or not self._in_flight.is_executing(step_id):
                del self._queued[step_id]
                continue
            now = self._clock.now()
            budget_ms = time_budget_ms(step, self._settings)
            needed = now if one.started_at is None else one.started_at + budget_ms * 1000
            if one.lease_until < needed + LEASE_MARGIN_US:
                extension_us = lease_us(budget_ms, budget_ms)
                # If it was taken away meanwhile, its result is fenced off, like any other (X1).
                await self._steps.extend_lease(step_id, step.lease_seq, extension_us)
                one.lease_until = now + extension_us
        if not self._queued:
            self.wanted.clear()


class _QueuedOfShard(Protocol):
    @property
    def queued_steps(self) -> QueuedSteps: ...


class WorkerQueues:
    """Implements `ports.QueueListener` for the shards of one replica."""

    def __init__(self, shards: Mapping[int, _QueuedOfShard]) -> None:
        self._shards = shards

    def queued(self, step_key: str, service_timeout_ms: int | None) -> int | None:
        """Note that a step waits in the queue of a worker."""
        shard = self._shards.get(parse_key(step_key, "step").shard)
        return None if shard is None else shard.queued_steps.queued(step_key, service_timeout_ms)

    def started(self, step_key: str) -> None:
        """Note that its worker has begun a step."""
        shard = self._shards.get(parse_key(step_key, "step").shard)
        if shard is not None:
            shard.queued_steps.started(step_key)
