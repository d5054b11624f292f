"""Tells the world what a commit made true: waiters, notices, the other replicas, this replica's ready queue (B1, B4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.engine.port_errors import suppress_port_errors
from dwarf_nats.engine.projections import flow_key, outcome_of
from dwarf_nats.rules.steps import StoppedFlow
from dwarf_nats.workflow.records import Outcome, StatusChanged
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.backpressure import ShardBackpressure
    from dwarf_nats.engine.debug_log import DebugLog
    from dwarf_nats.engine.scheduling.ready_queue import ReadyQueue
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.engine.waiters import Waiters
    from dwarf_nats.rules.rows import FlowRow, TreeChange
    from dwarf_nats.rules.steps import ReadyStep, StepRef

_ORDER = {Status.CREATED: 0, Status.RUNNING: 1}
_STOPPED = 2
"""The order of the changes of one flow in one commit: at most created, running and one stop."""


class AnnouncedFlow(Protocol):
    """A flow, as far as it is announced."""

    @property
    def flow_id(self) -> int: ...
    @property
    def thread_id(self) -> int: ...
    @property
    def workflow(self) -> str: ...
    @property
    def created_at(self) -> int: ...
    @property
    def notify(self) -> str: ...
    @property
    def surgraph_flow_id(self) -> int | None: ...


class Executions(Protocol):
    """The executions of steps on this replica."""

    def cancel(self, steps: Sequence[StepRef]) -> None:
        """End those of these steps, `(step id, token)` each."""
        ...


class Announcer:
    """Announces what happens to the flows of one shard. What a port raises is logged and suppressed."""

    def __init__(
        self,
        shared: Shared,
        shard: int,
        *,
        waiters: Waiters,
        ready_queue: ReadyQueue,
        backpressure: ShardBackpressure,
        executions: Executions,
        debug_log: DebugLog,
    ) -> None:
        self._shard = shard
        self._notices = shared.notices
        self._signals = shared.signals
        self._counters = shared.counters
        self._limits = shared.limits
        self._instruments = shared.instruments
        self._log = shared.logger
        self._waiters = waiters
        self._ready_queue = ready_queue
        self._backpressure = backpressure
        self._executions = executions
        self._debug_log = debug_log

    def change(self, flow: AnnouncedFlow, status: Status, at: int) -> StatusChanged:
        """The change of a flow's status at `at` (microseconds since the epoch), for `announce`."""
        number = self._shard
        return StatusChanged(
            flow_id=f"{number}-{flow.flow_id}",
            thread_id=f"{number}-{flow.thread_id}",
            workflow=flow.workflow,
            status=status,
            at=at,
            sequence=at * 4 + _ORDER.get(status, _STOPPED),
        )

    def stopped(self, flow: AnnouncedFlow, outcome: Outcome, at: int) -> StatusChanged:
        """Wake the waiters of a flow that stopped and notify its target; the change, for `announce`."""
        # Of a flow that was called, the outcome here is without the tags of its root: who waits for it reads it.
        self._waiters.wake(flow.flow_id, outcome if flow.surgraph_flow_id is None else None)
        if outcome.status.terminal:
            self._counters.flows_terminated.add(outcome.workflow, outcome.status.value)
            if flow.created_at:
                self._instruments.flow_time(outcome.workflow, at - flow.created_at, at)
        if self._limits.book.workflows and flow.surgraph_flow_id is None:
            self._limits.flow_stopped(self._shard, flow.flow_id, flow.workflow, at)
        if self._debug_log.enabled:
            self._debug_log.stopped(flow.flow_id, outcome)
        if flow.notify and self._notices is not None:
            with suppress_port_errors(self._log):
                self._notices.stopped(flow.notify, outcome)
        return self.change(flow, outcome.status, at)

    def perhaps_stopped(self, flow_id: int) -> None:
        """Have the waiters of a flow read whether it has stopped."""
        self._waiters.wake(flow_id, None)

    def stopped_flows(self, result: TreeChange) -> list[StatusChanged]:
        """As `stopped`, for all flows that an operation stopped."""
        return [self.stopped(flow, outcome_of(self._shard, flow), flow.updated_at) for flow in result.changed]

    def announce(
        self,
        changed: Sequence[StatusChanged],
        pending: Sequence[ReadyStep] = (),
        ended: Sequence[StoppedFlow] = (),
    ) -> None:
        """Announce what one commit made true.

        `changed`: flows whose status is another. `pending`: steps that wait to be claimed, on whichever replica. `ended`: the
        keys of flows that stopped, with their status.
        """
        if pending:
            self._backpressure.on_new_work()
        if changed and self._notices is not None:
            with suppress_port_errors(self._log):
                self._notices.changed(changed)
        if self._signals is not None:
            with suppress_port_errors(self._log):
                if pending:
                    self._signals.enqueue(self._shard, pending)
                if ended:
                    self._signals.notify_status_change(ended)

    def started(self, flow: FlowRow, at: int, steps: Sequence[ReadyStep]) -> None:
        """Announce that a created flow was started at `at`, and what waits to be claimed of it (O2)."""
        self._counters.flows_started.add(flow.workflow)
        self.announce([self.change(flow, Status.RUNNING, at)], steps)
        for step in steps:
            self._ready_queue.hint_flow(flow, step.not_before - at)

    def controlled(self, result: TreeChange, changed: Sequence[StatusChanged]) -> None:
        """Announce what an operation came to: end the executions that are not wanted any more, look for steps, tell."""
        self._executions.cancel(result.running)
        self._look_for(result.due)
        self.announce(
            changed,
            result.due,
            [StoppedFlow(flow_key(self._shard, one), one.status) for one in result.changed if one.status.stopped],
        )

    def runs_on(self, result: TreeChange) -> None:
        """As `controlled`, for a transaction that has flows run again."""
        self.controlled(result, [self.change(one, Status.RUNNING, one.updated_at) for one in result.changed])

    def unparked(self, steps: Sequence[ReadyStep]) -> None:
        """Announce steps that a breaker holds no more: look for them, and have the other replicas look (V5)."""
        self._look_for(steps)
        self.announce([], steps)

    def _look_for(self, steps: Sequence[ReadyStep]) -> None:
        for step in steps:
            self._ready_queue.hint_at(step.priority, step.not_before)
