"""The behaviour of tasks, read from choices for a graph; and whole examples."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from dwarf_nats.workflow.graph import Graph, Node
from dwarf_nats.workflow.nodes import COMPENSATION_RETRY
from dwarf_nats.workflow.tags import TagValue
from tests.model import graphs
from tests.model.behaviours import (
    Act,
    Answered,
    Ask,
    Await,
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
from tests.model.choices import Choices
from tests.model.example import Bound, Crowd, Encore, Example
from tests.model.graphs import ARRAYS, FIELDS, Sketch

LITERALS: dict[str, list[Any]] = {
    "number": [1, 0, 2, 3, -1, 0.5, 1.0, 2.5, 9007199254740993],
    "array": [[], [1], [1, 2], [2, 1, 2], ["x"], [{"k": 1}], [[1], 1.0, None]],
    "object": [{}, {"k": 1}, {"k": 2, "j": [1]}, {"k": None}, {"z": {"k": 3}}],
    "boolean": [True, False],
    "string": ["x", "", "y", "é✓"],
    "any": [1, "x", [1], {"k": 1}, True, 0.5],
}
ELEMENTS: list[list[Any]] = [[1], [1, 2], [0, 1, 2], [], [2, 2], [2, 1], ["x", 1], [{"k": 1}], [None, 1], [[1, 2], [3]]]
SPECIAL: list[tuple[str, Any]] = [("item", 1), ("itemIndex", 0), ("it", 2), ("n", 1), ("f", True), ("a", None)]
CHOICES = 60
"""As many as a task may take."""
CROWD_CHOICES = 60
"""As many as tags, limits and flows at once may take."""
NODES = 30
"""As many as get some; tasks beyond do nothing."""
DEPTH = 2
"""How often an execution may go on after an interrupt or child; once too often, for a step parks once only (X4)."""
TAGGED = 5
"""Nodes of a graph whose tasks may set tags: a flow has at most 32 of them."""
CLASHES = [
    ["goto", "retry"],
    ["goto", "interrupt"],
    ["goto", "wait"],
    ["retry", "wait"],
    ["retry", "interrupt"],
    ["retry", "subgraph"],
    ["goto", "retry", "subgraph"],
]
EVENT_KEYS = ("", "k", "1")
"""Keys of the events that tasks wait for."""
TURNS = [0, 0, 0, 1, 3, 20, 100]
TAG_VALUES: list[str | int | None] = ["x", 1, "é", None]


class TaskSketch:
    """Behaviours for the nodes of one graph."""

    def __init__(self, choices: Choices, sketch: Sketch, children: list[str], fragile: int) -> None:
        self._whole = choices
        self._tape = choices
        self._graph = sketch.graph
        self._loops = sketch.loops
        self._children = children
        self._fragile = fragile
        self._failing = 20 if sketch.graph.compensates else 2
        self._calm = False
        self._tagging = 0
        self._tag = ""
        self._fields = [*FIELDS, *ARRAYS]

    def behaviours(self, tagging: int = 0) -> dict[str, Behaviour]:
        """`tagging`: so many executions of a hundred of some nodes set a tag."""
        self._tagging = tagging
        found = {}
        for at, name in enumerate(self._graph.nodes):
            self._tape = self._whole.cut(CHOICES)
            self._tag = f"{self._graph.name}_{name}" if at < TAGGED else ""
            found[name] = self._behaviour(name)
        for at, node in enumerate(self._graph.compensations.values()):
            self._tape = self._whole.cut(CHOICES)
            self._tag = f"{self._graph.name}_undo{at}" if at < TAGGED else ""
            found[node.name] = self._compensation(node)
        return found

    def _compensation(self, node: Node) -> Behaviour:
        """Mostly it succeeds; one without a short policy fails for good or not at all."""
        policy = node.retry or COMPENSATION_RETRY
        short = policy.max_attempts is not None and policy.max_attempts < 10 and not policy.codes
        final: dict[str, Any] = {} if short else {"final": True}
        kinds: list[Ending] = [Done()] * 6
        kinds += [Fail("boom 1", 500, final), Fail("boom 2", 402, {"final": True})]
        kinds += [Retry(2, 0), Retry(1, 0), Retry(3, 0, error=Fail("boom 1", 500, final))]
        if short:
            kinds += [Ask(Lit(1), Act()), Await("k", Act()), Clash(["goto"], "nowhere")]
        return Behaviour([self._act(self._tape.pick(kinds)), self._act(self._tape.pick(kinds[:8]))])

    def _behaviour(self, name: str) -> Behaviour:
        if not self._fragile:
            return self._ordinary(name)
        ordinary = self._ordinary(name)
        if self._tape.odds(self._fragile):
            ordinary = Behaviour([self._act(self._fail())])
        self._calm = True
        mended = Special("mended", True, [self._act(self._ending(name, DEPTH))])
        self._calm = False
        return Behaviour(ordinary.acts, [mended, *ordinary.specials])

    def _ordinary(self, name: str) -> Behaviour:
        specials = []
        if self._tape.odds(25):
            field, equals = self._tape.pick(SPECIAL)
            specials.append(Special(field, equals, self._attempts(name)))
        return Behaviour(self._attempts(name), specials)

    def _attempts(self, name: str) -> list[Act]:
        acts = []
        if self._tape.odds(12):
            for _ in range(self._tape.number(1, 2)):
                acts.append(self._act(self._waiting(self._retry(bounded=False))))
        return [*acts, self._act(self._ending(name, DEPTH))]

    def _act(self, end: Ending) -> Act:
        writes = {}
        for _ in range(self._tape.pick([0, 0, 1, 1, 2, 3])):
            field = self._tape.pick(self._fields)
            writes[field] = self._value(field)
        if self._tape.odds(3):
            writes["onErr"] = Lit(self._tape.pick(["mine", None, {"message": "mine", "code": 1, "task": "none"}]))
        turns = self._tape.pick(TURNS)
        sleep_ms = 1 if self._tape.odds(3) else 0
        tags: dict[str, str | int | None] = {}
        if self._tagging and self._tag and self._tape.odds(self._tagging):
            tags = {self._tag: self._tape.pick(TAG_VALUES)}
        return Act(end, writes, turns, sleep_ms, tags)

    def _value(self, field: str) -> Value:
        kind = FIELDS.get(field)
        if kind is None:
            wrong = self._tape.odds(4)
            return Lit("no array" if wrong else self._tape.pick(ELEMENTS))
        if self._tape.odds(3):
            kind = "any"
        match self._tape.pick(["lit"] * 6 + ["plus"] * 2 + ["copy", "copy", "delete", "answered"]):
            case "plus" if kind == "number":
                return Plus(field, self._tape.pick([1, 2, -1, 0.5]))
            case "copy":
                alike = [name for name, other in FIELDS.items() if other == kind or kind == "any"]
                return Copy(self._tape.pick([*alike, "item"]))
            case "delete":
                return Lit(None)
            case "answered" if kind == "any":
                return Answered()
        return Lit(self._tape.pick(LITERALS[kind]))

    # -- endings

    def _ending(self, name: str, depth: int) -> Ending:
        edges = self._graph.leaving(name)
        if name in self._loops and not self._tape.odds(10):
            return Loop(self._loops[name], f"round_{name}", self._tape.number(1, 2))
        kinds = ["done"] * 200
        if not self._calm:
            kinds += ["fail"] * (50 if any(edge.on_error for edge in edges) else self._failing)
            kinds += ["goto"] * (50 if any(edge.goto for edge in edges) else 1)
            kinds += ["retry"] * (2 if depth == DEPTH else 30) + ["clash"] * 3 + ["unstorable"]
        if depth:
            kinds += ["ask"] * (20 if depth == DEPTH else 6)
            kinds += ["await"] * (12 if depth == DEPTH else 4)
            kinds += ["child"] * (30 if self._children and depth == DEPTH else 3 if self._children else 1)
        match self._tape.pick(kinds):
            case "fail":
                return self._fail()
            case "goto":
                return self._goto(name)
            case "retry":
                return self._retry(bounded=True)
            case "ask":
                return Ask(self._payload(), self._act(self._ending(name, depth - 1)))
            case "await":
                return Await(self._tape.pick(EVENT_KEYS), self._act(self._ending(name, depth - 1)))
            case "child":
                return self._child(name, depth)
            case "clash":
                wishes = self._tape.pick(CLASHES)
                return Clash(wishes, self._target(name))
            case "unstorable":
                return Unstorable()
        return Done()

    def _fail(self) -> Fail:
        code = self._tape.pick([500, 402, 422])
        extra = {"account": [1, {"k": None}]} if self._tape.odds(20) else {}
        return Fail(self._tape.pick(["boom 1", "boom 2", "boom é"]), code, extra)

    def _retry(self, *, bounded: bool) -> Retry:
        error = self._fail() if self._tape.odds(50) else None
        attempts = self._tape.pick([2, 3, 1] if bounded else [None, 4, 4, 3, 3, 2])
        return Retry(attempts, int(self._tape.odds(20)), self._tape.odds(5), error)

    def _waiting(self, end: Ending) -> Ending:
        """Sometimes it waits before that, for a resume or a child, which a retry forgets (X5)."""
        if self._tape.odds(75):
            return end
        if self._children and self._tape.odds(60):
            return Child(self._tape.pick(self._children), {}, Act(end), Act(end))
        return Ask(self._payload(), Act(end))

    def _target(self, name: str) -> str:
        """Mostly where a goto edge leads, by name or by a url no other node has."""
        offered = [edge.target for edge in self._graph.leaving(name) if edge.goto]
        if not offered or self._tape.odds(4):
            return str(self._tape.pick([*self._graph.nodes, "nowhere", "END"]))
        target = str(self._tape.pick(offered))
        if target in self._graph.nodes and self._tape.odds(25):
            url = self._graph.nodes[target].url
            found = self._graph.find_node(url)
            if found is not None and found.name == target:
                return url
        return target

    def _goto(self, name: str) -> Ending:
        """A goto that may lead back is bounded."""
        target = self._target(name)
        return Loop(target, f"went_{name}", self._tape.number(1, 2))

    def _payload(self) -> Value:
        field = self._tape.pick(["item", "a", "n", "l"])
        return Copy(field) if self._tape.odds(50) else Lit(self._tape.pick(LITERALS["any"]))

    def _child(self, name: str, depth: int) -> Child:
        offered = self._children if self._children and not self._tape.odds(4) else ["nowhere"]
        given = {}
        for field in self._tape.some(self._fields, 0, 3):
            given[field] = Copy(field) if self._tape.odds(50) else self._value(field)
        then = self._act(self._ending(name, depth - 1))
        if self._tape.odds(70):
            then = Act(then.end, {**then.writes, "a": Answered()}, then.turns, then.sleep_ms, then.tags)
        caught = None
        if self._tape.odds(60):
            caught = Act(self._ending(name, depth - 1), {"s": Answered()})
        return Child(self._tape.pick(offered), given, then, caught)


# -- examples


def examples(
    fragile: int = 0, *, cut: bool = False, acting: int = 0, undoing: int = 0, crowded: bool = False
) -> st.SearchStrategy[Example]:
    """Examples whose parts fit together.

    `fragile`: so many more tasks of a hundred fail until they are mended, which helps against most failures; then the flow is
    taken up again from one of its steps. `cut`: it is cancelled on the way, and forked from one of them. `acting`: so many
    nodes of a hundred ask no task. `undoing`: so many are compensated, and more flows fail. `crowded`: tasks set tags, and
    several such flows run at once under limits.
    """
    size = 2 * (3 * graphs.CHOICES + NODES * CHOICES + 100 + CROWD_CHOICES)
    return st.binary(min_size=size, max_size=size).map(
        lambda text: example(Choices(text), fragile, cut=cut, acting=acting, undoing=undoing, crowded=crowded)
    )


def example(
    choices: Choices, fragile: int, *, cut: bool = False, acting: int = 0, undoing: int = 0, crowded: bool = False
) -> Example:
    """The example that the choices describe."""
    crowding = choices.cut(CROWD_CHOICES) if crowded else None
    rest = choices.cut(100)
    names = ["first", "second"][: rest.pick([0, 1, 1, 2, 2])]
    root = graphs.sketch(choices, children=names, acting=acting, undoing=undoing)
    children = [
        graphs.sketch(
            choices, name, rest.pick([name[0], "n"]), 5, 2, children=names[at:], acting=acting, undoing=undoing
        )
        for at, name in enumerate(names, 1)
    ]
    sketched = [root, *children]
    behaviours = {
        sketch.graph.name: TaskSketch(
            choices, sketch, [later.graph.name for later in sketched[at + 1 :]], fragile
        ).behaviours(40 if crowded else 0)
        for at, sketch in enumerate(sketched)
    }
    state = _state(rest)
    breakpoints: list[str] = []
    overrides: dict[str, Any] = {}
    if rest.odds(30):
        where = [name for sketch in (children if rest.odds(50) else sketched) for name in _breakable(sketch.graph)]
        breakpoints = rest.some([*where, "task.shared"], 1, 3)
        overrides = _overrides(rest, [*FIELDS, *ARRAYS])
    patience = rest.pick([0, 0, 50, 300])
    encore = None
    if fragile or rest.odds(60):
        encore = _rewinding(rest) if fragile or rest.odds(60) else _repetition(rest)
    early = rest.some(EVENT_KEYS, 0, 2)
    if cut:
        encore = _cancelled(_rewinding(rest), rest)
        breakpoints = []
    tags: dict[str, TagValue] = {}
    crowd = None
    if crowding is not None:
        tags = {
            name: crowding.pick(["x", 7, "é"])
            for name in crowding.some([f"root_{root.graph.entry_point}", "own"], 0, 2)
        }
        crowd = _crowd(crowding, [sketch.graph for sketch in sketched]) if crowding.odds(75) else None
    return Example(
        root.graph.to_values(),
        behaviours,
        state,
        [child.graph.to_values() for child in children],
        breakpoints,
        early,
        overrides,
        patience,
        None if crowd is not None else encore,
        tags,
        crowd,
    )


def _crowd(choices: Choices, made: list[Graph]) -> Crowd:
    """Some flows at once, and limits on what they do."""
    urls = sorted(
        {node.url for graph in made for node in (*graph.nodes.values(), *graph.compensations.values())} - {""}
    )
    keys = [choices.pick(["", "a", "b"]) for _ in range(choices.number(2, 6))]
    bounds = []
    for _ in range(choices.number(1, 4)):
        task = "" if choices.odds(25) or not urls else str(choices.pick(urls))
        by = choices.pick(["", "", "fairnessKey", "tag:key"])
        if choices.odds(20):
            burst = choices.pick([1, 1, 3, None])
            bounds.append(Bound(task, by, None, choices.pick([40.0, 25.0]), burst))
            continue
        rate = 1000.0 if choices.odds(10) else None
        later = choices.pick([1, 4, 0]) if choices.odds(25) else None
        bounds.append(Bound(task, by, choices.pick([1, 1, 2, 3]), rate, later=later))
    held = str(choices.pick(["", *urls])) if choices.odds(30) else None
    return Crowd(keys, bounds, held, choices.pick([0, 2, 5, 12] if held is None else [3, 1, 10]))


def _state(choices: Choices) -> dict[str, Any]:
    """An initial state."""
    state: dict[str, Any] = {}
    for field, kind in FIELDS.items():
        if choices.odds(60):
            state[field] = choices.pick(LITERALS["any" if choices.odds(3) else kind])
    for field in ARRAYS:
        if choices.odds(90):
            state[field] = choices.pick([None, 1]) if choices.odds(4) else choices.pick(ELEMENTS)
    return state


def _rewinding(choices: Choices) -> Encore:
    """From one of its steps, often from one that failed or before that, and with what it takes."""
    overrides = _overrides(choices, ["n", "f", "a", "item", "xs"])
    if choices.odds(80):
        overrides["mended"] = True
    kind = choices.pick(["restart_from", "fork"])
    encore = Encore(kind, overrides, choices.number(0, 50), choices.odds(70))
    if choices.odds(33):
        return _cancelled(encore, choices)
    return encore


def _cancelled(encore: Encore, choices: Choices) -> Encore:
    """Cut off on the way, often while somebody is to be asked."""
    cut = choices.number(1, 12)
    return msgspec.structs.replace(encore, kind="cancelled fork", cut=cut, paused=choices.odds(40))


def _repetition(choices: Choices) -> Encore:
    """The whole of it again, or another round."""
    return Encore(choices.pick(["restart", "continue"]), _state(choices))


def _overrides(choices: Choices, fields: list[str]) -> dict[str, Any]:
    return {field: choices.pick([1, None, True, [1, 2]]) for field in choices.some(fields, 0, 2)}


def _breakable(graph: Graph) -> list[str]:
    """The names of the nodes, and the urls that belong to one node of a graph only."""
    return [*graph.nodes, *(node.url for node in graph.nodes.values() if node.url == f"task.{node.name}")]
