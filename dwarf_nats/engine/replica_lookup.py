"""The facts of this replica for explanations: where its steps are, and what it holds back (Q2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.budgets import time_budget_ms
from dwarf_nats.rules.replica_facts import Question, ReplicaFacts, StepFacts, StepPhase, TaskFacts

if TYPE_CHECKING:
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.steps import ClaimedStep


class ReplicaLookup:
    """Answers questions about steps and tasks from what this replica knows, without a database."""

    def __init__(self, shards: Mapping[int, Shard], replica: Replica) -> None:
        self._shards = shards
        self._replica = replica

    def facts(self, question: Question) -> ReplicaFacts:
        """Return what this replica knows; of steps and tasks that it does not have or hold back, nothing."""
        shard = self._shards.get(question.shard)
        slots, settings = self._replica.slots, self._replica.settings
        return ReplicaFacts(
            name=self._replica.name,
            workers=settings.workers,
            in_use=slots.in_use,
            draining=shard is None or shard.draining.is_set(),
            holds_steps=any(one.in_flight.held for one in self._shards.values()),
            steps={} if shard is None else self._steps(shard, question.step_ids),
            tasks={} if shard is None else self._tasks(shard, question.urls),
        )

    def _steps(self, shard: Shard, step_ids: Iterable[int]) -> dict[int, StepFacts]:
        found: dict[int, StepFacts] = {}
        flight = shard.in_flight
        for step_id in step_ids:
            step = flight.find(step_id)
            if step is None:
                continue
            if step_id in flight.held:
                found[step_id] = StepFacts(phase=StepPhase.HELD)
            elif not flight.is_executing(step_id):
                found[step_id] = StepFacts(phase=StepPhase.WRITING)
            else:
                found[step_id] = self._at_task(shard, step)
        return found

    def _at_task(self, shard: Shard, step: ClaimedStep) -> StepFacts:
        """The facts of a step whose task was asked; its budget does not count while its worker has it queued (K3)."""
        budget_us = time_budget_ms(step, self._replica.settings) * 1000
        worker = self._replica.capabilities.worker_of
        facts = StepFacts(
            phase=StepPhase.ASKING,
            deadline=step.dispatched_at + budget_us,
            worker="" if worker is None else worker(step.key),
            progress=step.progress,
        )
        queued = shard.queued_steps.find(step)
        if queued is None:
            return facts
        if queued.started_at is None:
            return replace(facts, phase=StepPhase.QUEUED, deadline=queued.until)
        return replace(facts, deadline=queued.started_at + budget_us)

    def _tasks(self, shard: Shard, urls: Iterable[str]) -> dict[str, TaskFacts]:
        found: dict[str, TaskFacts] = {}
        valves, breakers, slots = self._replica.backpressure.valves, shard.backpressure.breakers, self._replica.slots
        rates = valves.rates()
        for url in urls:
            breaker = breakers.of(url)
            rate = rates.get(url)
            at_share = slots.exceeds_share(url) and slots.used_by(url) < slots.in_use
            if rate is not None or breaker.tripped or at_share:
                found[url] = TaskFacts(
                    rate=rate,
                    opens_at=None if rate is None else valves.opens_at((url,)),
                    probe_at=breaker.probe_at if breaker.tripped else None,
                    cause=breaker.cause,
                    at_share=at_share,
                )
        return found
