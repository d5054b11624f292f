"""Validation of graphs (G6). Every error names the graph, the nodes and the remedy; the first one found is raised."""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import conditions, fields, lineage, node_validation
from dwarf_nats.workflow.names import END, MAX_NAME, closest, is_subject_name
from dwarf_nats.workflow.nodes import PublishMessage, SendRequest
from dwarf_nats.workflow.services import message_problems

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_builder import GraphBuilder, Node, Transition

MAX_CONDITIONS = 100_000
"""Most characters of all different conditions of a graph together. Compiling takes about 20 µs for each."""
_SUBJECT_FORM = "tokens of A-Z a-z 0-9 _ - joined by single dots"


def validate(graph: GraphBuilder) -> None:
    """Raise `BadRequest` for the first problem, from the names to the lineage check (G7)."""
    problem = next(_problems(graph), None)
    if problem is not None:
        raise BadRequest(f"graph {graph.name[:MAX_NAME]!r}: {problem}")
    lineage.walk(graph)


def _problems(graph: GraphBuilder) -> Iterator[str]:
    yield from graph.defects()
    yield from _name_problems(graph)
    for name in graph.annotations:
        if name not in graph.nodes:
            yield f"there is an annotation on {name!r}, which is no node: {closest(name, graph.nodes)}"
    size = sum(map(len, {source for _, source, _ in fields.expressions(graph)}))
    if size > MAX_CONDITIONS:
        yield (
            f"its conditions and templates have {size} characters of expressions together: keep them within"
            f" {MAX_CONDITIONS}, and let tasks work out what they decide by"
        )
    for edge in graph.transitions:
        yield from _edge_problems(graph, edge)
    for name in graph.nodes:
        yield from _mixture_problems(graph, name)
    yield from node_validation.graph_problems(graph)
    for node in graph.nodes.values():
        yield from node_validation.node_problems(node)
    yield from fields.problems(graph)
    yield from _path_problems(graph)


def _name_problems(graph: GraphBuilder) -> Iterator[str]:
    if not graph.name:
        yield 'a graph needs a name: pass one to Graph(), or set "name"'
    if not is_subject_name(graph.name):
        yield f"the name is no legal NATS subject suffix: use {_SUBJECT_FORM}, at most {MAX_NAME} characters"
    if not graph.nodes:
        yield "there are no nodes: add at least one task"
    if graph.entry_point not in graph.nodes:
        yield f"the entry point {graph.entry_point!r} is no node: {closest(graph.entry_point, graph.nodes)}"
    for node in graph.nodes.values():
        yield from _node_problems(node)
        yield from _message_problems(node)


def _node_problems(node: Node) -> Iterator[str]:
    if not node.name:
        yield f"a node has an empty name (its task is {node.url!r}): name it"
    elif len(node.name) > MAX_NAME:
        yield f"the name of node {node.name[:40]!r}... has {len(node.name)} characters: shorten it to {MAX_NAME}"
    elif any(unicodedata.category(char) in ("Cc", "Cs") for char in node.name):
        yield f"the name of node {node.name!r} has control characters: remove them"
    elif node.action is None and not is_subject_name(node.url):
        yield (
            f"node {node.name!r} has the task url {node.url[:MAX_NAME]!r}, which is no legal NATS subject suffix:"
            f" use {_SUBJECT_FORM}, at most {MAX_NAME} characters"
        )


def _message_problems(node: Node) -> Iterator[str]:
    """The problems of a request or message, and of one that compensates the node (N3, N4, N9)."""
    compensation = node.compensate.action if node.compensate is not None else None
    for action, part in ((node.action, ""), (compensation, "compensate.")):
        if isinstance(action, SendRequest | PublishMessage):
            for field, problem in message_problems(action):
                yield f"node {node.name!r}, {part}{action.kind}.{field}: {problem}"


def _edge_problems(graph: GraphBuilder, edge: Transition) -> Iterator[str]:
    where = f"edge {edge.source!r} -> {edge.target!r}"
    if edge.source == END:
        yield f"{where} leaves {END}, where a flow is over: remove it"
    for name in (edge.source, edge.target):
        if name not in graph.nodes and name != END:
            yield f"{where} names the unknown node {name!r}: {closest(name, graph.nodes)}"
    yield from _kind_problems(edge, where)
    if edge.when:
        problem = conditions.problem_of(edge.when)
        if problem:
            yield f"{where} has the invalid condition {edge.when[:200]!r}: {problem}"


def _kind_problems(edge: Transition, where: str) -> Iterator[str]:
    """Kinds of edges that exclude each other, and options without their kind."""
    if edge.as_ and not edge.for_each:
        yield f"{where} has as={edge.as_!r} without for_each: name the field to iterate over, or remove it"
    if edge.for_each and edge.goto:
        yield f"{where} is both for_each and goto: make it one of them"
    if edge.on_error:
        other = "for_each" if edge.for_each else "goto" if edge.goto else ""
        if other:
            yield f"{where} is both on_error and {other}: make it one of them"
        if edge.source == edge.target:
            yield f"{where} is an on_error edge to itself: let the task ask for a retry instead"
    if edge.switch:
        other = "for_each" if edge.for_each else "goto" if edge.goto else "on_error" if edge.on_error else ""
        if other:
            yield f"{where} is both switch and {other}: make it one of them"
        if not edge.when:
            yield f'{where} is a switch branch without a condition: write one; the default branch is "true"'


def _mixture_problems(graph: GraphBuilder, name: str) -> Iterator[str]:
    edges = graph.leaving(name)
    if any(edge.switch for edge in edges):
        mixed = next((edge for edge in edges if edge.branches), None)
        if mixed is not None:
            kind = "for_each" if mixed.for_each else "when" if mixed.when else "plain"
            yield (
                f"node {name!r} mixes switch edges with the {kind} edge to {mixed.target!r}:"
                ' make that a switch branch too (the default is "true"), or put a node between'
            )


def _path_problems(graph: GraphBuilder) -> Iterator[str]:
    if all(edge.target != END for edge in graph.transitions):
        yield f"no edge leads to {END}, so no flow would ever complete: add one from the last node"
    forward: dict[str, list[str]] = {}
    backward: dict[str, list[str]] = {}
    for edge in graph.transitions:
        forward.setdefault(edge.source, []).append(edge.target)
        backward.setdefault(edge.target, []).append(edge.source)
    reached = _spread([graph.entry_point], forward)
    lost = [name for name in graph.nodes if name not in reached]
    if lost:
        yield (
            f"{_listed(lost)} cannot be reached from the entry point {graph.entry_point!r}:"
            " add an edge to it, or remove it"
        )
    resting = [END, *(name for name in graph.nodes if not _certainly_goes_on(graph, name))]
    stopping = _spread(resting, backward)
    endless = [name for name in graph.nodes if name not in stopping]
    if endless:
        yield f"{_listed(endless)} form a cycle that can never be left: add an edge out of it, towards {END}"


def _certainly_goes_on(graph: GraphBuilder, name: str) -> bool:
    """True if another node always follows, so that this one is never the last (X7)."""
    return any(edge.plain or (edge.switch and edge.when == "true") for edge in graph.leaving(name))


def _spread(start: Iterable[str], edges: dict[str, list[str]]) -> set[str]:
    seen = set(start)
    pending = deque(seen)
    while pending:
        for name in edges.get(pending.popleft(), ()):
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return seen


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"node{'s' if len(names) > 1 else ''} {shown}"
