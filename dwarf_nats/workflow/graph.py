"""Graphs: the definitions of workflows, and their builder (G1-G5).

A graph has nodes, transitions between them, an entry point, and reducers for state fields. The builder accepts everything;
`Graph.validate` refuses unsound graphs (G6), with an error that names the graph, the nodes and the remedy::

    graph = Graph("greet")
    graph.add_chain("hello", "sign", END)
    graph.validate()
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import copy
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import graph_json, lineage
from dwarf_nats.workflow.action_builder import ActionBuilder
from dwarf_nats.workflow.durability import Durability
from dwarf_nats.workflow.graph_builder import Node, Transition
from dwarf_nats.workflow.names import END
from dwarf_nats.workflow.nodes import COMPENSATION_RETRY, COMPENSATION_SUFFIX, url_of
from dwarf_nats.workflow.reducers import ReducerKind

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph_origin import GraphOrigin

__all__ = ["END", "Graph", "Node", "ReducerKind", "Transition"]


class Graph(ActionBuilder):
    """The definition of a workflow, and its builder.

    `nodes` and `transitions` keep the order in which they were added. Read them freely; change them with the methods only.
    """

    origin: GraphOrigin | None = None
    """The document that the graph was read from, if it was."""
    _other_durability: Graph | None = None

    def validate(self) -> None:
        """Raise `BadRequest` unless the graph is sound (G6, G7).

        The message names the nodes and the remedy; of a graph from a file, the file and the line, too.

        Example: `graph.validate()`
        """
        from dwarf_nats.workflow import validation  # here: a client that only sends graphs needs no CEL library

        try:
            validation.validate(self)
        except BadRequest as error:
            raise self.placed(error) from None

    def placed(self, error: BadRequest) -> BadRequest:
        """A refusal of the graph, with the file and the line that it was read from, if it was."""
        return error if self.origin is None else self.origin.refused(error)

    def check(self) -> None:
        """Check what only Python knows of the graph: nothing, unless it is a `Workflow` made of task functions."""

    def warnings(self) -> list[str]:
        """Likely mistakes in a sound graph (G11), a sentence each.

        Example: `print(graph.warnings())`
        """
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

    def with_durability(self, durability: Durability | str) -> Graph:
        """The same graph with this durability: itself, or a copy that is made once.

        Raises `BadRequest` for any other text than `"committed"` and `"pipelined"`.

        Example: `graph.with_durability("pipelined")`
        """
        pipelined = Durability.of(durability) is Durability.PIPELINED
        if self.pipelined is pipelined:
            return self
        if self._other_durability is None:
            self._other_durability = copy(self)
            self._other_durability.pipelined = pipelined
        return self._other_durability

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
        """The graph as canonical JSON (G8): equal graphs have equal bytes.

        Example: `text = graph.to_json()`
        """
        return graph_json.to_json(self)

    def to_values(self) -> dict[str, Any]:
        """The graph as plain values, in the shape of its JSON (G8).

        Example: `values = graph.to_values()`
        """
        return graph_json.to_values(self)

    @classmethod
    def from_json(cls, source: bytes | str | os.PathLike[str]) -> Graph:
        """Read a graph from JSON text, or from the file of a `Path` (G8).

        Raises `BadRequest` for keys that the schema does not have, and for undeclared names; of a file with its name and line.

        Example: `graph = Graph.from_json(graph.to_json())`
        """
        if isinstance(source, os.PathLike):
            return cls._of_document(source, is_yaml=False)
        return graph_json.from_json(source, Graph)

    @classmethod
    def from_yaml(cls, source: bytes | str | os.PathLike[str]) -> Graph:
        """Read a graph from YAML text, or from the file of a `Path`. Raises `BadRequest` with file and line.

        Example: `graph = Graph.from_yaml("{name: order, tasks: [{name: charge}]}")`
        """
        return cls._of_document(source, is_yaml=True)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Graph:
        """Read a graph file: JSON if its name ends in `.json`, else YAML. Raises `BadRequest` with file and line.

        Example: `graph = Graph.from_file("order.yaml")`
        """
        file = Path(path)
        return cls._of_document(file, is_yaml=file.suffix != ".json")

    @classmethod
    def from_origin(cls, origin: GraphOrigin) -> Graph:
        """Read a graph from a document, which then tells the line of a problem. Raises `BadRequest` with file and line."""
        from dwarf_nats.workflow import graph_files  # here: only who reads files needs the YAML library

        graph = graph_files.read_graph(origin, Graph)
        graph.origin = origin
        return graph

    @classmethod
    def _of_document(cls, source: bytes | str | os.PathLike[str], *, is_yaml: bool) -> Graph:
        from dwarf_nats.workflow import graph_files

        return cls.from_origin(graph_files.read_document(source, is_yaml=is_yaml))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Graph:
        """Read a graph from parsed JSON or YAML. Raises `BadRequest` as `from_json` does.

        Example: `graph = Graph.from_values({"name": "order", "tasks": [{"name": "charge"}]})`
        """
        return graph_json.from_values(values, Graph)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex: identical graphs are stored once (G10).

        Example: `digest = graph.digest()`
        """
        return sha256(self.to_json()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.to_values() == other.to_values()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self.nodes)} nodes, {len(self.transitions)} transitions>"
