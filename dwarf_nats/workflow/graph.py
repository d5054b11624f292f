"""Graphs: the definitions of workflows, and their builder (G1-G5).

A graph has nodes, transitions between them, an entry point, and reducers for state fields. The builder accepts everything;
`Graph.validate` refuses unsound graphs (G6), with an error that names the graph, the nodes and the remedy::

    graph = Graph("greet")
    graph.add_chain("hello", "sign", END)
    graph.validate()
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from dwarf_nats.workflow import graph_json, lineage
from dwarf_nats.workflow.action_builder import ActionBuilder
from dwarf_nats.workflow.graph_builder import Node, Transition
from dwarf_nats.workflow.names import END
from dwarf_nats.workflow.nodes import COMPENSATION_RETRY, COMPENSATION_SUFFIX, url_of
from dwarf_nats.workflow.reducers import ReducerKind

__all__ = ["END", "Graph", "Node", "ReducerKind", "Transition"]


class Graph(ActionBuilder):
    """The definition of a workflow, and its builder.

    `nodes` and `transitions` keep the order in which they were added. Read them freely; change them with the methods only.
    """

    def validate(self) -> None:
        """Raise `BadRequest` unless the graph is sound (G6, G7); the message names the nodes and the remedy."""
        from dwarf_nats.workflow import validation  # here: a client that only sends graphs needs no CEL library

        validation.validate(self)

    def check(self) -> None:
        """Check what only Python knows of the graph: nothing, unless it is a `Workflow` made of task functions."""

    def warnings(self) -> list[str]:
        """Likely mistakes in a sound graph (G11), a sentence each."""
        from dwarf_nats.workflow import graph_warnings

        return graph_warnings.warnings(self)

    def fan_in_of(self) -> dict[str, str]:
        """Map each fan-out source to the fan-in of its branches (G7). Raises `BadRequest` if branches do not converge."""
        return lineage.walk(self)

    @property
    def fan_ins(self) -> dict[str, str]:
        """The result of `fan_in_of`, computed once; for a graph that is complete."""
        if self._fan_ins is None:
            self._fan_ins = self.fan_in_of()
        return self._fan_ins

    @property
    def compensates(self) -> bool:
        """True if some of its nodes are compensated when a flow fails or is cancelled (N9)."""
        return bool(self.compensations)

    @property
    def compensations(self) -> dict[str, Node]:
        """The nodes of the steps that compensate others, by their names `<node>:compensate`, with their policies (N9).

        Computed once; for a graph that is complete.
        """
        if self._compensations is None:
            self._compensations = {
                node.name: node for one in self.nodes.values() if (node := self._compensation_of(one)) is not None
            }
        return self._compensations

    def _compensation_of(self, node: Node) -> Node | None:
        wanted = node.compensate
        if wanted is None:
            return None
        return Node(
            f"{node.name}{COMPENSATION_SUFFIX}",
            wanted.url if wanted.action is None else url_of(wanted.action),
            action=wanted.action,
            timeout_ms=node.timeout_ms,
            queue_timeout_ms=node.queue_timeout_ms if wanted.action is None else None,
            retry=node.retry or self.defaults.retry or COMPENSATION_RETRY,
        )

    # -- JSON ----------------------------------------------------------------------------------------------------

    def to_json(self) -> bytes:
        """The graph as canonical JSON (G8): equal graphs have equal bytes."""
        return graph_json.to_json(self)

    def to_values(self) -> dict[str, Any]:
        """The graph as plain values, in the shape of its JSON (G8)."""
        return graph_json.to_values(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> Graph:
        """Read a graph (G8). Raises `BadRequest` for keys that the schema does not have, and for undeclared names."""
        return graph_json.from_json(text, Graph)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Graph:
        """Read a graph from parsed JSON or YAML. Raises `BadRequest` as `from_json` does."""
        return graph_json.from_values(values, Graph)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex: identical graphs are stored once (G10)."""
        return sha256(self.to_json()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.to_values() == other.to_values()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self.nodes)} nodes, {len(self.transitions)} transitions>"
