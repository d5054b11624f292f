"""Draw the Mermaid blocks of the pages for the site, by the console's own drawing: no script of another host is needed.

A flowchart below a graph in YAML is drawn from that graph and placed beside it; a state diagram is drawn from its text.
"""

from __future__ import annotations

import re
from importlib.resources import files

import yaml
from markupsafe import escape

from dwarf_nats.console.views.graph import END, START, DrawnGraph, Edge, EdgeKind, Node, read_graph
from dwarf_nats.console.views.graph_svg import GraphDrawing
from dwarf_nats.console.views.layout import lay_out

_BODY = r"(?:(?!```).)*"
_GRAPH = re.compile(
    rf"```yaml[^\n]*\n({_BODY}^entryPoint:{_BODY})```\n\n```mermaid\nflowchart{_BODY}```", re.MULTILINE | re.DOTALL
)
_STATES = re.compile(r"```mermaid\nstateDiagram-v2\n(.*?)```", re.DOTALL)
_CHANGE = re.compile(r"^ *(\w+) --> (\w+): (.*)$", re.MULTILINE)
_SYMBOL = re.compile(r'<symbol id="([\w-]+)"[^>]*>(.*?)</symbol>', re.DOTALL)
_USE = re.compile(r'<use href="#([\w-]+)"([^>]*)/>')
_BY_HAND = re.compile(r"```mermaid\nflowchart TD\n(.*?)```", re.DOTALL)
_ARROW = re.compile(r"^ *(\w+(?: & \w+)*) -->(?:\|([^|]*)\|)? (\w+(?: & \w+)*)$", re.MULTILINE)
WIDEST = 460
"""Width of a drawing that still has room beside its YAML."""


def draw(text: str) -> str:
    """The text of a page with drawings in place of its Mermaid blocks."""
    scopes = iter(range(1_000_000))

    def beside(found: re.Match[str]) -> str:
        block = found[0].partition("\n\n```mermaid")[0]
        graph = read_graph(yaml.safe_load(found[1]))
        drawn = _svg(graph, next(scopes))
        if lay_out(graph).width > WIDEST:
            return f"{block}\n\n{drawn}"
        return f'<div class="beside" markdown="1">\n\n{block}\n\n{drawn}\n\n</div>'

    def states(found: re.Match[str]) -> str:
        graph = _states(found[1])
        causes = "".join(f"<li>{escape(edge.title)}</li>" for edge in graph.edges[1:])
        return f"{_svg(graph, next(scopes))}\n\n<ol>{causes}</ol>"

    text = _GRAPH.sub(beside, text)
    text = _STATES.sub(states, text)
    return _BY_HAND.sub(lambda found: _svg(_by_hand(found[1]), next(scopes)), text)


def _svg(graph: DrawnGraph, number: int) -> str:
    """One line of HTML. Icons are put in where they are used, as the builder takes a reference for a link."""
    drawing = GraphDrawing(graph, lay_out(graph), scope=f"d{number}")
    sprite = files("dwarf_nats.console").joinpath("templates", "flow_icons.svg").read_text(encoding="utf-8")
    icons = dict(_SYMBOL.findall(sprite))

    def icon(found: re.Match[str]) -> str:
        inside = icons.get(found[1], "")
        return f'<svg viewBox="0 0 16 16"{found[2]}>{inside}</svg>' if inside else ""

    return f'<div class="drawing">{" ".join(_USE.sub(icon, str(drawing.svg(drawing.plain()))).split())}</div>'


def _states(text: str) -> DrawnGraph:
    """A state diagram as a graph. Its arrows have numbers, as their causes are long; arrows between the same two are one."""
    changes: dict[tuple[str, str], str] = {}
    for source, target, label in _CHANGE.findall(text):
        known = changes.get((source, target))
        changes[source, target] = f"{known} or {label}" if known else label
    titled = [(source, target, f"{source} → {target}: {label}") for (source, target), label in changes.items()]
    return _drawn(
        "statuses", [(source, target, str(at), title) for at, (source, target, title) in enumerate(titled, 1)]
    )


def _by_hand(text: str) -> DrawnGraph:
    """A flowchart whose nodes have no texts of their own."""
    arrows = [
        (source, target, label, label or f"{source} → {target}")
        for left, label, right in _ARROW.findall(text)
        for source in left.split(" & ")
        for target in right.split(" & ")
    ]
    return _drawn("diagram", arrows)


def _drawn(name: str, arrows: list[tuple[str, str, str, str]]) -> DrawnGraph:
    """A graph of arrows: source, target, label, title."""
    names = list(dict.fromkeys(one for source, target, *_ in arrows for one in (source, target)))
    nodes = {START: Node(number=0, name=START, kind="start")}
    for one in names:
        nodes[one] = Node(number=len(nodes), name=one, kind="end" if one == END else "state")
    edges = [Edge(number=0, source=START, target=names[0], kind=EdgeKind.PLAIN)]
    for source, target, label, title in arrows:
        edges.append(
            Edge(number=len(edges), source=source, target=target, kind=EdgeKind.WHEN, label=label, title=title)
        )
    return DrawnGraph(name, nodes, edges)
