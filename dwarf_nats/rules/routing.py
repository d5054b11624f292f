"""Routing: which edges are taken out of a node (X4, X6, X7). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.conditions import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dwarf_nats.workflow.graph import Graph, Transition
    from dwarf_nats.workflow.state import State

ON_ERROR = "onErr"
"""The state field that holds the error on the way down an on_error edge."""


CONDITION_MAX_CHARS = 80
"""Characters of a condition that a problem quotes: enough to find it."""


class StepError(Exception):
    """An error the engine finds itself: an error of the step like any other (X4). `final`: a retry cannot help (L2)."""

    def __init__(self, message: str, code: int = 500, *, final: bool = False) -> None:
        super().__init__(message)
        self.info = ErrorInfo(message, code)
        self.final = final


@dataclass(slots=True)
class Route:
    """The edges taken, in order; `problems` are the conditions that could not be evaluated (G9)."""

    edges: list[Transition] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    after_error: bool = False

    def gate(self, edge: Transition, state: State) -> bool:
        """True if the edge's condition holds on the merged state; an edge without a condition is open."""
        if not edge.when:
            return True
        verdict = evaluate(edge.when, state)
        if verdict.problem:
            shown = edge.when if len(edge.when) <= CONDITION_MAX_CHARS else edge.when[:CONDITION_MAX_CHARS] + "…"
            self.problems.append(f"{edge.source} -> {edge.target}, {shown!r}: {verdict.problem}")
        return verdict.taken


def after_success(graph: Graph, node: str, state: State, goto: str | None) -> Route:
    """The edges taken when the task of `node` completed and `state` is the merged state (X6, X7).

    A goto takes its own edge and no other; else the first switch branch that holds; else every plain edge and every
    `when` that holds. Raises `StepError` for a goto without an open edge.
    """
    leaving = graph.leaving(node)
    if goto is not None:
        return _goto(graph, node, state, goto)
    switches = [edge for edge in leaving if edge.switch]
    if switches:
        return _first(switches, state)
    route = Route()
    route.edges = [edge for edge in leaving if edge.branches and route.gate(edge, state)]
    return route


def after_error(graph: Graph, node: str, state: State) -> Route:
    """The on_error edge taken: of several the first whose condition holds on the step's input plus `onErr` (X4)."""
    route = _first((edge for edge in graph.leaving(node) if edge.on_error), state)
    route.after_error = True
    return route


def _first(edges: Iterable[Transition], state: State) -> Route:
    route = Route()
    for edge in edges:
        if route.gate(edge, state):
            route.edges.append(edge)
            break
    return route


def _goto(graph: Graph, node: str, state: State, goto: str) -> Route:
    leaving = graph.leaving(node)
    wanted = graph.find_node(goto)
    target = goto if wanted is None else wanted.name
    candidates = [edge for edge in leaving if edge.goto and edge.target == target]
    if not candidates:
        offered = ", ".join(repr(edge.target) for edge in leaving if edge.goto) or "none"
        raise StepError(
            f"the task asked to go to {goto[:80]!r}, but node {node!r} has no goto edge there: its goto edges lead to {offered}"
        )
    route = _first(candidates, state)
    if not route.edges:
        why = f" ({route.problems[0]})" if route.problems else ""
        raise StepError(
            f"the task asked to go to {goto[:80]!r}, but the condition of the goto edge {node!r} -> {target!r} does not"
            f" hold{why}"
        )
    return route
