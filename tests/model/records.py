"""What the model remembers: steps, the flows they belong to, what happened in them, and what would happen again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.rules.attempts import MAX_KEPT_ATTEMPTS
from dwarf_nats.workflow.tags import TagChanges
from tests.model.values import Error, State, canonical, normalised

Branch = tuple[int, int, str] | None
"""The place of a step in the innermost fan-out around it: branch, of how many, of which node (Q3)."""
COMPLETED, FAILED = "completed", "failed"
PAUSED, BROKE = "paused", "broke"


@dataclass(eq=False)
class Run:
    """One flow. `caller` is the step that waited for it."""

    workflow: str
    caller: Record | None = None
    history: list[Record] = field(default_factory=list)
    completed: bool = False

    def everything(self) -> Iterator[Record]:
        """The steps of the flow and of all flows below it, those forgotten by a retry included."""
        for record in self.history:
            yield from record.everything()


@dataclass(eq=False)
class Record:
    """A step. `origins`: the steps it follows, one, or at a fan-in those that arrived there (F7)."""

    run: Run
    task: str
    origins: list[Record]
    state: State
    """Its input, the overrides of a breakpoint included."""
    status: str = COMPLETED
    attempt: int = 0
    branch: Branch = None
    handled: Error | None = None
    """The error whose edge it took (Q3)."""
    failures: list[Error] = field(default_factory=list)
    """The errors of the attempts that failed before the last one (L3)."""
    child: Run | None = None
    changes: State = field(default_factory=dict)
    """What it changed, if it did its work: neither failed nor down an error edge."""
    tags: list[TagChanges] = field(default_factory=list)
    """What its executions set as tags, in their order; those of replies whose changes are kept (Q1, S6)."""
    worked: bool = False
    unrun: bool = False
    """It failed without having run, because its input could not be merged (F3)."""
    events: list[str] = field(default_factory=list)
    """Executions with what they were given, what resumes and children brought, pauses; in their order."""
    runs: list[tuple[Run, int]] = field(default_factory=list)
    """Every child it had, and how many events there were when that had ended."""

    def note(self, what: str, value: Any) -> None:
        self.events.append(canonical([what, self.run.workflow, self.task, normalised(value)]))

    def everything(self) -> Iterator[Record]:
        yield self
        for run, _ in self.runs:
            yield from run.everything()

    def identity(self) -> str:
        """What tells steps apart, if anything does: node and input."""
        return identity(self.run.workflow, self.task, self.state)

    def shown(self) -> list[Any]:
        child = None if self.child is None else [self.child.workflow, shown_history(self.child.history)]
        handled = None if self.handled is None else self.handled.shown()
        branch = None if self.branch is None else list(self.branch)
        failures = [one.shown() for one in self.failures[-MAX_KEPT_ATTEMPTS:]]
        origins = sorted(one.task for one in self.origins)
        return [self.task, self.status, self.attempt, origins, child, handled, branch, failures]


def identity(workflow: str, task: str, state: State) -> str:
    return canonical([workflow, task, normalised(state)])


def shown_history(records: list[Record]) -> list[Any]:
    """A history for comparing: in no order, since branches finish as they like."""
    return sorted((record.shown() for record in records), key=canonical)


@dataclass
class Effects:
    """What tasks were given and what they were told, in no order; and how often somebody had to go on for them."""

    log: list[str]
    pauses: int
    breaks: int

    @classmethod
    def of(cls, events: Iterable[str]) -> Effects:
        listed = list(events)
        log = sorted(event for event in listed if event not in (PAUSED, BROKE))
        return cls(log, listed.count(PAUSED), listed.count(BROKE))


def all_effects(run: Run) -> Effects:
    """Of a whole flow."""
    return Effects.of(_events(run.history))


def effects_from(record: Record) -> Effects:
    """Of what happens again when a step is rewound: the step, what it led to, and what its flow's end led to above (O13)."""
    events = _events(_led_to(record))
    run = record.run
    while run.caller is not None:
        caller = run.caller
        at = [one for one, _ in caller.runs].index(run)
        events += caller.events[caller.runs[at][1] :]
        for later, _ in caller.runs[at + 1 :]:
            events += _events(later.history)
        events += _events(one for one in _led_to(caller) if one is not caller)
        run = caller.run
    return Effects.of(events)


def _led_to(record: Record) -> list[Record]:
    reached = {record}
    found = [record]
    for later in record.run.history:
        if later not in reached and any(origin in reached for origin in later.origins):
            reached.add(later)
            found.append(later)
    return found


def _events(records: Iterable[Record]) -> list[str]:
    """Of these steps and of the flows below them."""
    return [event for record in records for one in record.everything() for event in one.events]
