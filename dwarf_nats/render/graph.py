"""A graph as a Mermaid flowchart (D1): every node, every edge by its kind, the notes of its author.

| edge | drawn as |
|---|---|
| plain | solid |
| when | solid, `if …` |
| switch | solid, amber, `1: …` in order, `else` for the condition `true` |
| for_each | thick, blue, `each … in …` |
| goto | dotted, violet, `goto` |
| on_error | dotted, red, `on error` |

A condition on one of the last three follows its label. A fan-in is a funnel. A node that asks no task says what the engine does
there (N8), and has the shape of its kind. The graph need not be sound (G6).
"""

from __future__ import annotations

from dwarf_nats.render.flowchart import Flowchart, Line, Shape
from dwarf_nats.render.kinds import SHAPES, doing
from dwarf_nats.render.labels import clip
from dwarf_nats.workflow.graph import END, Graph, Node, Transition

BOUNDS = ((60, 490), (40, 490), (24, 490), (12, 250), (6, 60))
"""Bounds for the characters of a line and for the edges, the widest first; the first that fit Mermaid are used."""
NOTE_LINES = 4


def graph_mermaid(graph: Graph) -> str:
    """Draw a graph. One node counts the parts beyond the size that Mermaid draws."""
    for characters, edges in BOUNDS:
        chart = _drawn(graph, characters, edges)
        if chart.fits:
            break
    return chart.text()


def _drawn(graph: Graph, characters: int, limit: int) -> Flowchart:
    chart = Flowchart()
    start = chart.node("START", clip(graph.name, characters), style="terminal", shape=Shape.ROUND)
    edges = graph.transitions[:limit]
    touched = {name for edge in edges for name in (edge.source, edge.target)}
    loose = [name for name in graph.nodes if name not in touched] if len(edges) == len(graph.transitions) else []
    names = [*(name for name in graph.nodes if name in touched), *loose[:limit]]
    ids = {name: _node(chart, graph, name, characters) for name in names}
    if END in touched:
        ids[END] = chart.node("END", style="terminal", shape=Shape.ROUND)
    if graph.entry_point in ids:
        chart.edge(start, ids[graph.entry_point])
    _draw_edges(chart, edges, ids, characters)
    _count_hidden(chart, len(graph.transitions) - len(edges), len(graph.nodes) - len(names))
    return chart


def _node(chart: Flowchart, graph: Graph, name: str, characters: int) -> str:
    node = graph.nodes[name]
    if node.action is not None:
        what = clip(doing(node.action), characters)
    else:
        what = f"({clip(node.url, characters)})" if node.url != node.name else ""
    notes = graph.annotations.get(name, "").splitlines()[:NOTE_LINES] if characters > BOUNDS[-1][0] else []
    shape = Shape.FUNNEL if node.fan_in else SHAPES.get(node.kind, Shape.BOX)
    shown = (clip(note, 2 * characters) for note in notes)
    style = "task" if node.action is None else "engine"
    return chart.node(clip(name, characters), what, *_policies(node, characters), *shown, style=style, shape=shape)


def _policies(node: Node, characters: int) -> list[str]:
    """The compensation of a node, where there is one."""
    if node.compensate is None:
        return []
    how = node.compensate.url if node.compensate.action is None else doing(node.compensate.action)
    return [clip(f"compensated by {how}", characters)]


def _draw_edges(chart: Flowchart, edges: list[Transition], ids: dict[str, str], characters: int) -> None:
    switches: dict[str, int] = {}
    for edge in edges:
        switches[edge.source] = place = switches.get(edge.source, 0) + edge.switch
        text, line, style = _look(edge, place, characters)
        chart.edge(ids[edge.source], ids[edge.target], text, line=line, style=style)


def _look(edge: Transition, place: int, characters: int) -> tuple[str, Line, str]:
    """Label, line and style of an edge; `place`: among the switch edges of its source."""
    when = clip(edge.when, characters)
    gate = f" if {when}" if when else ""
    if edge.switch:
        return f"{place}: {'else' if when == 'true' else when}", Line.SOLID, "switch"
    if edge.on_error:
        return f"on error{gate}", Line.DOTTED, "error"
    if edge.goto:
        return f"goto{gate}", Line.DOTTED, "goto"
    if edge.for_each:
        each = f"each {clip(edge.as_, characters)} in {clip(edge.for_each, characters)}"
        return f"{each}{gate}", Line.THICK, "each"
    return gate.strip(), Line.SOLID, ""


def _count_hidden(chart: Flowchart, edges: int, nodes: int) -> None:
    counts = [f"{count:,} more {what}" for count, what in ((edges, "edges"), (nodes, "nodes")) if count > 0]
    if counts:
        chart.node(f"… {', '.join(counts)}", style="folded")
