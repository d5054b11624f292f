"""A history as a Mermaid flowchart (O8, D1): the steps, their times, their waits and their results.

Steps are coloured by status. The branches of a fan-out stand side by side in a dashed frame, the workflow a step called
stands in a frame of its own below that step. START leads to the first step; END follows when the flow is over and has its
status.

A diagram is for people, and Mermaid draws no more than 500 edges and 50,000 characters. Of a fan-out of many branches a few
are drawn, first those that failed or are paused; of a long chain the beginning and the end; flows nested deeply are one
node. One node stands for the steps that are left out and says how many they are. The bounds become tighter until the diagram
fits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dwarf_nats.render.dag import Dag, Path, exits, flow_status, with_children
from dwarf_nats.render.details import more_details
from dwarf_nats.render.flowchart import MAX_CHARACTERS, Box, Flowchart, Line, Shape
from dwarf_nats.render.kinds import SHAPES
from dwarf_nats.render.labels import clip, span
from dwarf_nats.workflow.nodes import NodeKind
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status

ON_ERROR = "on error"
"""The label of an edge that a step took because of an error."""
MAX_NODES = 160
"""Nodes of one diagram; with more, people find nothing in it."""


@dataclass(slots=True, frozen=True)
class Bounds:
    """The size of a drawing: branches of a fan-out, steps of a chain, frames within frames, characters of a line."""

    branches: int
    steps: int
    levels: int
    characters: int


BOUNDS = (
    Bounds(6, 30, 5, 60),
    Bounds(5, 20, 4, 60),
    Bounds(4, 12, 3, 40),
    Bounds(3, 8, 2, 40),
    Bounds(2, 4, 1, 24),
    Bounds(2, 2, 0, 12),
)


def fits_mermaid(text: str) -> bool:
    """True if Mermaid draws a diagram of this size."""
    return len(text.encode("utf-16-le")) // 2 <= MAX_CHARACTERS


def history_mermaid(steps: Sequence[Step], workflow: str = "", fits: Callable[[str], bool] = fits_mermaid) -> str:
    """Draw the steps of a flow, the histories within them included. `workflow` is written at START.

    `fits` returns true for a diagram that is small enough. The smallest one, a single node for all steps, is returned in any
    case.
    """
    for bounds in BOUNDS:
        chart = Flowchart()
        _FlowDrawing(chart, steps, workflow, bounds).draw()
        text = chart.text()
        if chart.nodes <= MAX_NODES and chart.fits and fits(text):
            return text
    return text if fits(text) else _folded(steps)


def _folded(steps: Sequence[Step]) -> str:
    """All steps as one node."""
    chart = Flowchart()
    counted = Counter(step.status for step in with_children(steps))
    counts = ", ".join(f"{counted[status]:,} {status.value}" for status in Status if counted[status])
    chart.node(f"{counted.total():,} steps", counts, style="folded")
    return chart.text()


class _FlowDrawing:
    """The drawing of one flow into a box of the chart. `level`: the number of frames around it."""

    def __init__(
        self,
        chart: Flowchart,
        steps: Sequence[Step],
        workflow: str,
        bounds: Bounds,
        *,
        box: Box | None = None,
        level: int = 0,
    ) -> None:
        self._chart = chart
        self._dag = Dag(steps)
        self._workflow = workflow
        self._bounds = bounds
        self._box = box
        self._level = level
        self._heads: dict[int, str] = {}
        """Step → the node at which edges into it end."""
        self._tails: dict[int, str] = {}
        """Step → the node at which edges out of it begin: the frame of the flow it called, if that is drawn."""
        self._ranks: dict[str, int] = {}
        self._folded: set[str] = set()

    def draw(self) -> None:
        named = clip(self._workflow, self._bounds.characters)
        start = self._chart.node("START", named, style="terminal", shape=Shape.ROUND, box=self._box)
        self._ranks[start] = 0
        self._chain((), self._box, self._level)
        self._draw_edges(start)
        self._draw_end()

    # -- nodes

    def _chain(self, path: Path, box: Box | None, level: int, number: str = "") -> None:
        """Draw the steps of one branch in a column. `number`: its number within the cohort."""
        steps = self._dag.chains.get(path, [])
        first = len(steps)
        hidden: list[Step] = []
        if first > self._bounds.steps + 1:
            first = (self._bounds.steps + 1) // 2
            hidden = steps[first : len(steps) - self._bounds.steps // 2]
        for step in steps[:first]:
            self._step(step, box, level, number)
            number = ""
        if hidden:
            inside = [one for step in hidden for one in (step, *self._within(path, step))]
            self._fold(f"… {len(inside):,} more steps", inside, box)
        for step in steps[first + len(hidden) :]:
            self._step(step, box, level)

    def _step(self, step: Step, box: Box | None, level: int, number: str = "") -> None:
        task = clip(step.task, self._bounds.characters) + number
        node = self._chart.node(task, *self._details(step), style=step.status.value, shape=self._shape(step), box=box)
        self._heads[step.step_id] = self._tails[step.step_id] = node
        if step.sub_workflow or step.sub_history:
            self._tails[step.step_id] = self._child(step, node, box, level)
        if step.step_id in self._dag.cohorts:
            self._cohort(step, box, level)

    def _shape(self, step: Step) -> Shape:
        return Shape.FUNNEL if step.step_id in self._dag.fan_ins else SHAPES.get(step.kind, Shape.BOX)

    def _details(self, step: Step) -> list[str]:
        """The kind unless a task is asked, the status unless completed, the time, the attempt unless the first; the error, and
        what else there is to say."""
        words = [] if step.kind is NodeKind.TASK else [step.kind.value]
        words += [] if step.status is Status.COMPLETED else [step.status.value]
        if not step.status.stopped and step.sub_history and not flow_status(step.sub_history).terminal:
            words[-1] = "waiting"
        if step.started_at is not None and step.status.stopped:
            words.append(span(step.updated_at - step.started_at))
        if step.attempt:
            words.append(f"attempt {step.attempt + 1:,}")
        # Some versions of Mermaid cannot show text in backticks.
        error = step.error.message.replace("`", "'") if step.error is not None else ""
        return [" · ".join(words), *(clip(one, self._bounds.characters) for one in (error, *more_details(step)))]

    def _child(self, step: Step, caller: str, box: Box | None, level: int) -> str:
        """Draw the flow that a step called, below the step. Returns the node at which edges out of both begin."""
        workflow = clip(step.sub_workflow or "", self._bounds.characters)
        if step.sub_history and level < self._bounds.levels:
            frame = self._chart.frame(workflow, style="child", box=box)
            self._chart.edge(caller, frame.id, line=Line.DOTTED)
            _FlowDrawing(self._chart, step.sub_history, "", self._bounds, box=frame, level=level + 1).draw()
            return frame.id
        size = sum(1 for _ in with_children(step.sub_history))
        what = f"{size:,} step{'s' if size != 1 else ''}" if size else ""
        style = flow_status(step.sub_history).value if size else "folded"
        child = self._chart.node(workflow, what, style=style, shape=Shape.FRAMED, box=box)
        self._chart.edge(caller, child, line=Line.DOTTED)
        return child

    def _cohort(self, spawn: Step, box: Box | None, level: int) -> None:
        """Draw the branches of a fan-out side by side."""
        path = self._dag.paths[spawn.step_id]
        branches = self._dag.cohorts[spawn.step_id]
        if level >= self._bounds.levels:
            return self._fold_branches(path, branches, box, f"{len(branches):,} branches")
        frame = self._chart.frame("", style="cohort", box=box)
        shown = self._chosen(path, branches)
        alike = len({self._dag.by_id[child].task for child in branches}) < len(branches)
        for at, child in enumerate(branches, 1):
            if child in shown:
                place = self._dag.by_id[child].branch
                label = f"{at:,}/{len(branches):,}" if place is None else place.label
                number = f" {label}" if alike else ""
                self._chain((*path, child), frame, level + 1, number)
        hidden = [child for child in branches if child not in shown]
        if hidden:
            self._fold_branches(path, hidden, frame, f"… {len(hidden):,} more")
        return None

    def _chosen(self, path: Path, branches: list[int]) -> set[int]:
        """The branches to draw: all if they are few, else those that failed, those that wait, then the first ones."""
        if len(branches) <= self._bounds.branches + 1:
            return set(branches)
        order = {Status.FAILED: 0, Status.INTERRUPTED: 1}
        urgent = {child: order.get(self._branch_status((*path, child)), 2) for child in branches}
        return set(sorted(branches, key=lambda child: urgent[child])[: self._bounds.branches])

    def _branch_status(self, path: Path) -> Status:
        """The status of a branch: failed if a step of it is, else paused if one is, also in flows it called (P2)."""
        steps = [*self._dag.branch(path)]
        if any(step.status is Status.FAILED for step in steps):
            return Status.FAILED
        paused = any(step.status is Status.INTERRUPTED for step in with_children(steps))
        return Status.INTERRUPTED if paused else flow_status(steps)

    def _fold_branches(self, path: Path, branches: list[int], box: Box | None, title: str) -> None:
        counted = Counter(self._branch_status((*path, child)) for child in branches)
        counts = ", ".join(f"{counted[status]:,} {status.value}" for status in Status if counted[status])
        steps = [step for child in branches for step in self._dag.branch((*path, child))]
        self._fold(title, steps, box, counts)

    def _fold(self, title: str, steps: list[Step], box: Box | None, counts: str = "") -> None:
        """Draw one node for many steps."""
        node = self._chart.node(title, counts, style="folded", box=box)
        self._folded.add(node)
        for step in steps:
            self._heads[step.step_id] = self._tails[step.step_id] = node

    def _within(self, path: Path, step: Step) -> list[Step]:
        """The steps of the cohort a step spawned."""
        branches = self._dag.cohorts.get(step.step_id, ())
        return [one for child in branches for one in self._dag.branch((*path, child))]

    # -- edges

    def _draw_edges(self, start: str) -> None:
        drawn: set[tuple[str, str]] = set()
        for step in self._dag.steps:
            head, fan_in = self._heads[step.step_id], step.step_id in self._dag.fan_ins
            before = [(self._tails[one.step_id], one) for one in self._dag.before(step)]
            into: list[tuple[str, Step | None]] = [edge for edge in before if edge[0] != head]
            if not before:
                into = [(start, None)]
            self._rank(step, [tail for tail, _ in into])
            for tail, source in into:
                if (tail, head) not in drawn:
                    drawn.add((tail, head))
                    if step.step_id in self._dag.compensations:
                        self._chart.edge(tail, head, line=Line.DOTTED)
                        continue
                    waited = "" if tail in self._folded or head in self._folded else _waited(source, step)
                    ranks = max(1, self._ranks[head] - self._ranks[tail]) if fan_in else 1
                    if source is not None and source.handled_error is not None and tail not in self._folded:
                        self._chart.edge(tail, head, ON_ERROR, waited, line=Line.DOTTED, style="error", ranks=ranks)
                    else:
                        self._chart.edge(tail, head, waited, ranks=ranks)

    def _rank(self, step: Step, tails: list[str]) -> None:
        """Compute the row of a step, so that the branches of a cohort begin in one row, however long each is."""
        head, tail = self._heads[step.step_id], self._tails[step.step_id]
        rank = max((self._ranks.setdefault(one, 0) + 1 for one in tails), default=0)
        self._ranks[head] = max(self._ranks.get(head, 0), rank)
        if tail != head:
            self._ranks[tail] = self._ranks[head] + 1

    def _draw_end(self) -> None:
        tails = {self._tails[step.step_id]: step for step in exits(self._dag)}
        if tails:
            status = flow_status(self._dag.steps)
            said = "" if status is Status.COMPLETED else status.value
            end = self._chart.node("END", said, style=status.value, shape=Shape.ROUND, box=self._box)
            for tail, step in tails.items():
                if step.handled_error is not None and tail not in self._folded:
                    self._chart.edge(tail, end, ON_ERROR, line=Line.DOTTED, style="error")
                else:
                    self._chart.edge(tail, end)


def _waited(source: Step | None, step: Step) -> str:
    """The time a step waited: from the end of the step before, or for the first one from its creation, to the start."""
    if step.started_at is None or (source is not None and not source.status.stopped):
        return ""
    return span(step.started_at - (step.created_at if source is None else source.updated_at))
