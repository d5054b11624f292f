"""The reference model: a graph interpreted one step after the other, on plain dicts, as the contract's words have it.

It shares the nouns with the engine (`Graph`, its validation, conditions) and none of its decisions. Branches run one after
the other, to their end; interrupts are resumed and breakpoints passed the moment they pause, which nobody can tell
afterwards. Where the contract leaves a result open (which of several failed branches gives a flow its error), the model
gives all that are allowed, and says so if such a result decided what came next (`ambiguous`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.workflow.conditions import evaluate
from dwarf_nats.workflow.graph import END, Graph, Transition
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.task_error import SubgraphError, TaskError
from tests.model import values
from tests.model.behaviours import play
from tests.model.example import Example, answer_to
from tests.model.values import CannotMerge, Error, State, canonical, merged, normalised, reduced

COMPLETED, FAILED = "completed", "failed"


class TooLong(Exception):
    """More executions than an example may have."""


@dataclass
class Record:
    """A step in the history."""

    task: str
    origins: list[str]
    """The nodes it follows: one, or at a fan-in those from which its branches arrived (F7)."""
    status: str = COMPLETED
    attempt: int = 0
    child: tuple[str, list[Record]] | None = None

    def shown(self) -> list[Any]:
        child = None if self.child is None else [self.child[0], shown_history(self.child[1])]
        return [self.task, self.status, self.attempt, sorted(self.origins), child]


def shown_history(records: list[Record]) -> list[Any]:
    """A history for comparing: in no order, since branches finish as they like."""
    return sorted((record.shown() for record in records), key=canonical)


@dataclass
class Expected:
    """What has to come out."""

    status: str
    state: State
    errors: list[Error]
    """One of these is the flow's error."""
    history: list[Record]
    log: list[str]
    """Every execution with what it was given, every answer of a resume or child; in no order."""
    pauses: int
    breaks: int
    ambiguous: bool
    unrun: frozenset[tuple[str, str]]
    """Workflow and name of the nodes that failed without having run, because their input could not be merged."""


@dataclass
class Ended:
    """A flow that stopped."""

    status: str
    state: State
    errors: list[Error]
    history: list[Record]


@dataclass
class Arrived:
    """A branch reached its fan-in with the changes of its own steps, in the order they ran (F3)."""

    changes: list[State]
    last: str


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
    """A step that completed. `branches` is what it fanned out to, if it did; else it leads to `target`, if anywhere."""

    changes: State
    state: State
    target: str | None = None
    branches: list[tuple[str, State]] | None = None


@dataclass
class Reply:
    """What a task answered."""

    changes: State
    error: Error | None = None
    retry: Retry | None = None
    wishes: dict[str, Any] = field(default_factory=dict)
    """Of interrupt, subgraph, goto those it asked for."""


@dataclass
class Retry:
    max_attempts: int | None
    late: bool

    def granted(self, attempt: int) -> bool:
        """X5: `max_attempts` counts executions, the first included."""
        return not self.late and (self.max_attempts is None or attempt + 1 < self.max_attempts)


class Failed(Exception):
    """The step fails with an error; of several possible ones any may be the one."""

    def __init__(self, *errors: Error) -> None:
        super().__init__(errors)
        self.errors = list(errors)


class Paused(BaseException):
    """An execution that ends because its step parks."""


class Refused(Exception):
    """The carrier takes no such value (S1)."""


NOTHING = object()


class ModelFlow:
    """The model's carrier: one execution of one step."""

    def __init__(self, state: State, attempt: int, resumed: Any, child: Any) -> None:
        self.attempt = attempt
        self.changes: State = {}
        self.wishes: dict[str, Any] = {}
        self.asked_retry: Retry | None = None
        self._state = state
        self._resumed = resumed
        self._child = child

    def get(self, name: str, default: Any = None) -> Any:
        if name in self.changes:
            value = self.changes[name]
            return default if value is None else copy.deepcopy(value)
        return copy.deepcopy(self._state.get(name, default))

    def set(self, name: str, value: Any) -> None:
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise Refused
        self.changes[name] = copy.deepcopy(value)

    def goto(self, node: str) -> None:
        self.wishes["goto"] = node

    def sleep(self, delay: float) -> None:
        """Time makes no difference."""

    def retry(
        self, max_attempts: int | None = None, initial_delay: float = 0, *, give_up_after: float | None = None
    ) -> None:
        late = give_up_after is not None and initial_delay > give_up_after
        self.asked_retry = Retry(max_attempts, late)

    def interrupt(self, payload: Any = None) -> Any:
        if self._resumed is not NOTHING:
            data, self._resumed = self._resumed, NOTHING
            return data
        self.wishes["interrupt"] = payload
        raise Paused

    def subgraph(self, workflow: str, input: Mapping[str, Any] | None = None) -> dict[str, Any]:  # noqa: A002
        if self._child is not NOTHING:
            child, self._child = self._child, NOTHING
            if isinstance(child, Error):
                raise SubgraphError(child.message)
            result: dict[str, Any] = child
            return result
        self.wishes["subgraph"] = (workflow, dict(input or {}))
        raise Paused


