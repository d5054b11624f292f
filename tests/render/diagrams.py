"""A reader of our diagrams: the small grammar every line must be in, and what a diagram says.

    diagram  = "flowchart TD" { line }
    line     = node | "subgraph" box "[" label "]" | "direction TB" | "end" | edge | classDef | class | linkStyle
    node     = n<number> before label after
    edge     = id arrow [ "|" label "|" ] id          id = n<number> | b<number>
    label    = '"' { letter or digit | harmless punctuation | "#"<number>";" | "<br/>" } '"'

Nothing else may stand anywhere, and the statement `direction …`, which Mermaid finds anywhere in a line, only in its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

LABEL = r'"(?:[^\W_ﬂ]|[ .,\-_/()+=!?\'·…]|\#[0-9]+;|<br/>)+"'
NODE = re.compile(rf"(n\d+)(\[\\|\[/|\[\[|\(\[|\[|\{{\{{|>)({LABEL})(/\]|\]\]|\]\)|\]|\}}\}})")
BOX = re.compile(rf"subgraph (b\d+) \[({LABEL})\]")
EDGE = re.compile(rf"([nb]\d+) (-{{2,}}>|-\.+->|={{2,}}>)(?:\|({LABEL})\|)? ([nb]\d+)")
LOOK = re.compile(r"class ([nb]\d+(?:,[nb]\d+)*) ([a-z]+)")
LINKS = re.compile(r"linkStyle (\d+(?:,\d+)*) stroke:#[0-9a-f]{6}")
DEFINITION = re.compile(r"classDef ([a-z]+) [a-z-]+:[^:;]+(?:,[a-z-]+:[^:;]+)*")
ENTITY = re.compile(r"#(\d+);")
TWINS = {"[": "]", "([": "])", "[[": "]]", "[\\": "/]", "[/": "/]", "{{": "}}", ">": "]"}
SHAPES = {
    "[": "box", "([": "round", "[[": "framed", "[\\": "funnel", "[/": "slanted", "{{": "hexagon", ">": "flag",
}  # fmt: skip


@dataclass(slots=True)
class Edge:
    source: str
    target: str
    text: str
    arrow: str
    style: str = ""

    @property
    def line(self) -> str:
        return {"--": "solid", "-.": "dotted", "==": "thick"}[self.arrow[:2]]

    @property
    def ranks(self) -> int:
        return len(self.arrow) - (3 if self.line == "dotted" else 2)


@dataclass(slots=True)
class Diagram:
    """What a diagram says; `labels` and `titles` decoded, line by line."""

    labels: dict[str, list[str]] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)
    """Node or box → the box around it, empty for none."""
    edges: list[Edge] = field(default_factory=list)
    looks: dict[str, str] = field(default_factory=dict)

    def node(self, *first: str) -> str:
        """The one node whose label begins with these lines."""
        (found,) = [name for name, lines in self.labels.items() if lines[: len(first)] == [*first]]
        return found

    def nodes(self, first: str) -> list[str]:
        return [name for name, lines in self.labels.items() if lines[0] == first]

    def edge(self, source: str, target: str) -> Edge:
        """The one edge between two nodes or boxes, named by the first lines of their labels or by identifier."""
        ends = (self._id(source), self._id(target))
        (found,) = [edge for edge in self.edges if (edge.source, edge.target) == ends]
        return found

    def _id(self, name: str) -> str:
        return name if name in self.labels or name in self.titles else self.node(name)

    def pairs(self) -> list[tuple[str, str]]:
        """Edges by the first lines of their ends; boxes by their titles."""
        return [(self._shown(edge.source), self._shown(edge.target)) for edge in self.edges]

    def _shown(self, name: str) -> str:
        return self.titles[name] if name in self.titles else self.labels[name][0]


def plain(label: str) -> list[str]:
    """The lines a label shows; the character without width that parts marks is taken out."""
    shown = ENTITY.sub(lambda found: chr(int(found[1])), label[1:-1].replace("<br/>", "\n"))
    return shown.replace("\u2060", "").split("\n")


def read(text: str) -> Diagram:
    """Read a diagram. An `AssertionError` for anything that is not in the grammar or does not hang together."""
    first, *lines, last = text.split("\n")
    assert (first, last) == ("flowchart TD", "")
    diagram, around, defined = Diagram(), [""], set()
    for line in lines:
        assert re.search(r"direction\s", line) is None or line.strip() == "direction TB", line
        if not _structure(diagram, around, line.strip()):
            defined.add(_dressing(diagram, line.strip()))
    assert around == [""]
    known = diagram.labels.keys() | diagram.titles.keys()
    assert {end for edge in diagram.edges for end in (edge.source, edge.target)} <= known
    assert diagram.looks.keys() == known
    assert set(diagram.looks.values()) <= defined
    assert len(diagram.edges) <= 500
    assert len(text.encode("utf-16-le")) // 2 <= 50_000
    return diagram


def _structure(diagram: Diagram, around: list[str], line: str) -> bool:
    if found := NODE.fullmatch(line):
        name, before, label, after = found.groups()
        assert name not in diagram.labels
        assert TWINS[before] == after
        diagram.labels[name], diagram.shapes[name], diagram.inside[name] = plain(label), SHAPES[before], around[-1]
    elif found := BOX.fullmatch(line):
        assert found[1] not in diagram.titles
        diagram.titles[found[1]], diagram.inside[found[1]] = plain(found[2])[0].strip(), around[-1]
        around.append(found[1])
    elif line == "end":
        assert around.pop() in diagram.inside.values(), "an empty box"
    elif line == "direction TB":
        assert len(around) > 1
    elif found := EDGE.fullmatch(line):
        source, arrow, label, target = found.groups()
        diagram.edges.append(Edge(source, target, "\n".join(plain(label)) if label else "", arrow))
    else:
        return False
    return True


def _dressing(diagram: Diagram, line: str) -> str:
    if found := LOOK.fullmatch(line):
        for name in found[1].split(","):
            assert name not in diagram.looks
            diagram.looks[name] = found[2]
        return found[2]
    if found := DEFINITION.fullmatch(line):
        return found[1]
    found = LINKS.fullmatch(line)
    assert found is not None, f"not in the grammar: {line!r}"
    for at in found[1].split(","):
        diagram.edges[int(at)].style = line.split()[-1]
    return ""
