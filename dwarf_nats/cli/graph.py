"""`dwarf-nats graph …`: the registry of graphs, from JSON or YAML files (G8; wire: section 3)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec import UNSET
from rich.text import Text

from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, pretty, table
from dwarf_nats.errors import BadRequest
from dwarf_nats.render import graph_mermaid
from dwarf_nats.render.terminal import one_line
from dwarf_nats.sdk import Graph
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.times import rfc3339
from dwarf_nats.workflow import documents

app = new_app("Graphs: register, look at and check them.")

Files = Annotated[
    list[str], typer.Argument(metavar="FILE…", help="JSON or YAML, one graph each; - for standard input.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The graph's name.")]
NameOrFile = Annotated[
    str,
    typer.Argument(metavar="NAME|FILE", help="The graph's name, or a file: - or with .json, .yaml, .yml or / in it."),
]
FILE_ENDINGS = documents.SUFFIXES


def read_graph(path: str) -> Graph:
    """The graph in a JSON or YAML file, or from standard input for `-`. Raises `BadRequest` naming the file."""
    try:
        if path == "-":
            text = sys.stdin.buffer.read(documents.MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                text = file.read(documents.MAX_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from None
    is_yaml = not path.endswith(".json") and not (path == "-" and text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"))
    try:
        return Graph.from_json(documents.to_json(text, is_yaml=is_yaml))
    except BadRequest as error:
        raise BadRequest(f"{path}: {error.message}") from None


def _with_warnings(line: str, warnings: Sequence[str]) -> Text:
    return Text("\n").join([Text(line), *(Text(f"warning: {one_line(one)}", style="yellow") for one in warnings)])


@command(app, "put", example="dwarf-nats graph put order.yaml")
async def put(out: Output, bus: Bus, service: Service, files: Files) -> None:
    """Register graphs under their names, in place of what was there."""
    graphs = [read_graph(path) for path in files]
    async with service.client(bus) as client:
        for graph in graphs:
            info = await client.put_graph(graph)
            reply = m.GraphPutReply(name=info.name, digest=info.digest, warnings=list(info.warnings) or UNSET)
            out.show(reply, _with_warnings(f"{info.name}  {info.digest}", info.warnings))


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
    graphs = [read_graph(path) for path in files]
    found = []
    if offline:
        for graph in graphs:
            graph.validate()
            found.append(graph.warnings())
    else:
        async with service.client(bus) as client:
            found = [await client.validate_graph(graph) for graph in graphs]
    for graph, warnings in zip(graphs, found, strict=True):
        out.show(m.GraphValidateReply(warnings=warnings or UNSET), _with_warnings(f"{graph.name}: valid", warnings))


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
