"""The DAG of a flow, read from the edges its steps record (F7), and what belongs to which branch.

A chain X→Y stands on both rows; the branches of a fan-out name it as their predecessor, while it names no successor; every
member that reaches a fan-in names it as its successor. So a step lies in the branch of the step before it, except that a
branch begins at each child of a fan-out, and ends before the step that several name as their successor. A fan-out of one
branch looks like a chain, and is drawn as one. A compensation names the step that it compensates as its predecessor (N9); it
lies where that lies, and leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from dwarf_nats.workflow.nodes import COMPENSATION_SUFFIX
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status

Path = tuple[int, ...]
"""The branches a step lies in, outermost first: the id of the first step of each."""


class LinkedStep(Protocol):
    """A step as far as its edges are concerned."""

    @property
    def step_id(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def task(self) -> str: ...
    @property
    def predecessor_id(self) -> int | None: ...
    @property
    def successor_id(self) -> int | None: ...


S = TypeVar("S", bound=LinkedStep)


class Dag(Generic[S]):
    """One flow's own steps, by depth and id; those of its children are not among them."""

    def __init__(self, steps: Sequence[S]) -> None:
        self.by_id = {step.step_id: step for step in steps}
        self.steps = sorted(self.by_id.values(), key=lambda step: (step.depth, step.step_id))
        self.sources: dict[int, list[int]] = {step.step_id: [] for step in self.steps}
        self.fan_ins: set[int] = set()
        """Steps that several others name as their successor."""
        self.cohorts: dict[int, list[int]] = {}
        """Fan-out → the first step of each of its branches, two or more, in their order (F1)."""
        self.compensations = {
            step.step_id
            for step in self.steps
            if (before := self.by_id.get(step.predecessor_id or 0)) is not None
            and step.task == f"{before.task}{COMPENSATION_SUFFIX}"
        }
        """Steps that compensate the one before them."""
        self.chains: dict[Path, list[S]] = {}
        """The steps that lie in the same branch and in no deeper one."""
        self.paths: dict[int, Path] = {}
        self._read_edges()
        self._read_paths()
        compensations = self.compensations
        leading = {
            source for step_id, sources in self.sources.items() if step_id not in compensations for source in sources
        }
        self.sinks = [step for step in self.steps if step.step_id not in leading and step.step_id not in compensations]

    def _read_edges(self) -> None:
        children: dict[int, list[int]] = {}
        for step in self.steps:
            if step.successor_id in self.sources and step.successor_id != step.step_id:
                self.sources[step.successor_id].append(step.step_id)
        self.fan_ins = {step_id for step_id, sources in self.sources.items() if len(sources) > 1}
        for step in self.steps:
            before = step.predecessor_id
            if before in self.by_id and before != step.step_id and before not in self.sources[step.step_id]:
                self.sources[step.step_id].append(before)
                if step.step_id not in self.compensations:
                    children.setdefault(before, []).append(step.step_id)
        self.cohorts = {spawn: sorted(branches) for spawn, branches in children.items() if len(branches) > 1}

    def _read_paths(self) -> None:
        firsts = {first for branches in self.cohorts.values() for first in branches}
        for step in self.steps:
            path = self._path(step, firsts)
            self.paths[step.step_id] = path
            self.chains.setdefault(path, []).append(step)
        # If rows contradict each other, those that make sense are used.
        spawned = {
            spawn: [first for first in branches if self.paths[first] == (*self.paths[spawn], first)]
            for spawn, branches in self.cohorts.items()
        }
        self.cohorts = {spawn: branches for spawn, branches in spawned.items() if branches}

    def _path(self, step: S, firsts: set[int]) -> Path:
        before = [self.paths[source] for source in self.sources[step.step_id] if source in self.paths]
        if not before:
            return ()
        if step.step_id in self.fan_ins:
            return min(before, key=len)[:-1]
        if step.step_id in firsts and step.predecessor_id in self.paths:
            return (*self.paths[step.predecessor_id], step.step_id)
        return before[0]

    def before(self, step: S) -> list[S]:
        """The steps from which an edge leads to this one."""
        return [self.by_id[source] for source in self.sources[step.step_id]]

    def branch(self, path: Path) -> Iterator[S]:
        """The steps of a branch, those of the cohorts within it included."""
        pending = [path]
        while pending:
            path = pending.pop()
            for step in self.chains.get(path, ()):
                yield step
                pending += [(*path, child) for child in self.cohorts.get(step.step_id, ())]


def with_children(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps, and those of the flows they called, however deep."""
    pending = [steps]
    while pending:
        for step in pending.pop():
            yield step
            if step.sub_history:
                pending.append(step.sub_history)


def flow_status(steps: Sequence[Step]) -> Status:
    """The status of a flow, as far as its steps show it; `pending` if none runs yet. A compensation that is over shows none."""
    seen = {step.status for step in steps if not (step.status.terminal and step.task.endswith(COMPENSATION_SUFFIX))}
    return next((status for status in _PRECEDENCE if status in seen), Status.CREATED)


_PRECEDENCE = (
    Status.INTERRUPTED,
    Status.RUNNING,
    Status.PENDING,
    Status.CREATED,
    Status.CANCELLED,
    Status.FAILED,
    Status.COMPLETED,
)
"""The status of a flow is the first of these that a step has."""


def exits(dag: Dag[Step]) -> list[Step]:
    """The steps at which the flow ended: those without a successor that gave it its status; none while it runs."""
    status = flow_status(dag.steps)
    if not status.terminal:
        return []
    decisive = [step for step in dag.sinks if step.status is status]
    if status is Status.COMPLETED:
        decisive = [step for step in decisive if not dag.paths[step.step_id]]
    return decisive or dag.sinks
