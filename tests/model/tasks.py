"""What tasks do, drawn for a graph; and whole examples."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dwarf_nats.workflow.graph import Graph
from tests.model.behaviours import (
    Act,
    Answered,
    Ask,
    Behaviour,
    Child,
    Clash,
    Copy,
    Done,
    Ending,
    Fail,
    Lit,
    Loop,
    Plus,
    Retry,
    Special,
    Unstorable,
    Value,
)
from tests.model.example import Encore, Example
from tests.model.graphs import ARRAYS, FIELDS, Draw, Sketch, odds, sketches

INTERRUPTS, SUBGRAPHS, BREAKPOINTS, ENCORES = "interrupts", "subgraphs", "breakpoints", "encores"
EVERYTHING = frozenset({INTERRUPTS, SUBGRAPHS, BREAKPOINTS, ENCORES})

LITERALS: dict[str, list[Any]] = {
    "number": [1, 0, 2, 3, -1, 0.5, 1.0, 2.5, 9007199254740993],
    "array": [[], [1], [1, 2], [2, 1, 2], ["x"], [{"k": 1}], [[1], 1.0, None]],
    "object": [{}, {"k": 1}, {"k": 2, "j": [1]}, {"k": None}, {"z": {"k": 3}}],
    "boolean": [True, False],
    "string": ["x", "", "y", "é✓"],
    "any": [1, "x", [1], {"k": 1}, True, 0.5],
}
ELEMENTS: list[list[Any]] = [[1], [1, 2], [0, 1, 2], [], [2, 2], [2, 1], ["x", 1], [{"k": 1}], [None, 1], [[1, 2], [3]]]
DEPTH = 2
"""How often an execution may go on after an interrupt or child; once too often, for a step parks once only (X4)."""
TURNS = [0, 0, 0, 1, 3, 20, 100]


class TaskSketch:
    """Behaviours for the nodes of one graph."""

    def __init__(self, draw: Draw, sketch: Sketch, children: list[str], features: frozenset[str], fragile: int) -> None:
        self._draw = draw
        self._graph = sketch.graph
        self._loops = sketch.loops
        self._children = children
        self._features = features
        self._fragile = fragile
        self._fields = [*FIELDS, *ARRAYS]

    def behaviours(self) -> dict[str, Behaviour]:
        return {name: self._behaviour(name) for name in self._graph.nodes}

    def _behaviour(self, name: str) -> Behaviour:
        if odds(self._draw, self._fragile):
            return Behaviour([self._act(self._fail())], [Special("mended", True, self._attempts(name))])
        specials = []
        if odds(self._draw, 25):
            field, equals = self._draw(
                st.sampled_from([("item", 1), ("itemIndex", 0), ("it", 2), ("n", 1), ("f", True), ("a", None)])
            )
            specials.append(Special(field, equals, self._attempts(name)))
        return Behaviour(self._attempts(name), specials)

    def _attempts(self, name: str) -> list[Act]:
        acts = []
        if odds(self._draw, 12):
            for _ in range(self._draw(st.integers(1, 2))):
                acts.append(self._act(self._retry(bounded=False)))
        return [*acts, self._act(self._ending(name, DEPTH))]

    def _act(self, end: Ending) -> Act:
        writes = {}
        for _ in range(self._draw(st.sampled_from([1, 0, 0, 1, 2, 3]))):
            field = self._draw(st.sampled_from(self._fields))
            writes[field] = self._value(field)
        turns = self._draw(st.sampled_from(TURNS))
        sleep_ms = 1 if odds(self._draw, 3) else 0
        return Act(end, writes, turns, sleep_ms)

    def _value(self, field: str) -> Value:
        kind = FIELDS.get(field)
        if kind is None:
            wrong = odds(self._draw, 4)
            return Lit("no array" if wrong else self._draw(st.sampled_from(ELEMENTS)))
        if odds(self._draw, 3):
            kind = "any"
        match self._draw(st.sampled_from(["lit"] * 6 + ["plus"] * 2 + ["copy", "copy", "delete", "answered"])):
            case "plus" if kind == "number":
                return Plus(field, self._draw(st.sampled_from([1, 2, -1, 0.5])))
            case "copy":
                alike = [name for name, other in FIELDS.items() if other == kind or kind == "any"]
                return Copy(self._draw(st.sampled_from([*alike, "item"])))
            case "delete":
                return Lit(None)
            case "answered" if kind == "any":
                return Answered()
        return Lit(self._draw(st.sampled_from(LITERALS[kind])))

    # -- endings

    def _ending(self, name: str, depth: int) -> Ending:
        edges = self._graph.leaving(name)
        if name in self._loops and not odds(self._draw, 10):
            return Loop(self._loops[name], f"round_{name}", self._draw(st.integers(1, 2)))
        kinds = ["done"] * 200 + ["fail"] * (50 if any(edge.on_error for edge in edges) else 2)
        kinds += (
            ["goto"] * (50 if any(edge.goto for edge in edges) else 1)
            + ["retry"] * (2 if depth == DEPTH else 30)
            + ["clash"] * 3
            + ["unstorable"]
        )
        if depth and INTERRUPTS in self._features:
            kinds += ["ask"] * (20 if depth == DEPTH else 6)
        if depth and SUBGRAPHS in self._features:
            kinds += ["child"] * (30 if self._children and depth == DEPTH else 3 if self._children else 1)
        match self._draw(st.sampled_from(kinds)):
            case "fail":
                return self._fail()
            case "goto":
                return self._goto(name)
            case "retry":
                return self._retry(bounded=True)
            case "ask":
                return Ask(self._payload(), self._act(self._ending(name, depth - 1)))
            case "child":
                return self._child(name, depth)
            case "clash":
                wishes = self._draw(st.sampled_from(self._clashes()))
                return Clash(wishes, self._target(name))
            case "unstorable":
                return Unstorable()
        return Done()

    def _fail(self) -> Fail:
        code = self._draw(st.sampled_from([500, 402, 422]))
        extra = {"account": [1, {"k": None}]} if odds(self._draw, 20) else {}
        return Fail(self._draw(st.sampled_from(["boom 1", "boom 2", "boom é"])), code, extra)

    def _retry(self, *, bounded: bool) -> Retry:
        error = self._fail() if odds(self._draw, 50) else None
        attempts = self._draw(st.sampled_from([2, 3, 1] if bounded else [None, 4, 4, 3, 2]))
        return Retry(attempts, int(odds(self._draw, 20)), odds(self._draw, 10), error)

    def _target(self, name: str) -> str:
        """Mostly where a goto edge leads, by name or by a url no other node has."""
        offered = [edge.target for edge in self._graph.leaving(name) if edge.goto]
        if not offered or odds(self._draw, 4):
            return str(self._draw(st.sampled_from([*self._graph.nodes, "nowhere", "END"])))
        target = str(self._draw(st.sampled_from(offered)))
        if target in self._graph.nodes and odds(self._draw, 25):
            url = self._graph.nodes[target].url
            found = self._graph.find_node(url)
            if found is not None and found.name == target:
                return url
        return target

    def _goto(self, name: str) -> Ending:
        """A goto that may lead back is bounded."""
        target = self._target(name)
        return Loop(target, f"went_{name}", self._draw(st.integers(1, 2)))

    def _clashes(self) -> list[list[str]]:
        clashes = [["goto", "retry"]]
        if INTERRUPTS in self._features:
            clashes += [["goto", "interrupt"], ["retry", "interrupt"]]
        if SUBGRAPHS in self._features:
            clashes += [["retry", "subgraph"], ["goto", "retry", "subgraph"]]
        return clashes

    def _payload(self) -> Value:
        field = self._draw(st.sampled_from(["item", "a", "n", "l"]))
        return Copy(field) if odds(self._draw, 50) else Lit(self._draw(st.sampled_from(LITERALS["any"])))

    def _child(self, name: str, depth: int) -> Child:
        offered = self._children if self._children and not odds(self._draw, 4) else ["nowhere"]
        given = {}
        for field in self._draw(st.lists(st.sampled_from(self._fields), max_size=3, unique=True)):
            given[field] = Copy(field) if odds(self._draw, 50) else self._value(field)
        then = self._act(self._ending(name, depth - 1))
        if odds(self._draw, 70):
            then = Act(then.end, {**then.writes, "a": Answered()}, then.turns, then.sleep_ms)
        caught = None
        if odds(self._draw, 60):
            caught = Act(self._ending(name, depth - 1), {"s": Answered()})
        return Child(self._draw(st.sampled_from(offered)), given, then, caught)


@st.composite
def states(draw: Draw) -> dict[str, Any]:
    """An initial state."""
    state: dict[str, Any] = {}
    for field, kind in FIELDS.items():
        if odds(draw, 60):
            state[field] = draw(st.sampled_from(LITERALS[kind if not odds(draw, 3) else "any"]))
    for field in ARRAYS:
        if odds(draw, 90):
            state[field] = draw(st.sampled_from(ELEMENTS)) if not odds(draw, 4) else draw(st.sampled_from([None, 1]))
    return state


@st.composite
def examples(draw: Draw, features: frozenset[str] = EVERYTHING, fragile: int = 0) -> Example:
    """An example whose parts fit together; what is not in `features` is left out of it.

    `fragile`: so many tasks of a hundred fail until they are mended; then the flow is taken up again from one of its steps.
    """
    root = draw(sketches("root", "n"))
    children = []
    if SUBGRAPHS in features:
        names = ["first", "second"][: draw(st.sampled_from([1, 2, 0]))]
        children = [draw(sketches(name, name[0], 5, 2)) for name in names]
    sketched = [root, *children]
    behaviours = {
        sketch.graph.name: TaskSketch(
            draw, sketch, [later.graph.name for later in sketched[at + 1 :]], features, fragile
        ).behaviours()
        for at, sketch in enumerate(sketched)
    }
    breakpoints: list[str] = []
    overrides: dict[str, Any] = {}
    if BREAKPOINTS in features and odds(draw, 30):
        where = [name for sketch in (children if odds(draw, 50) else sketched) for name in _breakable(sketch.graph)]
        breakpoints = draw(st.lists(st.sampled_from([*where, "task.shared"]), min_size=1, max_size=3, unique=True))
        overrides = draw(_overrides([*FIELDS, *ARRAYS]))
    encore = None
    if fragile:
        encore = draw(rewindings())
    elif ENCORES in features and odds(draw, 60):
        encore = draw(st.one_of(rewindings(), repetitions()))
    return Example(
        root.graph.to_values(),
        behaviours,
        draw(states()),
        [child.graph.to_values() for child in children],
        breakpoints,
        overrides,
        draw(st.sampled_from([0, 0, 50, 300])),
        encore,
    )


@st.composite
def rewindings(draw: Draw) -> Encore:
    """From one of its steps, often from one that failed, and with what it takes."""
    overrides = draw(_overrides(["n", "f", "a", "item", "xs"]))
    if odds(draw, 80):
        overrides["mended"] = True
    return Encore(draw(st.sampled_from(["restart_from", "fork"])), overrides, draw(st.integers(0, 50)), odds(draw, 40))


@st.composite
def repetitions(draw: Draw) -> Encore:
    """The whole of it again, or another round."""
    return Encore(draw(st.sampled_from(["restart", "continue"])), draw(states()))


def _overrides(fields: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(fields), st.sampled_from([1, None, True, [1, 2]]), max_size=2)


def _breakable(graph: Graph) -> list[str]:
    """The names of the nodes, and the urls that belong to one node only, whatever the graph."""
    return [*graph.nodes, *(node.url for node in graph.nodes.values() if node.url.startswith(f"task.{node.name}"))]