class Model:
    """Interprets one example."""

    def __init__(self, example: Example, max_executions: int = 400) -> None:
        self._example = example
        self._left = max_executions
        self.graphs = {graph.name: graph for graph in example.all_graphs()}
        self.log: list[str] = []
        self.pauses = 0
        self.breaks = 0
        self.ambiguous = False
        self.unrun: set[tuple[str, str]] = set()

    def run(self) -> Expected:
        """Raises `TooLong`."""
        end = self.flow(self.graphs[self._example.root["name"]], self._example.state)
        return Expected(
            end.status,
            end.state,
            end.errors,
            end.history,
            sorted(self.log),
            self.pauses,
            self.breaks,
            self.ambiguous,
            frozenset(self.unrun),
        )

    def flow(self, graph: Graph, state: State) -> Ended:
        """One flow from its entry point to its end."""
        run = FlowRun(self, graph)
        end = run.thread(graph.entry_point, copy.deepcopy(state), None, [])
        if isinstance(end, Broken):
            return Ended(FAILED, end.state, end.errors, run.history)
        assert isinstance(end, Finished)
        return Ended(COMPLETED, end.state, [], run.history)

    def execute(self, workflow: str, task: str, attempt: int, state: State, resumed: Any, child: Any) -> Reply:
        """One execution of a task, and what it answers."""
        self._left -= 1
        if self._left < 0:
            raise TooLong
        carrier = ModelFlow(state, attempt, resumed, child)

        def note(what: str, value: Any) -> None:
            self.log.append(canonical([what, workflow, task, normalised(value)]))

        self.log.append(canonical(["call", workflow, task, attempt, normalised(state)]))
        try:
            play(self._example.behaviours[workflow][task].act(carrier), carrier, note)
        except Paused:
            pass
        except Refused:
            return Reply({}, Error(values.UNSTORABLE))
        except TaskError as error:
            return Reply({}, Error(error.message, error.code, error.extra), carrier.asked_retry)  # S6: no changes
        return Reply(carrier.changes, None, carrier.asked_retry, carrier.wishes)

    def breaks_before(self, graph: Graph, node: str) -> bool:
        """O12: by the node's name, or by its url if no other node has it."""
        url = graph.nodes[node].url
        alone = sum(other.url == url for other in graph.nodes.values()) == 1
        return any(
            one == node or (one == url and alone and one not in graph.nodes) for one in self._example.breakpoints
        )

    def broken(self, state: State) -> State:
        """A breakpoint pauses, and is passed with overrides (O11)."""
        self.breaks += 1
        return merged(state, self._example.overrides)

    def resumed(self, payload: Any) -> Any:
        """An interrupt pauses, and is answered."""
        self.pauses += 1
        return answer_to(payload)

    def child(self, workflow: str, given: State) -> tuple[Any, list[Record]]:
        """What the waiting step receives: the final state or the error; and the child's history (P1)."""
        if workflow not in self.graphs:
            raise Failed(Error(values.NO_WORKFLOW))
        end = self.flow(self.graphs[workflow], given)
        if end.status == COMPLETED:
            return end.state, end.history
        self.ambiguous |= len({error.message for error in end.errors}) > 1
        return end.errors[0], end.history


