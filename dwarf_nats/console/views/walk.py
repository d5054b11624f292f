"""What a history says about the nodes and edges of its graph: which were reached, how they stand, which edges were taken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dwarf_nats.console.views.graph import END, DrawnGraph, Edge, EdgeKind
from dwarf_nats.console.views.wire import Step
from dwarf_nats.render.dag import Dag, Path

PRECEDENCE = ("failed", "interrupted", "running", "pending", "cancelled", "created", "completed")
"""The status of a node with many steps is the first of these that one of them has."""
WORDS = {
    "completed": "done",
    "handled": "handled",
    "failed": "failed",
    "running": "running",
    "interrupted": "waiting",
    "pending": "queued",
    "cancelled": "cancelled",
    "created": "created",
}
"""Status → word in counts of branches."""
COUNT_ORDER = ("completed", "handled", *(one for one in PRECEDENCE if one != "completed"))
"""The order of counts: what is done first."""
STANDING = frozenset(("wait", "ask", "sleep", "workflow"))
"""Kinds of nodes at which a running step works at nothing itself."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One branch at a node: the newest step there."""

    step: str
    label: str
    status: str
    title: str


@dataclass(slots=True)
class NodeState:
    """A node as the history has it. `status` is empty if it was not reached."""

    status: str = ""
    word: str = ""
    """More exact than the status, of its newest step."""
    handled: bool = False
    """It failed, and the flow took an error edge."""
    step: str = ""
    """The id of its newest step."""
    rounds: int = 0
    attempts: int = 0
    started: datetime | None = None
    ended: datetime | None = None
    """`None` while it runs."""
    error: str = ""
    sub_flow: str = ""
    progress: float | None = None
    cells: list[Cell] = field(default_factory=list)
    """A branch each, if it lies in a fan-out over elements."""
    total: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def folded(self) -> bool:
        """True if it stands for many branches."""
        return self.total > 1

    def counted(self) -> str:
        """`47 done · 2 failed · 1 running of 50`."""
        parts = [f"{self.counts[one]:,} {WORDS[one]}" for one in COUNT_ORDER if self.counts.get(one)]
        return f"{' · '.join(parts)} of {self.total:,}"


@dataclass(frozen=True, slots=True)
class Walk:
    """The history of a flow, laid over its graph. `compensations`: by the node they undo."""

    nodes: dict[str, NodeState]
    taken: frozenset[int]
    compensations: dict[str, NodeState]
    codes: dict[int, str]
    """The code of the error for which an error edge was taken."""


def walk(graph: DrawnGraph, steps: Sequence[Step], status: str) -> Walk:
    """Lay a history over its graph. `status`: of the flow."""
    dag = Dag(steps)
    at_node: dict[str, list[Step]] = defaultdict(list)
    undone: dict[str, list[Step]] = defaultdict(list)
    for step in dag.steps:
        if step.step_id in dag.compensations:
            undone[dag.by_id[step.predecessor_id or 0].task].append(step)
        else:
            at_node[step.task].append(step)
    taken, codes = _taken(graph, dag, status)
    nodes = {name: _state(dag, at_node[name]) if name in at_node else NodeState() for name in graph.nodes}
    if dag.steps:
        nodes["START"].status = "completed"
    if any(edge.target == END and edge.number in taken for edge in graph.edges):
        nodes[END].status = "completed"
    return Walk(nodes, frozenset(taken), {name: _state(dag, found) for name, found in undone.items()}, codes)


def shown_status(step: Step) -> str:
    """The status by which a step is coloured: one that only waits shows so."""
    if step.status == "running" and (step.kind in STANDING or step.sub_flow or step.sub_history):
        return "interrupted"
    if step.status == "pending" and step.kind == "sleep" and step.due_at is not None:
        return "interrupted"
    return step.status


