"""The lineage check: G7."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.graph import END, Graph


def graph_of(*edges: str, fan_in: str = "") -> Graph:
    """Edges as `a b`, `a b goto`, `a b error`, `a b each`, `a b when`, `a b switch`; fan-in names separated by spaces."""
    graph = Graph("g")
    for edge in edges:
        source, target, *kind = edge.split()
        match kind:
            case ["goto"]:
                graph.add_transition_goto(source, target)
            case ["error"]:
                graph.add_transition_on_error(source, target)
            case ["each"]:
                graph.add_transition_for_each(source, target, "rows")
            case ["when"]:
                graph.add_transition_when(source, target, "x")
            case ["switch"]:
                graph.add_transition_switch(source, target, "true")
            case _:
                graph.add_transition(source, target)
    for name in fan_in.split():
        graph.set_fan_in(name)
    return graph


DIAMOND = ("s a", "s b", "a f", "b f", "f END")
SOUND: dict[str, tuple[Graph, dict[str, str]]] = {
    "a line": (graph_of("a b", "b END"), {}),
    "a diamond": (graph_of(*DIAMOND, fan_in="f"), {"s": "f"}),
    "for_each": (graph_of("s a each", "a f", "f END", fan_in="f"), {"s": "f"}),
    "when and plain": (graph_of("s a when", "s b", "a f", "b f", "f END", fan_in="f"), {"s": "f"}),
    "an edge straight to the fan-in is net zero": (graph_of("s a", "s f", "a f", "f END", fan_in="f"), {"s": "f"}),
    "for_each straight to the fan-in": (graph_of("s f each", "f END", fan_in="f"), {"s": "f"}),
    "nested": (
        graph_of("s a", "s b", "a c each", "c g", "g f", "b f", "f END", fan_in="f g"),
        {"s": "f", "a": "g"},
    ),
    "a fan-in that fans out again": (
        graph_of(*DIAMOND[:4], "f c", "f d", "c h", "d h", "h END", fan_in="f h"),
        {"s": "f", "f": "h"},
    ),
    "two fan-outs that share a fan-in": (
        graph_of("p s switch", "p t switch", "s a each", "t b each", "a f", "b f", "f END", fan_in="f"),
        {"s": "f", "t": "f"},
    ),
    "a loop back to the source after the fan-in": (
        graph_of(*DIAMOND[:4], "f s switch", "f END switch", fan_in="f"),
        {"s": "f"},
    ),
    "an error handler inside a branch": (graph_of(*DIAMOND, "a h error", "h f", fan_in="f"), {"s": "f"}),
    "an error edge from a branch to the fan-in": (graph_of(*DIAMOND, "a f error", fan_in="f"), {"s": "f"}),
    "a loop inside a branch": (
        graph_of("s a", "s b", "a a2", "a2 a switch", "a2 f switch", "b f", "f END", fan_in="f"),
        {"s": "f"},
    ),
    "a bypass to END": (graph_of(*DIAMOND, "s END goto", fan_in="f"), {"s": "f"}),
    "a bypass to the fan-in itself": (graph_of(*DIAMOND, "s f goto", "s f error", fan_in="f"), {"s": "f"}),
    "a bypass along a path of its own": (graph_of(*DIAMOND, "s h error", "h END", fan_in="f"), {"s": "f"}),
    "a bypass back to before the source": (graph_of("p s", *DIAMOND, "s p goto", fan_in="f"), {"s": "f"}),
    "a bypass back to the source itself": (graph_of(*DIAMOND, "s s goto", fan_in="f"), {"s": "f"}),
    "a bypass through a loop back": (graph_of(*DIAMOND, "s h goto", "h s", fan_in="f"), {"s": "f"}),
    "a nested bypass to the outer fan-in": (
        graph_of("s a", "s b", "a c each", "c g", "g f", "b f", "f END", "a f error", fan_in="f g"),
        {"s": "f", "a": "g"},
    ),
    "a bypass of both": (
        graph_of("s a", "s b", "a c each", "c g", "g f", "b f", "f END", "a g goto", "s f goto", fan_in="f g"),
        {"s": "f", "a": "g"},
    ),
    "a branch that can stop short": (graph_of(*DIAMOND, "b dead goto", fan_in="f"), {"s": "f"}),
}
UNSOUND: dict[str, tuple[Graph, list[str]]] = {
    "entering a fan-in with nothing open": (graph_of("a f", "f END", fan_in="f"), ["'f'", "no fan-out open"]),
    "a fan-in as the entry point": (graph_of("f END", fan_in="f"), ["'f'", "entry point"]),
    "END with a fan-out open": (graph_of("s a", "s b", "a END", "b END"), ["END", "'s'", "set_fan_in"]),
    "END straight from the source": (graph_of("s a", "s END", "a f", "f END", fan_in="f"), ["END", "'s'"]),
    "END from an error edge in a branch": (graph_of(*DIAMOND, "a END error", fan_in="f"), ["END", "'a'", "'s'"]),
    "two stacks": (graph_of("p s switch", "p a switch", *DIAMOND, fan_in="f"), ["'a'", "alias node", "same url"]),
    "no fan-in downstream": (
        graph_of("s a", "s b", "a b2", "b2 a switch", "b a", "s END goto"),
        ["'s'", "no fan-in", "set_fan_in"],
    ),
    "different fan-ins": (
        graph_of("s a", "s b", "a f", "b g", "f END", "g END", fan_in="f g"),
        ["'s'", "'f'", "'g'", "two fan-ins"],
    ),
    "a branch that loops back before its fan-out": (graph_of("p s", *DIAMOND, "a p goto", fan_in="f"), ["alias node"]),
    "a bypass into a branch": (graph_of(*DIAMOND, "s a goto", fan_in="f"), ["'s' -> 'a'", "into a branch", "alias"]),
    "a bypass deep into a branch": (
        graph_of("s a", "s b", "a c", "c f", "b f", "f END", "s c error", fan_in="f"),
        ["'s' -> 'c'", "into a branch"],
    ),
    "a bypass onto a path to the fan-in": (
        graph_of(*DIAMOND, "s h goto", "h f", fan_in="f"),
        ["'s' -> 'h'", "'f' it bypassed"],
    ),
    "a bypass onto another fan-out with that fan-in": (
        graph_of(*DIAMOND, "s t goto", "t c each", "c f", fan_in="f"),
        ["'s' -> 't'", "'f' it bypassed"],
    ),
    "a nested branch that skips its fan-in": (
        graph_of("s a", "s b", "a c each", "c g", "g f", "b f", "f END", "c f goto", fan_in="f g"),
        ["'a'", "two fan-ins"],
    ),
}


@pytest.mark.parametrize("case", SOUND)
def test_g7_accepts_and_yields_the_fan_in_of_each_source(case: str) -> None:
    graph, fan_ins = SOUND[case]
    graph.validate()
    assert graph.fan_in_of() == fan_ins


@pytest.mark.parametrize("case", UNSOUND)
def test_g7_refuses_and_names_the_nodes_and_the_remedy(case: str) -> None:
    graph, words = UNSOUND[case]
    with pytest.raises(BadRequest) as refusal:
        graph.fan_in_of()
    assert refusal.value.message.startswith("graph 'g': ")
    assert all(word in refusal.value.message for word in words)
    with pytest.raises(BadRequest):
        graph.validate()


class Maker:
    """Builds graphs that converge by construction, and remembers where."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.graph = Graph("g")
        self.fan_ins: dict[str, str] = {}
        self.count = 0

    def name(self) -> str:
        self.count += 1
        name = f"n{self.count}"
        self.graph.add_task(name)
        return name

    def block(self, depth: int) -> tuple[str, str]:
        """A piece of graph with one way in and one way out."""
        kind = self.draw(st.sampled_from(["node", "chain", "fan-out", "switch", "each"] if depth else ["node"]))
        if kind == "node":
            name = self.name()
            return name, name
        if kind == "chain":
            first, second = self.block(depth - 1), self.block(depth - 1)
            self.graph.add_transition(first[1], second[0])
            return first[0], second[1]
        source, target = self.name(), self.name()
        for _ in range(1 if kind == "each" else self.draw(st.integers(2, 3))):
            way_in, way_out = self.block(depth - 1)
            if kind == "switch":
                self.graph.add_transition_switch(source, way_in, "x > 1")
            elif kind == "each":
                self.graph.add_transition_for_each(source, way_in, "rows")
            else:
                self.graph.add_transition(source, way_in)
            self.graph.add_transition(way_out, target)
        if kind != "switch":
            self.graph.set_fan_in(target)
            self.fan_ins[source] = target
            if self.draw(st.booleans()):
                self.graph.add_transition_goto(source, target)
        return source, target


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_g7_whatever_converges_by_construction_is_accepted_with_its_fan_ins(data: st.DataObject) -> None:
    maker = Maker(data.draw)
    way_in, way_out = maker.block(depth=3)
    maker.graph.set_entry_point(way_in)
    maker.graph.add_transition(way_out, END)
    maker.graph.validate()
    assert maker.graph.fan_in_of() == maker.fan_ins
    assert Graph.from_json(maker.graph.to_json()) == maker.graph
    if maker.fan_ins:
        unmarked = data.draw(st.sampled_from(sorted(maker.fan_ins.values())))
        maker.graph.nodes[unmarked].fan_in = False
        with pytest.raises(BadRequest):
            maker.graph.validate()


EDGES = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.sampled_from(["a", "b", "c", "d", "e", "f", END]),
        st.sampled_from(["", "goto", "error", "each", "when", "switch"]),
    ),
    max_size=9,
)


@given(EDGES, st.sets(st.sampled_from("abcdef"), max_size=2))
@settings(max_examples=150, deadline=None)
def test_g6_any_graph_at_all_is_either_accepted_or_refused_with_a_message(
    edges: list[tuple[str, str, str]], fan_ins: set[str]
) -> None:
    graph = graph_of(*(" ".join(edge) for edge in edges), fan_in=" ".join(sorted(fan_ins)))
    try:
        graph.validate()
    except BadRequest as refusal:
        if not refusal.message.startswith("graph 'g': "):
            raise
        return
    sources = {name for name in graph.nodes if graph.is_fan_out(name)}
    assert graph.fan_in_of().keys() == sources
    assert all(graph.nodes[fan_in].fan_in for fan_in in graph.fan_in_of().values())
