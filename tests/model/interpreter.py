"""The reference model: a graph interpreted one step after the other, on plain dicts, as the rules have it.

It shares the nouns with the engine (`Graph`, its validation, conditions) and none of its decisions. Branches run one after
the other, to their end; interrupts are resumed and breakpoints passed the moment they pause, which nobody can tell
afterwards. Where the rules leave a result open (which of several failed branches gives a flow its error), the model
gives all that are allowed, and says so if such a result decided what came next (`ambiguous`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dwarf_nats.workflow.conditions import evaluate
from dwarf_nats.workflow.graph import END, Graph, Node, Transition
from dwarf_nats.workflow.nodes import COMPENSATION_RETRY, COMPENSATION_SUFFIX
from dwarf_nats.workflow.state import Raw
from tests.model import actions, values
from tests.model.example import Example, event_for
from tests.model.records import BROKE, COMPLETED, FAILED, PAUSED, Branch, Effects, Record, Run, all_effects
from tests.model.step_runner import Brought, Reply, execute
from tests.model.values import CannotMerge, Error, State, canonical, merged, normalised, reduced


class TooLong(Exception):
    """More executions than an example may have."""


@dataclass
class Twist:
    """Overrides for one step, told by what only it has (O13, O14)."""

    identity: str
    overrides: State


@dataclass
class Expected:
    """What has to come out."""

    status: str
    state: State
    errors: list[Error]
    """One of these is the flow's error."""
    run: Run
    effects: Effects
    ambiguous: bool
    open: set[str]
    """Fields of the final state that compensations of several branches write, which run in any order."""
    twisted: Record | None
    """The step that got the overrides of the twist."""


@dataclass
class Arrived:
    """A branch reached its fan-in with the changes of its own steps, in the order they ran (F3)."""

    changes: list[State]
    last: Record
    by_error: bool
    """Its last step came along an error edge."""


@dataclass
class Converged:
    """All branches have arrived: the fan-in's input (F3), with the errors if there is none, and what led there."""

    state: State
    problems: list[Error]
    origins: list[Record]
    merge: Callable[[State], State]
    """What it would be with overrides; raises `CannotMerge`."""


@dataclass
class Finished:
    """A thread of steps outside any fan-out came to its end."""

    state: State


@dataclass
class Broken:
    """A thread failed. `state` is the final state, should the flow end here (X9)."""

    errors: list[Error]
    state: State


@dataclass
class Step:
    """A step that completed. `branches` is what it fanned out to, if it did; else it leads to `target`, if anywhere.
    `by_error`: along an error edge."""

    changes: State
    state: State
    target: str | None = None
    branches: list[tuple[str, State]] | None = None
    by_error: bool = False


class Failed(Exception):
    """The step fails with an error; of several possible ones any may be the one."""

    def __init__(self, *errors: Error) -> None:
        super().__init__(errors)
        self.errors = list(errors)


