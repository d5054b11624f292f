"""Places for the nodes and edges of a graph, in layers (Sugiyama), by `fast_sugiyama`.

The layout depends on the graph alone and is kept by its digest, so nothing moves while a flow runs. The library is given a
graph without cycles: it ends the process for an edge from a node to itself. So loops are cut here, drawn backwards by the
library, and turned round again; an edge to its own node is drawn beside it.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import inf

from fast_sugiyama import from_edges

from dwarf_nats.console.views.graph import END, START, DrawnGraph, Edge, EdgeKind, graph_digest_key

WIDTH, HEIGHT = 232, 64
"""Size of a node's box."""
MARGIN = 24
GAP = 24
"""Least room between boxes of a layer."""
LOOP = 24
"""Room above the boxes for bows."""
MAX_EDGES = 600
"""Most edges that are drawn: more take seconds to lay out, and nobody finds anything in them."""
CACHED = 256
Point = tuple[float, float]
LABEL_WIDTH, LABEL_HEIGHT = 96, 17
"""Room of an edge's label."""


_NO_EDGE = Edge(number=-1, source="", target="", kind=EdgeKind.PLAIN)


class Direction(StrEnum):
    """Where a graph goes: `down`, or to the `right`."""

    DOWN = "down"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Box:
    """The place of a node: its left upper corner and its size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """The course of an edge, as the data of an SVG path, and where its label stands."""

    path: str
    label_x: float
    label_y: float


@dataclass(frozen=True, slots=True)
class Layout:
    """All places. Empty boxes: the graph is too large to be drawn."""

    width: float
    height: float
    boxes: Mapping[str, Box]
    lines: Mapping[int, Line]

    @property
    def too_large(self) -> bool:
        return not self.boxes


@dataclass(frozen=True, slots=True)
class _Axes:
    """Turns (along the layers, across them) into x and y."""

    right: bool

    @property
    def layer(self) -> float:
        return WIDTH + 84 if self.right else HEIGHT + 56

    @property
    def spacing(self) -> float:
        return HEIGHT + 36 if self.right else WIDTH + 36

    @property
    def depth(self) -> float:
        """The size of a box along the layers."""
        return WIDTH if self.right else HEIGHT

    @property
    def breadth(self) -> float:
        return HEIGHT if self.right else WIDTH

    def point(self, along: float, across: float) -> Point:
        return (along, across) if self.right else (across, along)

    def text(self, along: float, across: float) -> str:
        x, y = self.point(along, across)
        return f"{x:.1f},{y:.1f}"


class Layouts:
    """Layouts by digest; the one used longest ago goes first."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, Direction], Layout] = OrderedDict()

    def of(self, graph: DrawnGraph, direction: Direction = Direction.DOWN) -> Layout:
        """Return the layout of a graph; it is computed at the first time."""
        key = (graph_digest_key(graph), direction)
        layout = self._known.get(key)
        if layout is None:
            layout = self._known[key] = lay_out(graph, direction)
            if len(self._known) > CACHED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return layout


def lay_out(graph: DrawnGraph, direction: Direction = Direction.DOWN) -> Layout:
    """Compute the places of a graph's nodes and edges."""
    if len(graph.edges) > MAX_EDGES:
        return Layout(0, 0, {}, {})
    axes = _Axes(direction is Direction.RIGHT)
    backward = frozenset(_backward(graph))
    places = _places(graph, backward, axes)
    boxes = {name: _box(name, *places.nodes[name], axes) for name in graph.nodes}
    lines = _Router(graph, places, backward, axes).lines()
    # Curves of edges to their own node reach beyond the boxes.
    bends = [axes.point(*point) for points in places.bends.values() for point in points]
    width = max([box.x + box.width for box in boxes.values()] + [x for x, _ in bends]) + MARGIN + 48
    height = max(box.y + box.height for box in boxes.values()) + MARGIN
    return Layout(width, height, boxes, lines)


def _box(name: str, along: float, across: float, axes: _Axes) -> Box:
    x, y = axes.point(along + _pulled(name, axes), across)
    if name in (START, END):
        return Box(x - 38, y - 15, 76, 30)
    return Box(x - WIDTH / 2, y - HEIGHT / 2, WIDTH, HEIGHT)


def _pulled(name: str, axes: _Axes) -> float:
    """How far the two ends, which are small, are moved towards the rest."""
    room = (axes.depth - (76 if axes.right else 30)) / 2
    return room if name == START else -room if name == END else 0.0


