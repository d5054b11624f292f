"""A graph as a table, for graphs that are too large to draw: nodes that were reached first, and where each leads."""

from __future__ import annotations

from dataclasses import dataclass

from dwarf_nats.console.views.graph import DrawnGraph, Edge, Node
from dwarf_nats.console.views.walk import NodeState, Walk

MAX_ROWS = 500
"""Nodes that are told; of a larger graph, those that were reached and the first of the others."""
MAX_TARGETS = 8
"""Transitions of one node that are told."""


@dataclass(frozen=True, slots=True)
class Row:
    """One node. `targets`: the nodes it leads to, with the label of the edge; `more`: how many others there are."""

    node: Node
    state: NodeState
    targets: list[tuple[str, str]]
    more: int


def table(graph: DrawnGraph, walked: Walk | None = None) -> list[Row]:
    """The nodes of a graph. `walked`: the history laid over it."""
    edges: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        edges.setdefault(edge.source, []).append(edge)
    states = walked.nodes if walked is not None else {}
    nodes = [node for node in graph.nodes.values() if node.kind not in ("start", "end")]
    nodes.sort(key=lambda node: (not states.get(node.name, NodeState()).status, node.number))
    return [
        Row(
            node,
            states.get(node.name, NodeState()),
            [(edge.target, edge.label) for edge in edges.get(node.name, ())[:MAX_TARGETS]],
            max(0, len(edges.get(node.name, ())) - MAX_TARGETS),
        )
        for node in nodes[:MAX_ROWS]
    ]