class Model:
    """Interprets one example."""

    def __init__(self, example: Example, twist: Twist | None = None, max_executions: int = 400) -> None:
        self.ambiguous = False
        self.answer_to = example.answer_to
        self.open: set[str] = set()
        self._example = example
        self._twist = twist
        self._twisted: Record | None = None
        self._left = max_executions
        self._graphs = {graph.name: graph for graph in example.all_graphs()}

    def run(self) -> Expected:
        """Raises `TooLong`."""
        run = Run(self._example.root["name"])
        end = self.flow(run, self._example.state)
        status, errors = (FAILED, end.errors) if isinstance(end, Broken) else (COMPLETED, [])
        return Expected(status, end.state, errors, run, all_effects(run), self.ambiguous, self.open, self._twisted)

    def flow(self, run: Run, state: State) -> Finished | Broken:
        """One flow from its entry point to its end."""
        graph = self._graphs[run.workflow]
        end = FlowRun(self, graph, run).thread(graph.entry_point, copy.deepcopy(state), None, [])
        assert not isinstance(end, Arrived)
        run.completed = isinstance(end, Finished)
        if isinstance(end, Broken):
            end.state, fields = Undoing(self).undo(run, end.state)
            self.open = fields if run.caller is None else self.open
        return end

    def graph(self, workflow: str) -> Graph:
        return self._graphs[workflow]

    def execute(self, record: Record, state: State, brought: Brought) -> Reply:
        """One execution of a step's task, and what it answers."""
        self._left -= 1
        if self._left < 0:
            raise TooLong
        workflow, task = record.run.workflow, record.task
        record.events.append(canonical(["call", workflow, task, record.attempt, normalised(state)]))
        behaviour = self._example.behaviours[workflow][task]
        return execute(behaviour, state, record.attempt, brought, record.note)

    def carry_out(self, node: Node, state: State, brought: Brought, extra: State | None = None) -> Reply:
        """One execution of a step that asks no task, which counts as one: such a loop must end as well."""
        self._left -= 1
        if self._left < 0:
            raise TooLong
        return actions.carry_out(node, state, brought, extra)

    def enter(self, record: Record, graph: Graph) -> None:
        """Before the task runs: a breakpoint, which pauses once per step and is passed with overrides (O11, O12)."""
        broken = self._breaks_before(graph, record.task)
        if broken:
            record.state = merged(record.state, self._example.overrides)
        if self._twist is not None and self._twisted is None and record.identity() == self._twist.identity:
            self._twisted = record
            record.state = merged(record.state, self._twist.overrides)
            if broken:
                record.state = merged(record.state, self._example.overrides)
        if broken:
            record.events.append(BROKE)

    def mend(self, record: Record, fan_in: Converged) -> None:
        """A fan-in whose input cannot be merged, with the overrides of the twist: they stand for the fields they name, and what
        the branches brought is merged again (O13, O14)."""
        if self._twist is None or self._twisted is not None or record.identity() != self._twist.identity:
            return
        self._twisted = record
        try:
            record.state, fan_in.problems = fan_in.merge(self._twist.overrides), []
        except CannotMerge as error:
            record.state = merged(record.state, self._twist.overrides)
            fan_in.problems = [Error(text) for text in error.problems]

    def _breaks_before(self, graph: Graph, node: str) -> bool:
        """By the node's name, or by its url if no other node has it (O12)."""
        url = graph.nodes[node].url
        alone = sum(other.url == url for other in graph.nodes.values()) == 1
        return any(
            one == node or (one == url and alone and one not in graph.nodes) for one in self._example.breakpoints
        )

    def child(self, record: Record, workflow: str, given: State) -> Any:
        """What the step receives that waits for a child: its final state or its error (P1)."""
        if workflow not in self._graphs:
            raise Failed(Error(values.NO_WORKFLOW))
        record.child = Run(workflow, record)
        end = self.flow(record.child, given)
        record.runs.append((record.child, len(record.events)))
        if isinstance(end, Finished):
            return end.state
        self.ambiguous |= len({error.message for error in end.errors}) > 1
        return end.errors[0]


