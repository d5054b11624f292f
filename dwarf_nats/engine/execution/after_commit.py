"""The follow-up on commits: worker slots and successors, counters, hints, announcements, in this order (B1, X1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.engine.projections import outcome_at
from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.announcer import Announcer
    from dwarf_nats.engine.backpressure import ShardBackpressure
    from dwarf_nats.engine.debug_log import DebugLog
    from dwarf_nats.engine.execution.executor import Executor
    from dwarf_nats.engine.execution.in_flight import InFlight
    from dwarf_nats.engine.scheduling.deadline_timer import DeadlineTimer
    from dwarf_nats.engine.scheduling.ready_queue import ReadyQueue
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.rules.settlement import Applied, Settlement, SettleResult
    from dwarf_nats.rules.steps import ClaimedStep, NewFlow, NewStep
    from dwarf_nats.workflow.records import StatusChanged


class _Announcements:
    """The announcements of one commit, and how many steps of each task it completed."""

    __slots__ = ("changed", "completed", "ended", "pending")

    def __init__(self) -> None:
        self.changed: list[StatusChanged] = []
        self.pending: list[ReadyStep] = []
        self.ended: list[StoppedFlow] = []
        self.completed: dict[str, int] = {}


class AfterCommit:
    """Follows up on what the committer of one shard has written."""

    def __init__(
        self,
        shared: Shared,
        *,
        in_flight: InFlight,
        executor: Executor,
        announcer: Announcer,
        ready_queue: ReadyQueue,
        deadlines: DeadlineTimer,
        backpressure: ShardBackpressure,
        debug_log: DebugLog,
    ) -> None:
        self._clock = shared.clock
        self._slots = shared.slots
        self._counters = shared.counters
        self._limits = shared.limits
        self._log = shared.logger
        self._in_flight = in_flight
        self._executor = executor
        self._announcer = announcer
        self._ready_queue = ready_queue
        self._deadlines = deadlines
        self._backpressure = backpressure
        self._debug_log = debug_log
        self._event_asks = shared.event_asks

    def settled(self, group: Sequence[Settlement], result: SettleResult) -> None:
        """Follow up on settlements that were written.

        For each: drop it from the steps in flight, dispatch a successor in its worker slot or release the slot, count, end its
        span, give hints. Then announce what the whole group did.
        """
        announcements = _Announcements()
        for settlement in group:
            step = settlement.step
            applied = result.applied[step.step_id]
            alive, at = applied.alive, applied.at
            self._in_flight.drop(step)
            if step.permits:
                self._limits.over(step.permits)
            if step.follower is not None:
                self._settled_ahead(settlement, result, announcements)
            elif settlement.links:
                self._pass_on_after(settlement, result)
                self._note_chain(settlement, result, announcements)
            else:
                waiting = self._pass_slot_on(settlement, alive, at)
                self._note(settlement, waiting, applied, announcements)
        for url, number in announcements.completed.items():
            self._counters.executed.add(url, "completed", n=number)
        self._announcer.announce(announcements.changed, announcements.pending, announcements.ended)

    def fenced(self, settlement: Settlement) -> None:
        """Drop a result whose step was taken away meanwhile, without harm (X1)."""
        step = settlement.step
        self._in_flight.drop(step)
        if step.permits:
            self._limits.over(step.permits)
        if step.follower is None:
            self._slots.release(step.slot or step.url)
        else:  # which has the slot
            self._executor.pipeline.drop(step.follower)
        if step.cancelled:
            self._count(step, "cancelled")
            self._finish_span(step, settlement, "cancelled")
        else:
            self._counters.fenced.add()
            self._finish_span(step, settlement, "fenced")
        if settlement.end is not None or settlement.pause is not None:
            # Written by a commit whose answer was lost, perhaps: let waiters look.
            self._announcer.perhaps_stopped(step.flow.flow_id)
        if settlement.wait_us is not None:
            self._deadlines.note(settlement.wait_us)

    def cascaded(self, result: SettleResult) -> None:
        """Follow up on what a group did together: fan-in steps made, callers resumed, flows ended or paused by cohorts."""
        if result.asking:
            self._event_asks.ask(self._in_flight.shard, result.asking)
        now = self._clock.now()
        for flow, _ in result.created:
            self._ready_queue.hint_flow(flow)
        for woken in result.woken:
            self._ready_queue.hint(woken.priority)
        changed = [
            self._announcer.stopped(flow, outcome_at(flow, end, tags), at) for flow, end, at, tags in result.ended
        ]
        pending = [ReadyStep(step.step_id, flow.priority, now) for flow, step in result.created]
        pending += [ReadyStep(woken.step_id, woken.priority, now) for woken in result.woken]
        self._announcer.announce(
            changed, pending, [StoppedFlow(flow.key, end.status) for flow, end, *_ in result.ended]
        )

    # -- the branches of `settled`

    def _settled_ahead(self, settlement: Settlement, result: SettleResult, announcements: _Announcements) -> None:
        """Follow up on a settlement of a pipelined flow, on whose result the next step went ahead."""
        last = self._executor.pipeline.written(settlement, result)
        if last is not None and last.links:
            self._pass_on_after(last, result)
        elif last is not None:
            applied = result.applied[last.step.step_id]
            self._pass_slot_on(last, applied.alive, applied.at)
        self._note_chain(settlement, result, announcements)

    def _note_chain(self, settlement: Settlement, result: SettleResult, announcements: _Announcements) -> None:
        """Note each settlement of a chain that was written."""
        for one in settlement.chain():
            if (done := result.applied.get(one.step.step_id)) is not None:
                self._note(one, [new for new in one.made if not new.eager], done, announcements)

    def _note(
        self, settlement: Settlement, waiting: Sequence[NewStep], applied: Applied, announcements: _Announcements
    ) -> None:
        """Count a settlement that was written, end its span, and note what is to be told of it."""
        step, alive = settlement.step, applied.alive
        try:
            if settlement.status is Status.COMPLETED and alive:  # nearly all of them
                announcements.completed[step.url] = announcements.completed.get(step.url, 0) + 1
            else:
                self._count(step, settlement.outcome if alive else "cancelled")
            if self._debug_log.enabled or step.span is not None:
                self._finish_span(step, settlement, settlement.outcome if alive else "cancelled")
            if alive:
                self._follow_up(settlement, waiting, applied, announcements)
        except Exception:  # it is written, and the other members of the group have their turn
            self._log.exception("a defect after the commit of step %s", step.public_id, extra=step.log_fields)

    def _pass_on_after(self, settlement: Settlement, result: SettleResult) -> None:
        """Dispatch the step that starts eagerly after a chain in the slot of its first step, or release the slot (N8)."""
        for one in settlement.chain():
            done = result.applied.get(one.step.step_id)
            if done is not None and done.alive:
                for new in one.loose:
                    if new.eager:
                        self._executor.dispatch_successor(one.step.flow, new)
                        return
        self._slots.release(settlement.step.slot or settlement.step.url)

    def _pass_slot_on(self, settlement: Settlement, alive: bool, at: int) -> Sequence[NewStep]:
        """Dispatch what starts eagerly in the slot of the settled step, or release the slot; the successors that wait."""
        step, child = settlement.step, settlement.child
        made = settlement.branches or ([settlement.successor] if settlement.successor is not None else [])
        if alive and made and made[0].eager:
            self._executor.dispatch_successor(step.flow, made[0])
            return made[1:]
        if alive and child is not None and child.eager:
            self._executor.dispatch_first(child, at)
        else:
            self._slots.release(step.slot or step.url)
        return made

    def _follow_up(
        self, settlement: Settlement, waiting: Sequence[NewStep], applied: Applied, announcements: _Announcements
    ) -> None:
        """Hint at the steps that a settlement left waiting, and note what is to be announced of it."""
        step, at = settlement.step, applied.at
        if settlement.child is not None:
            self._child_created(settlement.child, at, announcements)
        if settlement.branches or settlement.successor is not None:
            if waiting:
                task = waiting[0].url if len(waiting) == 1 else ""
                self._ready_queue.hint_flow(step.flow, waiting[0].delay_us, len(waiting), task=task)
            for new in waiting:
                announcements.pending.append(ReadyStep(new.step_id, step.flow.priority, at + new.delay_us))
        elif settlement.status is Status.PENDING and self._backpressure.holds(step.url):
            self._backpressure.on_new_work()
        elif settlement.status is Status.PENDING:
            self._ready_queue.hint_flow(step.flow, settlement.delay_us, task=step.url)
            announcements.pending.append(ReadyStep(step.step_id, step.flow.priority, at + settlement.delay_us))
        elif settlement.end is not None:
            end = settlement.end
            outcome = outcome_at(step.flow, end, applied.tags)
            announcements.changed.append(self._announcer.stopped(step.flow, outcome, at))
            announcements.ended.append(StoppedFlow(step.flow.key, end.status))
        elif settlement.wait_us is not None:
            self._deadlines.note(settlement.wait_us)

    def _child_created(self, new: NewFlow, at: int, announcements: _Announcements) -> None:
        flow = new.flow
        self._counters.flows_started.add(flow.workflow)
        announcements.changed += [
            self._announcer.change(flow, status, at) for status in (Status.CREATED, Status.RUNNING)
        ]
        if not new.eager:
            self._ready_queue.hint_flow(flow)
            announcements.pending.append(ReadyStep(new.step_id, flow.priority, at))

    def _count(self, step: ClaimedStep, outcome: str) -> None:
        if outcome == "given_back":
            self._counters.given_back.add(step.url)
        elif outcome != "held":
            self._counters.executed.add(step.url, outcome)

    def _finish_span(self, step: ClaimedStep, settlement: Settlement, outcome: str) -> None:
        """End the span of a dispatch, and log its outcome."""
        if step.span is not None:
            if settlement.error is not None:
                step.span.failed(settlement.error.message)
            if step.span.child is not None and outcome == "waiting":
                step.span.child.end()
            step.span.end(outcome)
        if self._debug_log.enabled:
            self._debug_log.settled(step, outcome)
