"""The frozen graph of a flow as what is drawn of it: nodes and edges, with their labels. Nothing in here knows of a history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dwarf_nats.console.views.text import clip, to_json

START, END = "START", "END"
LABEL = 18
"""Characters of a condition beside its edge; the whole is in its title."""


class EdgeKind(StrEnum):
    """Kinds of edges, as they are told apart in the drawing."""

    PLAIN = "plain"
    WHEN = "when"
    SWITCH = "switch"
    EACH = "each"
    GOTO = "goto"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is drawn. `number`: its place in the graph, which makes its id in the page."""

    number: int
    name: str
    kind: str = "task"
    detail: str = ""
    note: str = ""
    fan_in: bool = False
    compensated: bool = False
    into: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge that is drawn. `label` is short, `title` says all of it."""

    number: int
    source: str
    target: str
    kind: EdgeKind
    label: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class DrawnGraph:
    """A graph to draw. `fields`: those it declares, as JSON."""

    name: str
    nodes: dict[str, Node]
    edges: list[Edge]
    digest: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sealed(self) -> frozenset[str]:
        """The fields that nobody may read."""
        return frozenset(name for name, one in self.fields.items() if isinstance(one, Mapping) and one.get("sealed"))


def read_graph(values: Mapping[str, Any], digest: str = "") -> DrawnGraph:
    """Read the JSON of a graph. What a newer service adds to it is ignored."""
    tasks = [one for one in values.get("tasks") or () if one.get("name")]
    notes = values.get("annotations") or {}
    nodes = {START: Node(number=0, name=START, kind="start")}
    for task in tasks:
        nodes[task["name"]] = _node(task, len(nodes), notes.get(task["name"], ""))
    nodes[END] = Node(number=len(nodes), name=END, kind="end")
    entry = values.get("entryPoint") or (tasks[0]["name"] if tasks else END)
    edges = [Edge(number=0, source=START, target=entry, kind=EdgeKind.PLAIN)]
    places: dict[str, int] = {}
    for edge in values.get("transitions") or ():
        if edge["from"] in nodes and edge["to"] in nodes:
            places[edge["from"]] = place = places.get(edge["from"], 0) + bool(edge.get("switch"))
            edges.append(_edge(edge, len(edges), place))
    return DrawnGraph(values.get("name", ""), nodes, edges, digest=digest, fields=values.get("fields") or {})


def _node(task: Mapping[str, Any], number: int, note: str) -> Node:
    kind, detail = _kind(task)
    return Node(
        number=number,
        name=task["name"],
        kind=kind,
        detail=detail,
        note=note,
        fan_in=bool(task.get("fanIn")),
        compensated=task.get("compensate") is not None,
        into=task.get("into") or "",
    )


def _kind(task: Mapping[str, Any]) -> tuple[str, str]:
    """The kind of a node, and in a few words what is done there."""
    if "workflow" in task:
        return "workflow", f"workflow {task['workflow']}"
    for kind, what in (("request", "subject"), ("publish", "subject"), ("wait", "event")):
        if task.get(kind):
            return kind, f"{kind} {'for ' if kind == 'wait' else ''}{task[kind].get(what, '')}"
    if task.get("set") is not None:
        return "set", f"set {', '.join(task['set'])}"
    if "ask" in task:
        return "ask", "asks a person"
    if task.get("sleep"):
        until, ms = task["sleep"].get("until"), task["sleep"].get("ms")
        return "sleep", f"sleep until {until}" if until else f"sleep {ms} ms"
    return "task", task.get("url") or task["name"]


def _edge(edge: Mapping[str, Any], number: int, place: int) -> Edge:
    when, kind = edge.get("when") or "", _edge_kind(edge)
    label, title = "", when
    if kind is EdgeKind.EACH:
        each = f"each {edge.get('as') or 'item'} in {edge['forEach']}"
        label, title = each, f"{each} if {when}" if when else each
    elif kind is EdgeKind.SWITCH:
        label = "else" if when == "true" else f"{place}: {when}"
    elif kind in (EdgeKind.GOTO, EdgeKind.ERROR):
        word = "goto" if kind is EdgeKind.GOTO else "on error"
        label = f"{word}: {when}" if when else word
        title = f"{word} if {when}" if when else word
    elif when:
        label = f"if {when}"
    return Edge(
        number=number,
        source=edge["from"],
        target=edge["to"],
        kind=kind,
        label=clip(label, LABEL),
        title=title or f"{edge['from']} → {edge['to']}",
    )


def _edge_kind(edge: Mapping[str, Any]) -> EdgeKind:
    for key, kind in (
        ("onError", EdgeKind.ERROR),
        ("withGoto", EdgeKind.GOTO),
        ("switch", EdgeKind.SWITCH),
        ("forEach", EdgeKind.EACH),
        ("when", EdgeKind.WHEN),
    ):
        if edge.get(key):
            return kind
    return EdgeKind.PLAIN


def graph_digest_key(graph: DrawnGraph) -> str:
    """The key under which its layout is kept: the digest, or what stands for it in a graph without one."""
    return graph.digest or to_json([list(graph.nodes), [(one.source, one.target, one.kind) for one in graph.edges]])
