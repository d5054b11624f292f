"""A Mermaid flowchart as a value: boxes with nodes in them, edges between them, and its text.

Identifiers are made here (`n1`, `b2`), labels go through `labels.label`, styles are the ones of `STYLES`: nothing a user wrote
stands outside a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from dwarf_nats.render.labels import label

MAX_CHARACTERS = 50_000
MAX_EDGES = 500
"""Mermaid's own bounds. Only the page that embeds it can raise them, not a diagram."""

STYLES = {
    "terminal": "fill:#3b4252,stroke:#3b4252,color:#ffffff",
    "task": "fill:#e8eefc,stroke:#4a6fb5,color:#172b4d",
    "engine": "fill:#f2efe6,stroke:#8a7a4b,color:#3d3520",
    "created": "fill:#ffffff,stroke:#8a94a6,color:#4b5563,stroke-dasharray:4 3",
    "pending": "fill:#f1f3f5,stroke:#8a94a6,color:#4b5563",
    "running": "fill:#d6e8fb,stroke:#1f6fbf,color:#0b3a66,stroke-width:2.5px",
    "interrupted": "fill:#fff0c2,stroke:#b7791f,color:#5c3d00,stroke-width:2.5px",
    "completed": "fill:#d8f0de,stroke:#2e7d4f,color:#123c24",
    "failed": "fill:#fbdad7,stroke:#c0392b,color:#6b1510,stroke-width:2.5px",
    "cancelled": "fill:#e9e4ee,stroke:#7a6a8a,color:#463a52",
    "folded": "fill:#ffffff,stroke:#8a94a6,color:#4b5563,stroke-dasharray:2 3",
    "cohort": "fill:none,stroke:#8a94a6,stroke-dasharray:5 4",
    "child": "fill:#8a94a6,fill-opacity:0.08,stroke:#8a94a6",
}
LINK_STYLES = {
    "error": "stroke:#d9534f",
    "goto": "stroke:#9466d8",
    "each": "stroke:#3b8fe0",
    "switch": "stroke:#c98a1b",
}


class Shape(Enum):
    """The shape of a node: the text before and after its label."""

    BOX = ("[", "]")
    ROUND = ("([", "])")
    FUNNEL = ("[\\", "/]")
    """Wide above, narrow below: branches meet here."""
    FRAMED = ("[[", "]]")
    """Another workflow."""
    HEXAGON = ("{{", "}}")
    """It waits for something: an event or a time."""
    SLANTED = ("[/", "/]")
    """A person gives something in."""
    FLAG = (">", "]")
    """Something is sent, and nothing comes back."""


class Line(Enum):
    """The line of an edge: its begin, the part that is repeated to make it longer, its end."""

    SOLID = ("--", "-", ">")
    DOTTED = ("-.", ".", "->")
    THICK = ("==", "=", ">")

    def drawn(self, ranks: int) -> str:
        """The arrow across `ranks` rows."""
        start, more, end = self.value
        return start + more * (ranks - 1) + end


@dataclass(slots=True)
class Box:
    """A frame around nodes and other boxes; the chart itself is one without a frame."""

    id: str = ""
    title: str = ""
    content: list[str | Box] = field(default_factory=list)


class Flowchart:
    """Nodes and boxes in the order they were added, then the edges, then the styles."""

    def __init__(self) -> None:
        self.root = Box()
        self.nodes = 0
        self.edges: list[str] = []
        self._boxes = 0
        self._looks: dict[str, list[str]] = {}
        self._links: dict[str, list[str]] = {}

    def node(self, *lines: str, style: str, shape: Shape = Shape.BOX, box: Box | None = None) -> str:
        """Add a node. Returns its identifier."""
        self.nodes += 1
        name = f"n{self.nodes}"
        before, after = shape.value
        (box or self.root).content.append(f"{name}{before}{label(*lines)}{after}")
        self._looks.setdefault(style, []).append(name)
        return name

    def frame(self, title: str, *, style: str, box: Box | None = None) -> Box:
        """Add a box."""
        self._boxes += 1
        made = Box(f"b{self._boxes}", title)
        (box or self.root).content.append(made)
        self._looks.setdefault(style, []).append(made.id)
        return made

    def edge(
        self, source: str, target: str, *lines: str, line: Line = Line.SOLID, style: str = "", ranks: int = 1
    ) -> None:
        """Add an edge between two nodes or boxes; `ranks`: rows from the source to the target, at least."""
        written = f"|{label(*lines)}|" if any(lines) else ""
        if style:
            self._links.setdefault(style, []).append(str(len(self.edges)))
        self.edges.append(f"{source} {line.drawn(ranks)}{written} {target}")

    @property
    def fits(self) -> bool:
        """True if it is within Mermaid's own bounds."""
        return len(self.edges) <= MAX_EDGES and len(self.text().encode("utf-16-le")) // 2 <= MAX_CHARACTERS

    def text(self) -> str:
        """The diagram, with a line break at its end."""
        lines = ["flowchart TD", *_written(self.root, "  "), *(f"  {edge}" for edge in self.edges)]
        for style, names in sorted(self._looks.items()):
            lines += [f"  classDef {style} {STYLES[style]}", f"  class {','.join(names)} {style}"]
        lines += [f"  linkStyle {','.join(at)} {LINK_STYLES[style]}" for style, at in sorted(self._links.items())]
        return "\n".join(lines) + "\n"


def _written(box: Box, indent: str) -> Iterator[str]:
    for one in box.content:
        if isinstance(one, str):
            yield indent + one
        else:
            yield f"{indent}subgraph {one.id} [{label(one.title)}]"
            yield f"{indent}  direction TB"
            yield from _written(one, indent + "  ")
            yield f"{indent}end"
