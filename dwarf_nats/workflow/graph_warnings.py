"""What looks like a mistake in a sound graph (G11): told when it is put or validated, never refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from dwarf_nats.workflow import conditions
from dwarf_nats.workflow.names import END

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph import Graph, Transition

MOST = 20
"""Warnings of one graph that are told."""
MOST_NAMES = 200
"""Names of fields up to which they are compared with each other."""
ON_ERROR = "onErr"
_NEAR = 0.84  # of SequenceMatcher: `totl` and `total`, but not `valid` and `invalid`
_SHORTEST = 4  # characters of a name that is compared


def warnings(graph: Graph) -> list[str]:
    """Sentences that name the nodes and the remedy: of many the first, and how many more there are."""
    found = [*_without_default(graph), *_never(graph), *_typing_errors(graph), *_error_edges(graph)]
    if len(found) > MOST:
        return [*found[:MOST], f"and {len(found) - MOST} more"]
    return found


def _without_default(graph: Graph) -> Iterator[str]:
    """Nodes after which nothing comes if no condition holds: the flow completes there without a word."""
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
                f"node {name!r}: if the condition {_shown(branches[0])} does not hold, the flow ends there (inside a fan-out"
                ' the branch fails): make it a switch edge, with another one for "true"'
            )


def _never(graph: Graph) -> Iterator[str]:
    for source, target, when in _conditions(graph):
        problem = conditions.literal_problem(when)
        if problem:
            yield f"edge {source!r} -> {target!r}: its condition {when[:80]!r} {problem}"


def _typing_errors(graph: Graph) -> Iterator[str]:
    """Fields that are read in one condition only, by a name close to another one."""
    read: Counter[str] = Counter()
    places: dict[str, tuple[str, str]] = {}
    for source, target, when in _conditions(graph):
        for name in conditions.fields_of(when):
            read[name] += 1
            places.setdefault(name, (source, target))
    written = {ON_ERROR, *graph.reducers}
    for edge in graph.transitions:
        if edge.for_each:
            item = edge.as_ or "item"
            written |= {edge.for_each, item, f"{item}Index", f"{item}Count"}
    known = {name for name, times in read.items() if times > 1} | written
    lonely = [name for name in read if name not in known]
    if len(known) + len(lonely) > MOST_NAMES:
        return
    told: set[str] = set()
    for name in lonely:
        near = _nearest(name, [*sorted(known), *(one for one in lonely if one != name and one not in told)])
        if near:
            told.add(name)
            source, target = places[name]
            yield (
                f"edge {source!r} -> {target!r}: its condition reads the field {name!r}, which is named nowhere else; did you"
                f" mean {near!r}?"
            )


def _nearest(name: str, others: list[str]) -> str:
    """The name that this one may have been meant to be; empty if none is near enough."""
    if len(name) < _SHORTEST:
        return ""
    best, found = _NEAR, ""
    for other in others:
        if len(other) < _SHORTEST or name.rstrip("0123456789") == other.rstrip("0123456789"):
            continue  # `address1` and `address2` are two fields
        # The same letters in another order are a slip of the fingers.
        same = name.casefold() == other.casefold() or sorted(name) == sorted(other)
        ratio = 1.0 if same else SequenceMatcher(None, name, other).ratio()
        if ratio >= best:
            best, found = ratio, other
    return found


def _error_edges(graph: Graph) -> Iterator[str]:
    for edge in graph.transitions:
        if edge.on_error and edge.target != END and graph.nodes[edge.target].fan_in and ON_ERROR not in graph.reducers:
            yield (
                f"edge {edge.source!r} -> {edge.target!r} is an error edge into a fan-in, and {ON_ERROR!r} has no reducer: of"
                " several branches that fail only the last one's error remains; set a reducer on it, or handle the error in"
                " a node of the branch"
            )


def _conditions(graph: Graph) -> Iterator[tuple[str, str, str]]:
    """Source, target and condition, each condition once."""
    seen: set[str] = set()
    for edge in graph.transitions:
        if edge.when and edge.when not in seen:
            seen.add(edge.when)
            yield edge.source, edge.target, edge.when


def _shown(edge: Transition) -> str:
    return repr(edge.when if len(edge.when) <= 80 else edge.when[:80] + "…")