def status_word(step: Step) -> str:
    """The word for what a step does: more exact than its status."""
    if step.handled_error is not None:
        return "handled"
    if step.status == "pending" and step.due_at is not None:
        return "next attempt due" if step.attempt else "sleeping" if step.kind == "sleep" else "scheduled"
    if step.status == "running" and step.kind in STANDING:
        return {"sleep": "sleeping", "workflow": "in child"}.get(step.kind, "waiting")
    if step.status == "running" and (step.sub_flow or step.sub_history):
        return "in child"
    return WORDS.get(step.status, step.status)


def _state(dag: Dag[Step], steps: list[Step]) -> NodeState:
    by_path: dict[Path, list[Step]] = defaultdict(list)
    for step in steps:
        by_path[dag.paths[step.step_id]].append(step)
    newest = {path: found[-1] for path, found in by_path.items()}
    counts = Counter(shown_status(one) for one in newest.values())
    last = _decisive(list(newest.values()))
    started = [one.started_at for one in newest.values() if one.started_at is not None]
    state = NodeState(
        status=next((one for one in PRECEDENCE if counts[one]), "created"),
        word=status_word(last),
        handled=last.handled_error is not None,
        step=last.step,
        rounds=max(len(found) for found in by_path.values()),
        attempts=last.attempt + 1,
        started=min(started, default=None),
        ended=max((one.updated_at for one in newest.values()), default=None)
        if all(one.over for one in newest.values())
        else None,
        error=str((last.failure or {}).get("message", "")),
        sub_flow=last.sub_flow or "",
        progress=last.progress.fraction if last.progress is not None and not last.over else None,
    )
    state.total = max([len(newest), *(one.branch.count for one in newest.values() if one.branch is not None)])
    if state.folded:
        state.counts = dict(Counter("handled" if one.handled_error else shown_status(one) for one in newest.values()))
        state.cells = [_cell(step, number) for number, step in enumerate(newest.values())]
    return state


def _decisive(steps: list[Step]) -> Step:
    """The step that a node with many shows."""
    return min(reversed(steps), key=lambda step: PRECEDENCE.index(shown_status(step)))


def _cell(step: Step, number: int) -> Cell:
    index = step.branch.index if step.branch is not None else number
    words = [f"element {index + 1}", status_word(step)]
    if step.failure:
        words.append(str(step.failure.get("message", "")))
    elif step.progress is not None and step.progress.text and not step.over:
        words.append(step.progress.text)
    return Cell(step.step, f"{index + 1}", "failed" if step.handled_error else shown_status(step), " · ".join(words))


def _taken(graph: DrawnGraph, dag: Dag[Step], status: str) -> tuple[set[int], dict[int, str]]:
    between: dict[tuple[str, str], list[Edge]] = defaultdict(list)
    for edge in graph.edges:
        between[edge.source, edge.target].append(edge)
    taken: set[int] = set()
    codes: dict[int, str] = {}
    for before, target in _passages(dag, status):
        chosen = _chosen(between.get((before.task, target), []), before)
        if chosen is not None:
            taken.add(chosen.number)
            if chosen.kind is EdgeKind.ERROR and before.failure:
                codes[chosen.number] = str(before.failure.get("code", ""))
    if dag.steps:
        taken.add(0)
    return taken, codes


def _passages(dag: Dag[Step], status: str) -> Iterator[tuple[Step, str]]:
    """The steps from which the flow went on, and where to."""
    for step in dag.steps:
        if step.step_id not in dag.compensations:
            for before in dag.before(step):
                yield before, step.task
    if status == "completed":
        for step in dag.sinks:
            if step.status == "completed":
                yield step, END


def _chosen(edges: list[Edge], source: Step) -> Edge | None:
    """Of several edges between the same two nodes, the one that was taken."""
    failed = source.handled_error is not None or source.status == "failed"
    fitting = [one for one in edges if (one.kind is EdgeKind.ERROR) == failed]
    return next(iter(fitting or edges), None)
