"""Settlements: values that list what becomes true when a step's answer is written (design note 0001)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from dwarf_nats.rules.retries import MAX_DELAY_US
from dwarf_nats.rules.state_refs import Refs
from dwarf_nats.workflow.progress import progress_json
from dwarf_nats.workflow.records import Pause as ShownPause
from dwarf_nats.workflow.state import State, encode_state, encode_value
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.events import Ask
    from dwarf_nats.rules.steps import ClaimedStep, FlowContext, FlowRef, NewFlow, NewStep
    from dwarf_nats.workflow.answer import ErrorInfo, EventWait
    from dwarf_nats.workflow.state import Raw
    from dwarf_nats.workflow.tags import TagChanges


MAX_PROBLEMS, PROBLEM_MAX_CHARS = 20, 500
"""Problems of a step that are stored, and characters of each: enough to mend a graph, little enough for a row."""


@dataclass(slots=True)
class FlowEnd:
    """The stop of a flow: its terminal status and final state (X8, X9), or the pause that interrupts it (P2)."""

    status: Status
    state_json: bytes
    error: ErrorInfo | None = None
    payload: Raw | None = None
    """The payload of an interrupt; a breakpoint has none."""
    pauses: list[ShownPause] = field(default_factory=list)
    """The pauses that interrupt it (P5)."""
    truncated: bool = False
    """Some of these are not listed, or without their payloads."""
    cancel_reason: str | None = None
    """Why it was cancelled, if it was."""
    refs: Refs = field(default_factory=dict)
    stripped_json: bytes = b""
    """The state without the fields in `refs`, if there are any."""

    @property
    def stored_json(self) -> bytes:
        """The state as it is written."""
        return self.stripped_json or self.state_json


@dataclass(slots=True)
class Pause:
    """The step waits for a resume. `payload` of an interrupt; `None` for a breakpoint (P2, O12)."""

    payload: Raw | None
    state_json: bytes
    """The step's merged state."""
    timeout_ms: int | None = None
    """The deadline of an interrupt, from now (P6)."""


class StepDetails(msgspec.Struct, kw_only=True):
    """The parts of a settlement that few steps have, written in statements of their own.

    `attempt_us`: the length of an attempt that failed (L3). `progress_json`: a progress that is not in the database yet, and
    `progress_age_us`, how long ago it was reported (B7).
    """

    attempt_us: int | None = None
    progress_json: str | None = None
    progress_age_us: int = 0


