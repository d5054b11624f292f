"""Settlements: values that list what becomes true when a step's answer is written (architecture: the spine)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.rules.state_refs import Refs
from dwarf_nats.workflow.state import State, encode_state, encode_value
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import ClaimedStep, FlowContext, Named, NewFlow, NewStep
    from dwarf_nats.workflow.answer import ErrorInfo
    from dwarf_nats.workflow.state import Raw


PROBLEMS, PROBLEM_LENGTH = 20, 500
"""Of a step, that are stored, and characters of each."""


@dataclass(slots=True)
class FlowEnd:
    """How a flow stops: its terminal status and final state (X8, X9), or the pause it is interrupted by (P2)."""

    status: Status
    state_json: bytes
    error: ErrorInfo | None = None
    payload: Raw | None = None
    """Of an interrupt; a breakpoint has none."""
    refs: Refs = field(default_factory=dict)
    stripped_json: bytes = b""
    """The state without what is borrowed from `refs`, if anything is."""

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


@dataclass(slots=True)
class Settlement:
    """What one answer makes true.

    `status`: completed, failed, interrupted, pending (a retry, or given back after `delay_us`), or running for a step that
    waits for its child.
    """

    step: ClaimedStep
    status: Status
    changes: State
    error: ErrorInfo | None = None
    attempt: int = 0
    delay_us: int = 0
    successor: NewStep | None = None
    branches: list[NewStep] = field(default_factory=list)
    """The cohort this step spawns (F1)."""
    arrives: bool = False
    """The step is the last of its branch: its cohort counts one more arrival, a failed one if it failed (F2, F4)."""
    end: FlowEnd | None = None
    pause: Pause | None = None
    child: NewFlow | None = None
    """The flow the step waits for from now on (P1)."""
    forgets: bool = False
    """What it was resumed with, and its child, are forgotten (X5)."""
    error_json: str | None = None
    problems: Sequence[str] = ()
    """Conditions that could not be evaluated (G9)."""
    _changes_json: bytes | None = None

    @property
    def outcome(self) -> str:
        """What became of the dispatch, for people: completed, failed, interrupted (by its task) or held (at a breakpoint),
        waiting (for its child), retried, given_back."""
        if self.status is Status.PENDING:
            return "retried" if self.attempt > self.step.attempt else "given_back"
        if self.status is Status.RUNNING:
            return "waiting"
        if self.pause is not None and self.pause.payload is None:
            return "held"
        return self.status.value

    def problems_json(self) -> str:
        """The problems as they are stored: of many the first, and how many more there are."""
        shown = [one if len(one) <= PROBLEM_LENGTH else one[:PROBLEM_LENGTH] + "…" for one in self.problems[:PROBLEMS]]
        if len(self.problems) > PROBLEMS:
            shown.append(f"and {len(self.problems) - PROBLEMS} more")
        return encode_value(shown, "problems").decode()

    def changes_json(self) -> bytes:
        if self._changes_json is None:
            self._changes_json = encode_state(self.changes) if self.changes else b"{}"
        return self._changes_json


class SettleResult(dict[int, tuple[bool, int]]):
    """Step id → (took effect on a living flow, time), of the settlements that were not fenced off (X1).

    `held`: the flows of these steps have breakpoints, so what follows them was born pending whatever was asked (O12).
    `born`: steps that came to be by what the group did together, pending. `woken`: `(step id, priority)` of those whose child
    has ended. `ended`: flows that stopped by what the group did together, with the time.
    """

    def __init__(self, applied: dict[int, tuple[bool, int]], held: frozenset[int] = frozenset()) -> None:
        super().__init__(applied)
        self.held = held
        self.born: list[tuple[FlowContext, NewStep]] = []
        self.woken: list[tuple[int, int]] = []
        self.ended: list[tuple[Named, FlowEnd, int]] = []
