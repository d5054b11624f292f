"""The drawing of a graph, and what of it changes while a flow runs: classes and texts, never places."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from markupsafe import Markup, escape

from dwarf_nats.console.views.graph import END, START, DrawnGraph, Edge, Node
from dwarf_nats.console.views.layout import Box, Layout
from dwarf_nats.console.views.text import clip, length
from dwarf_nats.console.views.walk import COUNT_ORDER, NodeState, Walk

NAME = 22
"""Characters of a node's name; the whole is in its title."""
STATUS_WORDS = {
    "": "not reached",
    "completed": "completed",
    "failed": "failed",
    "running": "running",
    "interrupted": "waiting",
    "pending": "queued",
    "cancelled": "cancelled",
    "created": "created",
}

BREAKPOINT = "\nbreakpoint: it pauses here"
EXACT_WORDS = frozenset(("next attempt due", "sleeping", "scheduled", "in child"))
"""Words for steps that say more than their status."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph as it is drawn, by the ids of its elements in the page."""

    inner: Mapping[str, Markup]
    classes: Mapping[str, str]


class GraphDrawing:
    """Draws one graph. `flow`: whose steps its nodes lead to; empty for a graph alone. `scope`: of ids.

    `breakpoints`: the names of nodes before which the flow pauses.
    """

    def __init__(
        self,
        graph: DrawnGraph,
        layout: Layout,
        *,
        flow: str = "",
        scope: str = "g",
        breakpoints: Collection[str] = (),
    ) -> None:
        self._graph = graph
        self._breakpoints = frozenset(breakpoints)
        self._layout = layout
        self._flow = flow
        self._scope = scope

    def changing(self, walked: Walk) -> Drawing:
        """The insides of nodes and labels, and the classes, as a history has them."""
        inner: dict[str, Markup] = {}
        classes: dict[str, str] = {}
        for name, node in self._graph.nodes.items():
            state = walked.nodes[name]
            inner[self._node_id(node)] = self._node(node, state, walked.compensations.get(name))
            classes[self._node_id(node)] = _node_class(node, state)
        for edge in self._graph.edges:
            taken = edge.number in walked.taken
            classes[f"{self._scope}e{edge.number}"] = f"edge {edge.kind} {'taken' if taken else 'faint'}"
            if edge.label:
                label = edge.label
                if walked.codes.get(edge.number):
                    label = f"{clip(label, 12)} {walked.codes[edge.number]}"
                inner[f"{self._scope}l{edge.number}"] = self._label(edge, label)
        return Drawing(inner, classes)

    def plain(self) -> Drawing:
        """The drawing of the graph alone, without a history."""
        inner: dict[str, Markup] = {}
        classes: dict[str, str] = {}
        for node in self._graph.nodes.values():
            inner[self._node_id(node)] = self._node(node, NodeState(), None)
            classes[self._node_id(node)] = f"node {node.kind}"
        for edge in self._graph.edges:
            classes[f"{self._scope}e{edge.number}"] = f"edge {edge.kind} taken"
            if edge.label:
                inner[f"{self._scope}l{edge.number}"] = self._label(edge, edge.label)
        return Drawing(inner, classes)

    def svg(self, drawing: Drawing) -> Markup:
        """The whole drawing. It scrolls in its frame, and its nodes are links in the order of the graph."""
        parts = [
            Markup(
                '<svg class="graph" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" height="{h:.0f}" role="group"'
                ' aria-label="{label}">'
            ).format(w=self._layout.width, h=self._layout.height, label=f"Graph of {self._graph.name}"),
            self._arrow(),
        ]
        for edge in self._graph.edges:
            parts.append(self._edge(edge, drawing.classes[f"{self._scope}e{edge.number}"]))
        for node in self._graph.nodes.values():
            at = self._node_id(node)
            parts.append(Markup('<g id="{}" class="{}">{}</g>').format(at, drawing.classes[at], drawing.inner[at]))
        for edge in self._graph.edges:
            at = f"{self._scope}l{edge.number}"
            if at in drawing.inner:
                parts.append(Markup('<g id="{}" class="label {}">{}</g>').format(at, edge.kind, drawing.inner[at]))
        return Markup("").join([*parts, Markup("</svg>")])

    def _arrow(self) -> Markup:
        """The head of all edges, in the colour of its line."""
        return Markup(
            '<defs><marker id="{}a" class="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="11" markerHeight="11"'
            ' markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0,0.8 7.2,4 0,7.2z"/></marker></defs>'
        ).format(self._scope)

    def _edge(self, edge: Edge, classes: str) -> Markup:
        return Markup('<path id="{s}e{n}" class="{c}" d="{d}" marker-end="url(#{s}a)"/>').format(
            s=self._scope, n=edge.number, c=classes, d=self._layout.lines[edge.number].path
        )

    def _label(self, edge: Edge, text: str) -> Markup:
        line = self._layout.lines[edge.number]
        width = 8 + len(text) * 6.2
        return Markup(
            '<title>{title}</title><rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="16" rx="4"/>'
            '<text x="{tx:.1f}" y="{ty:.1f}">{text}</text>'
        ).format(
            title=edge.title,
            x=line.label_x - width / 2,
            y=line.label_y - 8,
            w=width,
            tx=line.label_x,
            ty=line.label_y + 4,
            text=text,
        )

    def _node_id(self, node: Node) -> str:
        return f"{self._scope}n{node.number}"

    def _node(self, node: Node, state: NodeState, undone: NodeState | None) -> Markup:
        box = self._layout.boxes[node.name]
        if node.name in (START, END):
            return Markup(
                '<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{w}" height="{h}" rx="15"/>'
                '<text class="cap" x="{middle:.1f}" y="{base:.1f}">{text}</text>'
            ).format(
                x=box.x,
                y=box.y,
                w=box.width,
                h=box.height,
                middle=box.x + box.width / 2,
                base=box.y + 19,
                text=node.name.capitalize(),
            )
        stops = node.name in self._breakpoints or node.detail in self._breakpoints
        spoken = f"{node.name}: {_words(state)}" + (", breakpoint" if stops else "")
        content = Markup("").join(
            [
                Markup("<title>{}</title>").format(_title(node, state, undone) + (BREAKPOINT if stops else "")),
                Markup('<rect class="box" x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="8"/>').format(
                    box.x, box.y, box.width, box.height
                ),
                _icon(f"k-{node.kind}", box.x + 12, box.y + 11, "kind"),
                Markup('<text class="name" x="{:.1f}" y="{:.1f}">{}</text>').format(
                    box.x + 36, box.y + 24, clip(node.name, NAME)
                ),
                self._second_line(node, box, state),
                _badge(box, state, undone),
                _bar(box, state),
                _stop(box) if stops else Markup(""),
            ]
        )
        if not self._flow or not state.status:
            return content
        href = f"?node={node.number}" if state.folded else f"?step={state.step}"
        return Markup('<a href="{}" data-drawer aria-label="{}">{}</a>').format(href, spoken, content)

    def _second_line(self, node: Node, box: Box, state: NodeState) -> Markup:
        if not state.status:
            detail = node.detail if node.detail != node.name else ""
            return Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(box.x + 36, box.y + 48, clip(detail, 30))
        icon = _icon("i-" + ("failed" if state.handled else state.status), box.x + 12, box.y + 36, "mark")
        return icon + Markup('<text class="what" x="{:.1f}" y="{:.1f}">{}</text>').format(
            box.x + 34, box.y + 48, clip(_words(state), 38)
        )