class Settlement(msgspec.Struct):
    """The result of one answer: all that becomes true when it is written.

    `status`: completed, failed, interrupted, pending (a retry, a sleep, or released for `delay_us`), or running for a step that
    waits for its child or an event.
    """

    step: ClaimedStep
    status: Status
    changes: State
    error: ErrorInfo | None = None
    attempt: int = 0
    delay_us: int = 0
    successor: NewStep | None = None
    branches: list[NewStep] = msgspec.field(default_factory=list)
    """The cohort this step spawns (F1)."""
    arrives: bool = False
    """The step is the last of its branch: its cohort counts one more arrival, a failed one if it failed (F2, F4)."""
    end: FlowEnd | None = None
    pause: Pause | None = None
    child: NewFlow | None = None
    """The flow the step waits for from now on (P1)."""
    event_wait: EventWait | None = None
    """The event the step waits for from now on (E2)."""
    slept: bool = False
    """The step sleeps for `delay_us`; it is marked, so that it is completed when it runs next (N7)."""
    compensates: bool = False
    """Compensations of its flow begin or go on (N9): it fails with `pending_end`, or the step was one of them and is over."""
    pending_end: FlowEnd | None = None
    """The end of the flow unless there is something to compensate first; then the end after that."""
    forgets: bool = False
    """The data it was resumed with, and its child, are forgotten (X5)."""
    links: Sequence[Settlement] = ()
    """The settlements of steps that this one creates: they are written with it, in waves (N8)."""
    error_json: str | None = None
    problems: Sequence[str] = ()
    """Conditions that could not be evaluated (G9)."""
    details: StepDetails | None = None
    tags: TagChanges | None = None
    """Tags of the flow to set or to remove (Q1)."""
    _changes_json: bytes | None = None

    @property
    def made(self) -> Sequence[NewStep]:
        """The steps that follow: the branches, or the successor."""
        return self.branches or (() if self.successor is None else (self.successor,))

    @property
    def follows_on(self) -> bool:
        """True if the step that follows is created running, for this replica."""
        return self.successor is not None and self.successor.eager

    @property
    def loose(self) -> Sequence[NewStep]:
        """Those of the steps that follow which no link settles."""
        if not self.links:
            return self.made
        linked = {link.step.step_id for link in self.links}
        return [new for new in self.made if new.step_id not in linked]

    def chain(self) -> Iterator[Settlement]:
        """This settlement and all that is linked to it, each after the one it follows."""
        waiting = [self]
        while waiting:
            one = waiting.pop()
            yield one
            waiting.extend(reversed(one.links))

    def unlink(self) -> None:
        """Drop the links: the steps they settled are created pending."""
        self.links = ()
        for new in self.made:
            new.eager = False

    @property
    def outcome(self) -> str:
        """The outcome of the dispatch, for people.

        One of completed, failed, interrupted (by its task), held (at a breakpoint), waiting (for its child, an event or a
        time), retried and given_back.
        """
        if self.slept:
            return "waiting"
        if self.status is Status.PENDING:
            return "retried" if self.attempt > self.step.attempt else "given_back"
        if self.status is Status.RUNNING:
            return "waiting"
        if self.pause is not None and self.pause.payload is None:
            return "held"
        return self.status.value

    @property
    def wait_us(self) -> int | None:
        """Microseconds until the deadline of its interrupt or its wait for an event, if that has one (P6, E2)."""
        wait = self.pause or self.event_wait
        return None if wait is None or wait.timeout_ms is None else min(wait.timeout_ms * 1000, MAX_DELAY_US)

    def note_error(self, now: int) -> None:
        """Encode its error; if the step is tried again because of it, note the attempt that failed (L3).

        `now`: the end of the attempt, on the clock of its dispatch.
        """
        if self.error is not None:
            self.error_json = self.error.stored()
            if self.status is Status.PENDING:
                began = self.step.dispatched_at or now
                self.details = StepDetails(attempt_us=max(0, now - began))

    def note_progress(self, now: int) -> None:
        """Take along a progress that is not in the database yet, unless the step is completed; `now` as in `note_error`."""
        progress = self.step.unsaved_progress
        if progress is not None and self.status is not Status.COMPLETED:
            details = self.details = self.details or StepDetails()
            details.progress_json = progress_json(progress).decode()
            details.progress_age_us = max(0, now - progress.at)

    def problems_json(self) -> str:
        """The problems as they are stored: of many the first, and how many more there are."""
        shown = [
            one if len(one) <= PROBLEM_MAX_CHARS else one[:PROBLEM_MAX_CHARS] + "…"
            for one in self.problems[:MAX_PROBLEMS]
        ]
        if len(self.problems) > MAX_PROBLEMS:
            shown.append(f"and {len(self.problems) - MAX_PROBLEMS} more")
        return encode_value(shown, "problems").decode()

    def changes_json(self) -> bytes:
        if self._changes_json is None:
            self._changes_json = encode_state(self.changes) if self.changes else b"{}"
        return self._changes_json


class Applied(msgspec.Struct, gc=False):
    """A settlement that was not fenced off (X1). `alive`: it took effect on a living flow. `at`: the database's time.

    `tags`: of a flow that ends with it, as they are stored.
    """

    alive: bool
    at: int
    tags: str | None = None


class CreatedStep(NamedTuple):
    """A pending step that came to be by what a group did together."""

    flow: FlowContext
    step: NewStep


class WokenStep(NamedTuple):
    """A step that is pending again because its child has ended, or because an event was kept for it."""

    step_id: int
    priority: int


class EndedFlow(NamedTuple):
    """A flow that stopped by what a group did together, with the database's time and its tags as they are stored."""

    flow: FlowContext | FlowRef
    end: FlowEnd
    at: int
    tags: str | None = None


@dataclass(slots=True)
class SettleResult:
    """The result of writing a group of settlements.

    `applied`: by step id, those that were not fenced off (X1). `with_breakpoints`: steps whose flows have breakpoints, so that
    what follows them was created pending, not eager (O12).
    """

    applied: dict[int, Applied] = field(default_factory=dict)
    with_breakpoints: frozenset[int] = frozenset()
    created: list[CreatedStep] = field(default_factory=list)
    woken: list[WokenStep] = field(default_factory=list)
    asking: list[Ask] = field(default_factory=list)
    """Steps that wait for an event which another shard may keep (E1)."""
    ended: list[EndedFlow] = field(default_factory=list)

    def add(self, later: SettleResult) -> None:
        """Add the result of a later wave of the same group."""
        self.applied.update(later.applied)
        self.with_breakpoints |= later.with_breakpoints
        self.created += later.created
        self.woken += later.woken
        self.asking += later.asking
        self.ended += later.ended
