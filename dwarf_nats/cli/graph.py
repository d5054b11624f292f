"""`dwarf-nats graph …`: the registry of graphs, from JSON or YAML files (G8; wire: section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import typer
from msgspec import UNSET
from rich.text import Text

from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.document_file import read_values
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, pretty, table
from dwarf_nats.render.graph import graph_mermaid
from dwarf_nats.render.terminal import one_line
from dwarf_nats.sdk import Graph
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.schema import json_schema
from dwarf_nats.wire.times import rfc3339
from dwarf_nats.workflow import documents
from dwarf_nats.workflow.graph_origin import GraphOrigin

app = new_app("Graphs: register, look at and check them.")


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="graph")


Files = Annotated[
    list[str], typer.Argument(metavar="FILE…", help="JSON or YAML, one graph each; - for standard input.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The graph's name.")]
NameOrFile = Annotated[
    str,
    typer.Argument(metavar="NAME|FILE", help="The graph's name, or a file: - or with .json, .yaml, .yml or / in it."),
]
FILE_ENDINGS = documents.SUFFIXES


@dataclass(slots=True, frozen=True)
class GraphFile:
    """A graph read from a file, and where it was written."""

    graph: Graph
    origin: GraphOrigin

    def at(self, problem: str) -> str:
        """A problem of the graph, with the file and the line it speaks of before it."""
        return self.origin.at(problem)


def read_graph(path: str) -> Graph:
    """The graph in a JSON or YAML file, or from standard input for `-`. Raises `BadRequest` naming the file and the line."""
    return read_graph_file(path).graph


def read_graph_file(path: str) -> GraphFile:
    """As `read_graph`, with the lines of the document."""
    origin = GraphOrigin(path, read_values(path))
    return GraphFile(Graph.from_origin(origin), origin)


def _with_warnings(line: str, file: GraphFile, warnings: Sequence[str]) -> Text:
    shown = (Text(f"warning: {one_line(file.at(one))}", style="yellow") for one in warnings)
    return Text("\n").join([Text(line), *shown])


@command(app, "put", example="dwarf-nats graph put order.yaml")
async def put(out: Output, bus: Bus, service: Service, files: Files) -> None:
    """Register graphs under their names, in place of what was there."""
    read = [read_graph_file(path) for path in files]
    async with service.client(bus) as client:
        for file in read:
            info = await client.put_graph(file.graph)
            reply = m.GraphPutReply(name=info.name, digest=info.digest, warnings=list(info.warnings) or UNSET)
            out.show(reply, _with_warnings(f"{info.name}  {info.digest}", file, info.warnings))


@command(app, "get", example="dwarf-nats graph get order > order.json")
async def get(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Print a registered graph as JSON."""
    async with service.client(bus) as client:
        graph = await client.get_graph(name)
    out.show(graph.to_json(), pretty(graph.to_json()))


@command(app, "list", example="dwarf-nats graph list --json")
async def list_(out: Output, bus: Bus, service: Service) -> None:
    """List the registered graphs."""
    async with service.client(bus) as client:
        graphs = await client.list_graphs()
    reply = m.GraphListReply(
        graphs=[m.GraphEntry(name=one.name, digest=one.digest, updated_at=rfc3339(one.updated_at)) for one in graphs]
    )
    rows = [(one.name, one.digest[:12], day_and_clock(one.updated_at)) for one in graphs]
    out.show(reply, table(("name", "digest", "updated"), rows))


@command(app, "delete", example="dwarf-nats graph delete order")
async def delete(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Take a graph out of the registry; flows made of it keep theirs."""
    async with service.client(bus) as client:
        await client.delete_graph(name)
    out.show(m.Empty(), "deleted")


@command(app, "validate", example="dwarf-nats graph validate --offline graphs/*.yaml")
async def validate(
    out: Output,
    bus: Bus,
    service: Service,
    files: Files,
    offline: Annotated[bool, typer.Option("--offline", help="Check here, without asking the service.")] = False,
) -> None:
    """Check graphs without registering them."""
    read = [read_graph_file(path) for path in files]
    if offline:
        found = [await _validate_here(file.graph) for file in read]
    else:
        async with service.client(bus) as client:
            found = [await client.validate_graph(file.graph) for file in read]
    for file, warnings in zip(read, found, strict=True):
        shown = _with_warnings(f"{file.graph.name}: valid", file, warnings)
        out.show(m.GraphValidateReply(warnings=warnings or UNSET), shown)


async def _validate_here(graph: Graph) -> list[str]:
    graph.validate()
    return graph.warnings()


@command(app, "schema", example="dwarf-nats graph schema > graph.schema.json")
async def schema(out: Output) -> None:
    """Print the JSON Schema of graph files, for editors and other tools."""
    text = msgspec.json.encode(json_schema(m.GraphDocument))
    out.show(text, pretty(text))


@command(
    app,
    "mermaid",
    short="Print a graph as a Mermaid flowchart.",
    example="dwarf-nats graph mermaid order\ndwarf-nats graph mermaid graphs/order.yaml > order.mmd",
)
async def mermaid(out: Output, bus: Bus, service: Service, name: NameOrFile) -> None:
    """Print a graph as a Mermaid flowchart: a registered one, or one from a file, which needs no service and may be unsound."""
    if name == "-" or "/" in name or name.endswith(FILE_ENDINGS):
        drawn = graph_mermaid(read_graph(name))
    else:
        async with service.client(bus) as client:
            drawn = await client.graph_mermaid(name)
    out.show(m.MermaidReply(mermaid=drawn), Text(drawn.rstrip()))