def _stop(box: Box) -> Markup:
    """The mark of a breakpoint, at the left."""
    return Markup('<circle class="break" cx="{:.1f}" cy="{:.1f}" r="6"/>').format(box.x, box.y + box.height / 2)


def _icon(name: str, x: float, y: float, classes: str) -> Markup:
    return Markup('<use href="#{}" class="i {}" x="{:.1f}" y="{:.1f}" width="16" height="16"/>').format(
        name, classes, x, y
    )


def _words(state: NodeState) -> str:
    """`completed · 3.2 s`, or the counts of branches."""
    if state.folded:
        return state.counted()
    word = "failed, handled" if state.handled else STATUS_WORDS.get(state.status, state.status)
    if state.word in EXACT_WORDS:
        word = state.word
    took = length(state.started, state.ended)
    return f"{word} · {took}" if took else word


def _title(node: Node, state: NodeState, undone: NodeState | None) -> str:
    lines = [node.name, node.detail if node.detail != node.name else "", _words(state), state.error]
    if state.attempts > 1:
        lines.append(f"attempt {state.attempts:,}")
    if state.rounds > 1:
        lines.append(f"round {state.rounds:,}")
    if undone is not None:
        lines.append(f"compensation {STATUS_WORDS.get(undone.status, undone.status)}")
    return "\n".join(line for line in [*lines, node.note] if line)


def _badge(box: Box, state: NodeState, undone: NodeState | None) -> Markup:
    """At the right: attempts, rounds of a loop, whether it was undone."""
    words = []
    if state.attempts > 1 and not state.folded:
        words.append(f"×{state.attempts:,}")
    if state.rounds > 1:
        words.append(f"↻{state.rounds:,}")
    if undone is not None:
        words.append("↶ undone" if undone.status == "completed" else "↶")
    if not words:
        return Markup("")
    return Markup('<text class="badge" x="{:.1f}" y="{:.1f}">{}</text>').format(
        box.x + box.width - 12, box.y + (48 if not state.folded else 24), " ".join(words)
    )


def _bar(box: Box, state: NodeState) -> Markup:
    """The share of branches by status, or the progress of a step, along the lower edge."""
    if state.folded:
        shares = [
            ("failed" if one == "handled" else one, state.counts[one] / state.total)
            for one in COUNT_ORDER
            if state.counts.get(one)
        ]
    elif state.progress is not None:
        shares = [("running", min(1.0, max(0.0, state.progress)))]
    else:
        return Markup("")
    left, width = box.x + 12, box.width - 24
    parts = [
        Markup('<rect class="track" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="4" rx="2"/>').format(
            left, box.y + 55, width
        )
    ]
    for status, share in shares:
        parts.append(
            Markup('<rect class="part {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="4"/>').format(
                status, left, box.y + 55, width * share
            )
        )
        left += width * share
    return Markup("").join(parts)


def _node_class(node: Node, state: NodeState) -> str:
    words = ["node", node.kind, state.status or "unreached"]
    if state.handled:
        words.append("handled")
    if state.folded:
        words.append("many")
    return " ".join(escape(word) for word in words)
