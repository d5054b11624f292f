"""Graphs by name for an engine in the same process: given as objects, or read from files and folders."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from dwarf_nats.errors import BadRequest, NotFound
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.state import Raw

GraphSource: TypeAlias = "Graph | str | Path"
"""A graph, a file with one in YAML or JSON, or a folder of such files."""
SUFFIXES = (".yaml", ".yml", ".json")


def graphs_of(source: GraphSource) -> list[Graph]:
    """Return the graphs of a source. Raises `NotFound` if there is no such file, `BadRequest` naming the file if one is bad."""
    if isinstance(source, Graph):
        return [source]
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if not files:
            raise BadRequest(f"the folder {path} has no graph files: they end in {', '.join(SUFFIXES)}")
        return [Graph.from_file(file) for file in files]
    if not path.exists():
        raise NotFound(f"there is no graph file {path}")
    return [Graph.from_file(path)]


class GraphBook:
    """The port `Graphs` over graphs that were given."""

    def __init__(self) -> None:
        self.graphs: dict[str, Graph] = {}

    def add(self, source: GraphSource) -> list[Graph]:
        """Keep the graphs of a source under their names; a later one takes the place of an earlier one. Checks them."""
        found = graphs_of(source)
        for graph in found:
            graph.check()
            graph.validate()
        self.graphs |= {graph.name: graph for graph in found}
        return found

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:
        """Return the graph of that name, or `None`."""
        del baggage  # every caller gets the same graphs
        return self.graphs.get(workflow)
