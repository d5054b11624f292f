"""What this version executes of the graphs that can be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph import Graph


def unsupported(graph: Graph) -> str | None:
    """Why a valid graph cannot be executed yet, in words for the caller; `None` if it can.

    Everything that keeps to one step at a time is executed: plain edges, conditions, switches, gotos, error edges, loops.
    """
    for node in graph.nodes.values():
        if graph.is_fan_out(node.name):
            targets = ", ".join(repr(edge.target) for edge in graph.leaving(node.name) if edge.branches)
            return f"node {node.name!r} fans out to {targets}"
        if node.fan_in:
            return f"node {node.name!r} is a fan-in"
    return None
