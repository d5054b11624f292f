"""Straight lines: the graphs that need no routing, one plain edge out of every node."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph import Graph, Transition


def unsupported(graph: Graph) -> str | None:
    """Why a valid graph is no straight line, in words for the caller; `None` if it is one."""
    for node in graph.nodes.values():
        edges = graph.leaving(node.name)
        if node.fan_in:
            return f"node {node.name!r} is a fan-in"
        if not edges:
            return f"node {node.name!r} has no edge out of it"
        for edge in edges:
            if not edge.plain:
                return f"the edge {edge.source!r} -> {edge.target!r} is {_kind(edge)}"
        if len(edges) > 1:
            return f"node {node.name!r} fans out to {', '.join(repr(edge.target) for edge in edges)}"
    return None


def next_node(graph: Graph, node: str) -> str:
    """The node after `node`, or `END`, in a straight line. `LookupError` for any other graph."""
    edges = graph.leaving(node)
    if len(edges) != 1:
        raise LookupError(f"graph {graph.name!r} has {len(edges)} edges out of {node!r}, not one")
    return edges[0].target


def _kind(edge: Transition) -> str:
    for asked, kind in (
        (edge.switch, "a switch branch"),
        (edge.goto, "a goto edge"),
        (edge.on_error, "an on_error edge"),
        (edge.for_each, "a for_each edge"),
    ):
        if asked:
            return kind
    return "conditional"
