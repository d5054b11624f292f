"""Pipelined flows: the next task is asked while the step before it is being written (design note 0058).

A step that goes ahead is in memory only, until the step before it is written. Its result waits for that. Results that wait one
behind the other are linked, so that one transaction writes them all, as it writes a chain (N8). If the step before it cannot be
written, because its flow was cancelled or its lease has run out, what went ahead is dropped: the database knows nothing of it.

A result on which a step went ahead is kept back for a moment: nothing waits for its commit, which would only take time from the
tasks, and with those that follow it is one commit instead of several.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.budgets import claimed_budget_ms, own_budget_ms
from dwarf_nats.rules.steps import StepRef, eager_step
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.execution.committer import Committer
    from dwarf_nats.engine.execution.in_flight import InFlight
    from dwarf_nats.rules.settlement import Settlement, SettleResult
    from dwarf_nats.rules.steps import ClaimedStep, NewStep
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.workflow.graph import Graph

MAX_AHEAD = 32
"""Steps of one flow that are ahead of the database: bounds what is repeated after a crash, and the waves of a transaction."""
MAX_KEPT_SECONDS = 0.005
"""Time for which a result is kept back while a step that went ahead is at its task: bounds what is repeated after a crash."""


class Pipeline:
    """The steps of one shard that are ahead of the database."""

    def __init__(self, in_flight: InFlight, committer: Committer, settings: EngineSettings) -> None:
        self._in_flight = in_flight
        self._committer = committer
        self._settings = settings
        self._waiting: dict[int, Settlement] = {}
        """Results that wait for the step before them, by step."""
        self._linked: dict[int, Settlement] = {}
        """Results that are at the committer behind the one that they are linked to, by step."""
        self._kept: dict[int, asyncio.TimerHandle] = {}
        """Those of the results in `_waiting` that wait for nothing but what may follow in a moment, by step."""
        self._dropped: set[int] = set()
        """Steps at their tasks whose results nobody waits for any more."""

    def go_ahead(self, settlement: Settlement, new: NewStep, graph: Graph) -> ClaimedStep | None:
        """The step that follows on a result which is not written yet, to be dispatched; `None` if it has to wait."""
        step = settlement.step
        if (
            settlement.status is not Status.COMPLETED
            or settlement.successor is not new
            or settlement.links
            or step.flow.breakpoints
            or step.cancelled
            or not self._may_go_ahead(new, step, graph)
        ):
            return None
        follower = eager_step(step.flow, new)
        follower.ahead_of = step
        step.follower = follower
        return follower

    def _may_go_ahead(self, new: NewStep, step: ClaimedStep, graph: Graph) -> bool:
        """Tell whether the node is a task within the lease that its row will have, and not too many are ahead already."""
        node = graph.nodes[new.node]
        budget_ms = own_budget_ms(node, graph)
        if node.action is not None or (budget_ms is not None and budget_ms > claimed_budget_ms(step, self._settings)):
            return False
        ahead = step
        for _ in range(MAX_AHEAD):
            if ahead.ahead_of is None:
                return True
            ahead = ahead.ahead_of
        return False

    def settle(self, settlement: Settlement) -> None:
        """Take the result of a step that went ahead, or on which another one did.

        It is kept until the step before it is written, and until nothing is ahead on it that is still at its task, though not
        for long.
        """
        step = settlement.step
        before = step.ahead_of
        if before is None:
            self._waiting[step.step_id] = settlement
            self._write_or_keep(step)
            return
        if step.step_id in self._dropped:
            self._dropped.discard(step.step_id)
            self._committer.fence(settlement)
            return
        earlier = self._waiting.get(before.step_id)
        if (
            earlier is not None
            and earlier.follows_on
            and settlement.status is Status.COMPLETED
            and not _noted(settlement)
        ):
            earlier.links = [settlement]
        self._waiting[step.step_id] = settlement
        if step.follower is None:
            first = before
            while first.ahead_of is not None:
                first = first.ahead_of
            if first.step_id in self._kept:
                self._write(first.step_id)

    def written(self, settlement: Settlement, result: SettleResult) -> Settlement | None:
        """Follow up on a settlement that was written, with what went ahead on it and what was written with it.

        Returns the last settlement of the transaction if nothing went ahead on that one, so that its slot is still to be passed
        on or released.
        """
        last = settlement
        while (follower := last.step.follower) is not None:
            done = result.applied.get(last.step.step_id)
            if done is None or not done.alive or not last.follows_on:
                self.drop(follower)
                return None
            linked = self._linked.pop(follower.step_id, None)
            if linked is None:
                self._let_go(follower)
                return None
            if follower.step_id not in result.applied:
                self._committer.fence(linked)
                return None
            self._in_flight.drop(follower)
            last = linked
        return last

    def drop(self, step: ClaimedStep) -> None:
        """Drop a step that went ahead, and what went ahead on it: the step before it was not written."""
        settlement = self._waiting.pop(step.step_id, None) or self._linked.pop(step.step_id, None)
        if settlement is not None:
            self._committer.fence(settlement)
            return
        self._dropped.add(step.step_id)
        self._in_flight.cancel([StepRef(step.step_id, step.token)])

    def _let_go(self, step: ClaimedStep) -> None:
        """The step before this one is written: its own result may be written as well."""
        step.ahead_of = None
        if step.step_id in self._waiting:
            self._write_or_keep(step)

    def _write_or_keep(self, step: ClaimedStep) -> None:
        """Have a result written; if the last of those ahead on it is at its task, keep it for the moment that may take."""
        last = step
        while last.follower is not None:
            last = last.follower
        if last.step_id in self._waiting:
            self._write(step.step_id)
        else:
            loop = asyncio.get_running_loop()
            self._kept[step.step_id] = loop.call_later(MAX_KEPT_SECONDS, self._write, step.step_id)

    def _write(self, step_id: int) -> None:
        """Have a result written, with those that are linked to it."""
        timer = self._kept.pop(step_id, None)
        if timer is not None:
            timer.cancel()
        settlement = self._waiting.pop(step_id)
        for link in settlement.chain():
            if (linked := self._waiting.pop(link.step.step_id, None)) is not None:
                self._linked[link.step.step_id] = linked
        self._committer.settle(settlement)


def _noted(settlement: Settlement) -> bool:
    """True if something is written of a settlement that is noted when it is handed over by itself."""
    return settlement.error is not None or settlement.step.unsaved_progress is not None