def _backward(graph: DrawnGraph) -> Iterator[int]:
    """The numbers of the edges that close a cycle; goto and error edges are preferred."""
    leaving: dict[str, list[Edge]] = defaultdict(list)
    for edge in sorted(graph.edges, key=lambda edge: edge.kind in (EdgeKind.GOTO, EdgeKind.ERROR)):
        leaving[edge.source].append(edge)
    seen: set[str] = set()
    for first in graph.nodes:
        if first in seen:
            continue
        on_path = {first}
        seen.add(first)
        pending = [(first, iter(leaving[first]))]
        while pending:
            name, edges = pending[-1]
            edge = next(edges, _NO_EDGE)
            if edge is _NO_EDGE:
                on_path.discard(name)
                pending.pop()
            elif edge.target in on_path:
                yield edge.number
            elif edge.target not in seen:
                seen.add(edge.target)
                on_path.add(edge.target)
                pending.append((edge.target, iter(leaving[edge.target])))


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the library put things, as (along, across) the layers. `bends`: of an edge between two nodes, if it is long."""

    nodes: dict[str, Point]
    bends: dict[tuple[str, str], list[Point]]


def _places(graph: DrawnGraph, backward: frozenset[int], axes: _Axes) -> _Places:
    pairs: dict[tuple[str, str], None] = {}
    for edge in graph.edges:
        if edge.source != edge.target:
            pairs[(edge.target, edge.source) if edge.number in backward else (edge.source, edge.target)] = None
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    ids = {name: number for number, name in enumerate(names)}
    places = _Places({}, {})
    across = 0.0
    for positions, _width, _height, edges in from_edges(
        [(ids[source], ids[target]) for source, target in pairs],
        minimum_length=1,
        vertex_spacing=axes.spacing,
        dummy_vertices=True,
        dummy_size=0.3,
    ):
        # The library counts upwards from the last layer.
        layers = sorted({-y for _, (_, y) in positions})
        points = _apart(
            {int(number): (layers.index(-y) * axes.layer, x + across) for number, (x, y) in positions}, len(names), axes
        )
        following = defaultdict(list)
        for source, target in edges or ():
            following[int(source)].append(int(target))
        for number in points:
            if number < len(names):
                places.nodes[names[number]] = points[number]
                _follow(names, number, following, points=points, bends=places.bends)
        across = max(one for _, one in points.values()) + axes.spacing
    for name in graph.nodes:
        if name not in places.nodes:  # it has no edges but to itself
            places.nodes[name] = (0.0, across)
            across += axes.spacing
    return _moved(places, axes)


def _apart(points: dict[int, Point], nodes: int, axes: _Axes) -> dict[int, Point]:
    """Move points of a layer away from each other where boxes would lie on something: the library may put them too near.

    `nodes`: how many of the points, by number, are nodes; the others are bends.
    """
    layers: dict[float, list[tuple[float, int]]] = defaultdict(list)
    for number, (along, across) in points.items():
        layers[along].append((across, number))
    for along, ends in layers.items():
        at, room = -inf, 0.0
        for across, number in sorted(ends):
            own = axes.breadth / 2 + GAP / 2 if number < nodes else GAP / 2
            at = max(across, at + room + own)
            room = own
            points[number] = (along, at)
    return points


def _follow(
    names: list[str],
    first: int,
    following: Mapping[int, list[int]],
    *,
    points: Mapping[int, Point],
    bends: dict[tuple[str, str], list[Point]],
) -> None:
    """Note the bends of each edge that leaves a node."""
    for after in following.get(first, ()):
        passed = []
        while after >= len(names):
            passed.append(points[after])
            after = following[after][0]
        bends[names[first], names[after]] = passed


def _moved(places: _Places, axes: _Axes) -> _Places:
    """Move all, so that nothing is beyond the margins. START, which is small, may stand before the first box."""
    passed = [point for points in places.bends.values() for point in points]
    down = MARGIN - min(
        along + (axes.depth / 2 - (76 if axes.right else 30) if name == START else -axes.depth / 2)
        for name, (along, _) in places.nodes.items()
    )
    first = MARGIN + axes.breadth / 2 + (LOOP if axes.right else 0)
    side = first - min(across for _, across in [*places.nodes.values(), *passed])
    return _Places(
        {name: (along + down, across + side) for name, (along, across) in places.nodes.items()},
        {pair: [(along + down, across + side) for along, across in points] for pair, points in places.bends.items()},
    )


class _Router:
    """Courses of the edges: from the end of one box to the beginning of the next, side by side where several meet."""

    def __init__(self, graph: DrawnGraph, places: _Places, backward: frozenset[int], axes: _Axes) -> None:
        self._graph = graph
        self._places = places
        self._backward = backward
        self._axes = axes
        self._out, self._in = self._ports()

    def lines(self) -> dict[int, Line]:
        lines = {edge.number: self._line(edge) for edge in self._graph.edges}
        return self._apart(lines)

    def _ends(self, edge: Edge) -> tuple[str, str]:
        """The upper and the lower end, whichever way it leads."""
        return (edge.target, edge.source) if edge.number in self._backward else (edge.source, edge.target)

    def _ports(self) -> tuple[dict[int, float], dict[int, float]]:
        """How far from the middle of its box each edge begins and ends."""
        below: dict[str, list[tuple[float, int]]] = defaultdict(list)
        above: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for edge in self._graph.edges:
            upper, lower = self._ends(edge)
            if upper != lower:
                course = [self._places.nodes[upper], *self._bends(edge), self._places.nodes[lower]]
                below[upper].append((course[1][1], edge.number))
                above[lower].append((course[-2][1], edge.number))
        return self._spread(below), self._spread(above)

    def _spread(self, edges: Mapping[str, list[tuple[float, int]]]) -> dict[int, float]:
        found = {}
        for name, ends in edges.items():
            room = (76 if name in (START, END) else self._axes.breadth) * 0.7
            gap = min(26.0, room / len(ends))
            for place, (_, number) in enumerate(sorted(ends)):
                found[number] = (place - (len(ends) - 1) / 2) * gap
        return found

    def _bends(self, edge: Edge) -> list[Point]:
        return self._places.bends.get(self._ends(edge), [])

    def _line(self, edge: Edge) -> Line:
        upper, lower = self._ends(edge)
        if upper == lower:
            return self._loop(edge)
        along, across = self._places.nodes[upper]
        points = [(along + self._axes.depth / 2, across + self._out[edge.number])]
        for bend, at in self._bends(edge):
            points += [(bend - self._axes.depth / 2, at), (bend + self._axes.depth / 2, at)]
        along, across = self._places.nodes[lower]
        points.append((along - self._axes.depth / 2, across + self._in[edge.number]))
        label = self._middle(points[0], points[1], edge.number)
        return self._drawn(points[::-1] if edge.number in self._backward else points, label)

    def _middle(self, first: Point, second: Point, number: int) -> Point:
        """Where a label stands: on the first stretch, where edges that leave one node have parted; edges between the same two
        nodes take turns."""
        share = 0.5 + 0.14 * (number % 2)
        return (first[0] + (second[0] - first[0]) * share, first[1] + (second[1] - first[1]) * share)

    def _drawn(self, points: list[Point], label: Point) -> Line:
        parts = [f"M{self._axes.text(*points[0])}"]
        for number, (before, after) in enumerate(pairwise(points)):
            if number % 2:  # beside the boxes of a layer
                parts.append(f"L{self._axes.text(*after)}")
                continue
            half = (before[0] + after[0]) / 2
            curve = (self._axes.text(half, before[1]), self._axes.text(half, after[1]), self._axes.text(*after))
            parts.append(f"C{' '.join(curve)}")
        x, y = self._axes.point(*label)
        return Line("".join(parts), x, y)

    def _loop(self, edge: Edge) -> Line:
        """An edge from a node to itself: a bow at the side to which no edge leads."""
        x, y = self._axes.point(*self._places.nodes[edge.source])
        if self._axes.right:
            top = y - HEIGHT / 2
            bow = f"M{x - 20:.1f},{top:.1f}C{x - 32:.1f},{top - 30:.1f} {x + 32:.1f},{top - 30:.1f} {x + 20:.1f},{top:.1f}"
            return Line(bow, x, top - 26)
        right = x + WIDTH / 2
        bow = f"M{right:.1f},{y - 14:.1f}C{right + 36:.1f},{y - 24:.1f} {right + 36:.1f},{y + 24:.1f} {right:.1f},{y + 14:.1f}"
        return Line(bow, right + 36, y - 24)

    def _apart(self, lines: dict[int, Line]) -> dict[int, Line]:
        """Move labels that would lie on each other downwards."""
        placed: list[Point] = []
        labelled = {edge.number for edge in self._graph.edges if edge.label}
        for number, line in lines.items():
            if number not in labelled:
                continue
            y = line.label_y
            for _ in range(4):
                if not any(abs(x - line.label_x) < LABEL_WIDTH and abs(at - y) < LABEL_HEIGHT for x, at in placed):
                    break
                y += LABEL_HEIGHT
            placed.append((line.label_x, y))
            lines[number] = Line(line.path, line.label_x, y)
        return lines