class FlowRun:
    """One flow of the model."""

    def __init__(self, model: Model, graph: Graph) -> None:
        self._model = model
        self._graph = graph
        self._fan_ins = graph.fan_in_of()
        self._reducers = {name: str(kind) for name, kind in graph.reducers.items()}
        self.history: list[Record] = []

    # -- threads: one step after the other, until the end, the fan-in or a failure

    def thread(self, node: str, state: State, home: str | None, origins: list[str]) -> Finished | Arrived | Broken:
        """From `node` on; `home` is the fan-in at which this thread arrives if it is a branch."""
        own: list[State] = []
        problems: list[Error] = []
        while True:
            try:
                record = Record(node, origins)
                self.history.append(record)
                if problems:  # a fan-in whose input cannot be merged: it fails without having run (F3)
                    self._model.unrun.add((self._graph.name, node))
                    step = self._failed(record, state, {}, problems)
                else:
                    step = self._step(record, state, home)
            except _Stop as stop:
                return Broken(stop.errors, stop.state)
            problems = []
            own.append(step.changes)
            if step.branches:
                fan_in = self._fan_ins[node]
                resolved = self._cohort(node, step, fan_in)
                if isinstance(resolved, Broken):
                    return resolved
                node, (state, problems, origins) = fan_in, resolved
            elif step.target is None or step.target == END:
                assert home is None
                return Finished(step.state)
            elif self._graph.nodes[step.target].fan_in and self._fan_ins.get(node) != step.target:
                assert step.target == home
                return Arrived(own, node)
            else:  # also from a source straight to its own fan-in: net zero (G7), as after no branches (F5)
                node, state, origins = step.target, step.state, [node]

    def _cohort(self, source: str, step: Step, fan_in: str) -> tuple[State, list[Error], list[str]] | Broken:
        """Every branch to its end (X8); the fan-in's input (F3), with the error if there is none, and what led there."""
        assert step.branches is not None
        ends = [self.thread(target, copy.deepcopy(state), fan_in, [source]) for target, state in step.branches]
        private = {
            name
            for edge in self._graph.leaving(source)
            if edge.for_each
            for name in (edge.as_, f"{edge.as_}Index", f"{edge.as_}Count")
        }
        deltas = [
            {name: value for name, value in changes.items() if name not in private}
            for end in ends
            if isinstance(end, Arrived)
            for changes in end.changes
        ]
        problems: list[Error] = []
        try:
            state = reduced(self._reducers, step.state, deltas)
        except CannotMerge as error:
            state, problems = step.state, [Error(text) for text in error.problems]
        errors = [error for end in ends if isinstance(end, Broken) for error in end.errors]
        if errors:
            return Broken(errors, state)
        return state, problems, [end.last for end in ends if isinstance(end, Arrived)]

    # -- steps

    def _step(self, record: Record, state: State, home: str | None) -> Step:
        node = record.task
        changes: State = {}
        resumed: Any = NOTHING
        child: Any = NOTHING
        parked = False
        if self._model.breaks_before(self._graph, node):  # once per step, before the task runs (O12)
            state = self._model.broken(state)
        while True:
            seen = merged(state, changes)
            reply = self._model.execute(self._graph.name, node, record.attempt, seen, resumed, child)
            try:
                retrying = self._retries(reply, record.attempt)
                if retrying:
                    changes |= reply.changes
                    record.attempt += 1
                    resumed, child, parked, record.child = NOTHING, NOTHING, False, None  # happens again (X5)
                    continue
                if "interrupt" not in reply.wishes and "subgraph" not in reply.wishes:
                    state_after = merged(seen, reply.changes)
                    return self._onward(node, changes | reply.changes, state_after, home, reply.wishes.get("goto"))
                if parked:
                    raise Failed(Error(values.SECOND_PARK))
                parked = True
                if "interrupt" in reply.wishes:
                    resumed = self._model.resumed(reply.wishes["interrupt"])
                else:
                    workflow, given = reply.wishes["subgraph"]
                    child, history = self._model.child(workflow, given)
                    record.child = (workflow, history)
                changes |= reply.changes
            except Failed as failed:
                return self._failed(record, state, changes, failed.errors)

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

    def _failed(self, record: Record, state: State, changes: State, errors: list[Error]) -> Step:
        """Down an error edge, the step counting as completed; or the thread stops (X4, X8)."""
        edges = [edge for edge in self._graph.leaving(record.task) if edge.on_error]
        if edges:
            self._model.ambiguous |= len({error.shown() for error in errors}) > 1
        with_error = changes | {"onErr": errors[0].value(record.task)}
        after = merged(state, with_error)
        for edge in edges:
            if self._holds(edge, after):
                return Step(with_error, after, edge.target)
        record.status = FAILED
        raise _Stop(errors, merged(state, changes))

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
