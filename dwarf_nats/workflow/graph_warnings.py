"""Likely mistakes in a sound graph (G11): reported when it is put or validated, never refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from dwarf_nats.workflow import conditions, fields, node_validation, templates
from dwarf_nats.workflow.names import END

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder, Transition

MAX_WARNINGS = 20
"""Most warnings of one graph that are reported."""
MAX_NAMES = 200
"""Most field names that are compared with each other, since that takes time by their square."""
ON_ERROR = "onErr"
_MIN_RATIO = 0.84
"""Least similarity by `SequenceMatcher`: that of `totl` and `total` is higher, of `valid` and `invalid` lower."""
_MIN_LENGTH = 4
"""Shortest name, in characters, that is compared."""


def warnings(graph: GraphBuilder) -> list[str]:
    """Sentences that name the nodes and the remedy; of many the first ones, and the number of the others."""
    found = [*_without_default(graph), *_never(graph), *_typing_errors(graph), *_error_edges(graph)]
    if len(found) > MAX_WARNINGS:
        return [*found[:MAX_WARNINGS], f"and {len(found) - MAX_WARNINGS} more"]
    return found


def _without_default(graph: GraphBuilder) -> Iterator[str]:
    """Warn of nodes after which the flow silently ends if no condition holds."""
    for name in graph.nodes:
        leaving = graph.leaving(name)
        switches = [edge for edge in leaving if edge.switch]
        branches = [edge for edge in leaving if edge.branches]
        if switches and not any(edge.when == "true" for edge in switches):
            yield (
                f"node {name!r}: if none of its switch conditions holds, the flow ends there (inside a fan-out the branch"
                ' fails): add a last switch edge with the condition "true"'
            )
        elif len(branches) == 1 and branches[0].when and not branches[0].for_each:
            yield (
                f"node {name!r}: if the condition {_quoted(branches[0])} does not hold, the flow ends there (inside a fan-out"
                ' the branch fails): make it a switch edge, with another one for "true"'
            )


def _never(graph: GraphBuilder) -> Iterator[str]:
    """Warn of conditions that never hold, and of expressions that fail whatever the state is."""
    for source, target, when in _conditions(graph):
        problem = conditions.literal_problem(when)
        if problem:
            yield f"edge {source!r} -> {target!r}: its condition {when[:80]!r} {problem}"
    for node in graph.nodes.values():
        for where, template in node_validation.all_templates(node):
            for place, expression in templates.expressions(template, where):
                problem = templates.constant_problem(expression)
                if problem:
                    yield f"{place}: its expression {expression[:80]!r} cannot be evaluated on any state ({problem})"


def _typing_errors(graph: GraphBuilder) -> Iterator[str]:
    """Warn of fields that only one expression reads, and whose name is close to another one."""
    read: Counter[str] = Counter()
    places: dict[str, str] = {}
    for what, source, beside in _expressions(graph):
        for name in conditions.fields_of(source):
            if name != beside:
                read[name] += 1
                places.setdefault(name, what)
    written = {*fields.known_fields(graph), *graph.reducers}
    written |= {edge.for_each for edge in graph.transitions if edge.for_each}
    known = {name for name, times in read.items() if times > 1} | written
    lonely = [name for name in read if name not in known]
    if len(known) + len(lonely) > MAX_NAMES:
        return
    reported: set[str] = set()
    for name in lonely:
        near = _nearest(name, [*sorted(known), *(one for one in lonely if one != name and one not in reported)])
        if near:
            reported.add(name)
            yield f"{places[name]} reads the field {name!r}, which is named nowhere else; did you mean {near!r}?"


def _expressions(graph: GraphBuilder) -> Iterator[tuple[str, str, str]]:
    """Each different expression: what it is, in words; its text; and a variable that it has beside the state."""
    seen: set[str] = set()
    for where, source, beside in fields.expressions(graph):
        if source not in seen:
            seen.add(source)
            edge = where.removesuffix(", when")
            yield (f"{edge}: its condition" if edge != where else f"{where}: its expression"), source, beside


def _nearest(name: str, others: list[str]) -> str:
    """The name most similar to this one; empty if none is similar enough."""
    if len(name) < _MIN_LENGTH:
        return ""
    best, found = _MIN_RATIO, ""
    for other in others:
        if len(other) < _MIN_LENGTH or name.rstrip("0123456789") == other.rstrip("0123456789"):
            continue  # `address1` and `address2` are two fields
        # The same letters in another order are a typing error.
        same = name.casefold() == other.casefold() or sorted(name) == sorted(other)
        ratio = 1.0 if same else SequenceMatcher(None, name, other).ratio()
        if ratio >= best:
            best, found = ratio, other
    return found


def _error_edges(graph: GraphBuilder) -> Iterator[str]:
    for edge in graph.transitions:
        if edge.on_error and edge.target != END and graph.nodes[edge.target].fan_in and ON_ERROR not in graph.reducers:
            yield (
                f"edge {edge.source!r} -> {edge.target!r} is an error edge into a fan-in, and {ON_ERROR!r} has no reducer: of"
                " several branches that fail only the last one's error remains; set a reducer on it, or handle the error in"
                " a node of the branch"
            )


def _conditions(graph: GraphBuilder) -> Iterator[tuple[str, str, str]]:
    """Yield source, target and condition of each different condition."""
    seen: set[str] = set()
    for edge in graph.transitions:
        if edge.when and edge.when not in seen:
            seen.add(edge.when)
            yield edge.source, edge.target, edge.when


def _quoted(edge: Transition) -> str:
    return repr(edge.when if len(edge.when) <= 80 else edge.when[:80] + "…")
