"""Graphs with nodes that the engine carries out itself."""

from __future__ import annotations

from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import Action


def acting(name: str, **nodes: Action | None) -> Graph:
    """A straight line of nodes, each with its action, or `None` for one that asks the task of its name."""
    graph = Graph(name)
    for node, action in nodes.items():
        act(graph, node, action)
    graph.add_chain(*nodes, END)
    return graph


def act(graph: Graph, node: str, action: Action | None, into: str = "") -> None:
    """Add one node."""
    if action is None:
        graph.add_task(node)
    else:
        graph.add_action(node, action, into=into)