class FlowRun:
    """One flow of the model."""

    def __init__(self, model: Model, graph: Graph, run: Run) -> None:
        self._model = model
        self._graph = graph
        self._run = run
        self._fan_ins = graph.fan_in_of()
        self._reducers = {name: str(kind) for name, kind in graph.reducers.items()}

    # -- threads: one step after the other, until the end, the fan-in or a failure

    def thread(
        self, node: str, state: State, home: str | None, origins: list[Record], branch: Branch = None
    ) -> Finished | Arrived | Broken:
        """From `node` on; `home` is the fan-in at which this thread arrives if it is a branch, which is this one."""
        own: list[State] = []
        fan_in: Converged | None = None
        while True:
            try:
                record = Record(self._run, node, origins, state, branch=branch)
                self._run.history.append(record)
                if fan_in is not None and fan_in.problems:
                    self._model.mend(record, fan_in)
                if fan_in is not None and fan_in.problems:  # it fails without having run (F3)
                    record.unrun = True
                    step = self._failed(record, {}, fan_in.problems)
                else:
                    step = self._step(record, home)
            except _Stop as stop:
                return Broken(stop.errors, stop.state)
            fan_in = None
            record.changes = step.changes
            own.append(step.changes)
            if step.branches:
                resolved = self._cohort(record, step, self._fan_ins[node])
                if isinstance(resolved, Broken):
                    return resolved
                node, fan_in = self._fan_ins[node], resolved
                state, origins = fan_in.state, fan_in.origins
            elif step.target is None or step.target == END:
                assert home is None
                return Finished(step.state)
            elif self._graph.nodes[step.target].fan_in and self._fan_ins.get(node) != step.target:
                assert step.target == home
                return Arrived(own, record, step.by_error)
            else:  # also from a source straight to its own fan-in: net zero (G7), as after no branches (F5)
                node, state, origins = step.target, step.state, [record]

    def _cohort(self, source: Record, step: Step, fan_in: str) -> Converged | Broken:
        """Every branch to its end (X8)."""
        assert step.branches is not None
        ends = [
            self.thread(target, copy.deepcopy(state), fan_in, [source], (at, len(step.branches), source.task))
            for at, (target, state) in enumerate(step.branches)
        ]
        private = {
            name
            for edge in self._graph.leaving(source.task)
            if edge.for_each
            for name in (edge.as_, f"{edge.as_}Index", f"{edge.as_}Count")
        }
        deltas: list[State] = []
        for end in ends:
            if isinstance(end, Arrived):
                deltas += [
                    {
                        name: value
                        for name, value in changes.items()
                        if name not in private and (name != "onErr" or (at == len(end.changes) - 1 and end.by_error))
                    }
                    for at, changes in enumerate(end.changes)
                ]

        def merge(overrides: State) -> State:
            before, *rest = [
                {name: value for name, value in fields.items() if name not in overrides}
                for fields in (step.state, *deltas)
            ]
            return merged(reduced(self._reducers, before, rest), overrides)

        problems: list[Error] = []
        try:
            state = merge({})
        except CannotMerge as error:
            state, problems = step.state, [Error(text) for text in error.problems]
        errors = [error for end in ends if isinstance(end, Broken) for error in end.errors]
        if errors:
            return Broken(errors, state)
        return Converged(state, problems, [end.last for end in ends if isinstance(end, Arrived)], merge)

    # -- steps

    def _step(self, record: Record, home: str | None) -> Step:
        changes: State = {}
        brought = Brought()
        parked = False
        self._model.enter(record, self._graph)
        while True:
            seen = merged(record.state, changes)
            node = self._graph.nodes[record.task]
            if node.action is None:
                reply = self._model.execute(record, seen, brought)
            else:
                reply = self._model.carry_out(node, seen, brought)
            try:
                retrying = self._retries(reply, record.attempt)
                if retrying:
                    changes |= reply.changes
                    record.tags.append(reply.tags)
                    record.attempt += 1
                    record.failures += [] if reply.error is None else [reply.error]
                    brought, parked, record.child = Brought(), False, None  # happens again (X5)
                    continue
                if not reply.wishes.keys() & {"interrupt", "subgraph", "wait"}:
                    record.worked = True
                    state_after = merged(seen, reply.changes)
                    step = self._onward(
                        record.task, changes | reply.changes, state_after, home, reply.wishes.get("goto")
                    )
                    record.tags.append(reply.tags)
                    return step
                if parked:
                    raise Failed(Error(values.SECOND_PARK))
                parked = True
                if "interrupt" in reply.wishes:
                    record.events.append(PAUSED)
                    brought = Brought(resumed=self._model.answer_to(reply.wishes["interrupt"]))
                elif "wait" in reply.wishes:  # every event of a key has the same data
                    brought = Brought(event=event_for(reply.wishes["wait"][1]))
                else:
                    brought = Brought(child=self._model.child(record, *reply.wishes["subgraph"]))
                changes |= reply.changes
                record.tags.append(reply.tags)
            except Failed as failed:
                record.worked = False
                policy = node.retry if node.retry is not None else self._graph.defaults.retry
                if reply.retry is not None or policy is None:
                    return self._failed(record, changes, failed.errors)
                if not actions.retried(policy, failed.errors[0], record.attempt):
                    return self._failed(
                        record, changes, [actions.counted(one, record.attempt) for one in failed.errors]
                    )
                record.attempt += 1
                self._model.ambiguous |= len({one.shown() for one in failed.errors}) > 1
                record.failures.append(failed.errors[0])
                brought, parked, record.child = Brought(), False, None

    def _retries(self, reply: Reply, attempt: int) -> bool:
        """Whether the step goes back to pending. Raises the error of the answer, in the order of X4."""
        if reply.error is not None:
            if reply.retry is not None and reply.retry.granted(attempt):
                return True
            raise Failed(reply.error)
        if len(reply.wishes) + (reply.retry is not None) > 1:
            raise Failed(Error(values.CLASH))
        if reply.retry is None:
            return False
        if not reply.retry.granted(attempt):
            raise Failed(Error(values.exhausted(attempt + 1)))
        return True

    def _failed(self, record: Record, changes: State, errors: list[Error]) -> Step:
        """Down an error edge, the step counting as completed; or the thread stops (X4, X8)."""
        edges = [edge for edge in self._graph.leaving(record.task) if edge.on_error]
        if edges:
            self._model.ambiguous |= len({error.shown() for error in errors}) > 1
        with_error = changes | {"onErr": errors[0].value(record.task)}
        after = merged(record.state, with_error)
        for edge in edges:
            if self._holds(edge, after):
                record.handled = errors[0]
                return Step(with_error, after, edge.target, by_error=True)
        record.status = FAILED
        raise _Stop(errors, merged(record.state, changes))

    # -- routing (X6, X7)

    def _onward(self, node: str, changes: State, state: State, home: str | None, goto: str | None) -> Step:
        edges = self._graph.leaving(node)
        if goto is not None:
            return Step(changes, state, self._goto(edges, state, goto))
        if any(edge.switch for edge in edges):
            taken = [edge for edge in edges if edge.switch and self._holds(edge, state)][:1]
        else:
            taken = [edge for edge in edges if edge.branches and self._holds(edge, state)]
        if node in self._fan_ins:
            own = self._fan_ins[node]
            branches = [
                (edge.target, branch) for edge in taken for branch in _branches(edge, state) if edge.target != own
            ]
            return Step(changes, state, branches=branches) if branches else Step(changes, state, own)
        if not taken and home is not None:
            raise Failed(Error(values.STUCK))
        return Step(changes, state, taken[0].target if taken else None)

    def _goto(self, edges: list[Transition], state: State, goto: str) -> str:
        serving = [name for name, node in self._graph.nodes.items() if node.url == goto]
        if goto in self._graph.nodes or goto == END:
            target = goto
        elif len(serving) == 1:
            target = serving[0]
        else:
            raise Failed(Error(values.NO_GOTO))
        if not any(edge.goto and edge.target == target and self._holds(edge, state) for edge in edges):
            raise Failed(Error(values.NO_GOTO))
        return target

    def _holds(self, edge: Transition, state: State) -> bool:
        if not edge.when:
            return True
        return evaluate(edge.when, {name: Raw(json.dumps(value).encode()) for name, value in state.items()}).taken


class Undoing:
    """Compensation (N9): before a flow fails, its completed steps that can be undone are, the last one first."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def undo(self, run: Run, state: State) -> tuple[State, set[str]]:
        """The final state after that, and the fields of it that depend on the order in which branches completed."""
        writers: dict[str, list[tuple[Record, Any]]] = {}
        for record, node in self._plan(run):
            undone = Record(record.run, node.name, [record], record.state)
            record.run.history.append(undone)
            changes = self._step(undone, node, record)
            if record.run is run:
                state = merged(state, changes)
                for name, value in changes.items():
                    writers.setdefault(name, []).append((record, value))
        return state, {name for name, found in writers.items() if len(_last(found)) > 1}

    def _plan(self, run: Run) -> list[tuple[Record, Node]]:
        """In the reverse order of completion; those of a completed child come before that of the step that called it."""
        found: list[tuple[Record, Node]] = []
        compensations = self._model.graph(run.workflow).compensations
        for record in reversed(run.history):
            if record.child is not None and record.child.completed:
                found += self._plan(record.child)
            node = compensations.get(f"{record.task}{COMPENSATION_SUFFIX}")
            if node is not None and record.status == COMPLETED and record.worked:
                found.append((record, node))
        return found

    def _step(self, undone: Record, node: Node, record: Record) -> State:
        """What a compensation changes; nothing if it fails for good."""
        policy = node.retry or COMPENSATION_RETRY
        changes: State = {}
        while True:
            seen = merged(undone.state, changes)
            if node.action is None:
                undone.note("undo", record.changes)
                reply = self._model.execute(undone, seen, Brought())
            else:
                reply = self._model.carry_out(node, seen, Brought(), {"changes": record.changes})
            error = reply.error
            if reply.retry is not None and reply.retry.granted(undone.attempt):
                changes |= reply.changes
                undone.tags.append(reply.tags)
                undone.failures += [] if error is None else [error]
            else:
                if error is None and (reply.retry is not None or reply.wishes):
                    error = Error(values.MISPLACED)
                if error is None:
                    undone.tags.append(reply.tags)
                    return changes | reply.changes
                if reply.retry is not None or not actions.retried(policy, error, undone.attempt):
                    undone.status = FAILED
                    return {}
                undone.failures.append(error)
            undone.attempt += 1


def _last(writers: list[tuple[Record, Any]]) -> set[str]:
    """The values that a field may end with: of those whose steps may have completed first, and are so undone last."""
    among = {record for record, _ in writers}
    return {canonical(value) for record, value in writers if not _led_to(record) & among}


def _led_to(record: Record) -> set[Record]:
    found: set[Record] = set()
    ahead = list(record.origins)
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead += one.origins
    return found


class _Stop(Exception):
    """A thread stops with these errors, and in this state."""

    def __init__(self, errors: list[Error], state: State) -> None:
        super().__init__(errors)
        self.errors = errors
        self.state = state


def _branches(edge: Transition, state: State) -> list[State]:
    """The inputs of an edge's branches (X7)."""
    if not edge.for_each:
        return [state]
    elements = state.get(edge.for_each)
    if elements is None:
        return []
    if not isinstance(elements, list):
        raise Failed(Error(values.NO_ARRAY))
    rest = {name: value for name, value in state.items() if name != edge.for_each}
    return [
        {**rest, edge.as_: element, f"{edge.as_}Index": index, f"{edge.as_}Count": len(elements)}
        for index, element in enumerate(elements)
    ]
