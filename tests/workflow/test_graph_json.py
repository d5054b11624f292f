"""Graphs as JSON: G8."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.graph import END, Graph, Transition
from dwarf_nats.workflow.reducers import ReducerKind

FULL: dict[str, Any] = {
    "name": "orders",
    "entryPoint": "b",
    "tasks": [{"name": "a", "url": "task.a"}, {"name": "b", "url": "b", "fanIn": True}],
    "transitions": [
        {"from": "b", "to": "a", "when": "x > 1"},
        {"from": "b", "to": "a", "when": "true", "switch": True},
        {"from": "b", "to": "END", "withGoto": True},
        {"from": "a", "to": "b", "forEach": "rows", "as": "row"},
        {"from": "a", "to": "END", "onError": True},
    ],
    "reducers": {"total": "add"},
    "annotations": {"a": "first"},
}


def test_g8_every_key_is_read_and_written() -> None:
    graph = Graph.from_json(json.dumps(FULL))
    assert graph.entry_point == "b"
    assert graph.nodes["a"].url == "task.a"
    assert graph.nodes["b"].fan_in
    assert graph.transitions == [
        Transition("b", "a", when="x > 1"),
        Transition("b", "a", when="true", switch=True),
        Transition("b", END, goto=True),
        Transition("a", "b", for_each="rows", as_="row"),
        Transition("a", END, on_error=True),
    ]
    assert graph.reducers == {"total": ReducerKind.ADD}
    assert graph.annotations == {"a": "first"}
    assert json.loads(graph.to_json()) == FULL


def test_g8_absent_keys_are_defaults() -> None:
    graph = Graph.from_json(
        b'{"name":"g","tasks":[{"name":"a"}],"transitions":[{"from":"a","to":"END"},{"from":"a","to":"a","forEach":"x"}]}'
    )
    assert graph.entry_point == "a"
    assert graph.nodes["a"].url == "a"
    assert graph.transitions == [Transition("a", END), Transition("a", "a", for_each="x", as_="item")]


def test_g8_null_counts_as_absent() -> None:
    text = b'{"name":"g","entryPoint":null,"tasks":[{"name":"a","url":null,"fanIn":null}],"transitions":null}'
    assert Graph.from_json(text) == Graph.from_json(b'{"name":"g","tasks":[{"name":"a"}]}')


def test_g8_fan_out_to_fan_in_is_accepted_and_never_read() -> None:
    graph = Graph.from_json(b'{"name":"g","tasks":[{"name":"a"}],"fanOutToFanIn":{"no":"such"}}')
    assert b"fanOutToFanIn" not in graph.to_json()


def test_g8_the_same_graph_gives_the_same_bytes_in_any_order_of_keys() -> None:
    backwards = dict(reversed(FULL.items()))
    assert Graph.from_values(backwards).to_json() == Graph.from_values(FULL).to_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", ["not valid JSON"]),
        (b"[]", ["object", "array"]),
        (b'{"name":"g","task":[]}', ["'g'", "'task'", "'tasks'"]),
        (b'{"name":"g","entrypoint":"a"}', ["'entrypoint'", "'entryPoint'"]),
        (b'{"name":"g","tasks":[{"name":"a","fanin":true}]}', ["tasks[0]", "'fanin'", "'fanIn'"]),
        (b'{"name":"g","tasks":[{"name":"a"}],"transitions":[{"from":"a","too":"END"}]}', ["'too'", "'to'"]),
        (b'{"name":"g","tasks":[{"name":"a"}],"transitions":[{"from":"a","to":"b"}]}', ["'b'", "not declared"]),
        (b'{"name":"g","tasks":[{"name":"a"}],"transitions":[{"from":"","to":"a"}]}', ["'from'", "not declared"]),
        (
            b'{"name":"g","tasks":[{"name":"a","url":"u"}],"transitions":[{"from":"u","to":"a"}]}',
            ["'u'", "not declared"],
        ),
        (b'{"name":"g","tasks":[{"name":"a"},{"name":"a"}]}', ["'a'", "declared twice"]),
        (b'{"name":"g","tasks":[{"name":"abc"}],"entryPoint":"abd"}', ["'abd'", "did you mean 'abc'?"]),
        (b'{"name":"g","tasks":[{"name":"a"}],"annotations":{"b":"x"}}', ["annotation", "'b'"]),
        (b'{"name":"g","reducers":{"x":"ddd"}}', ["'ddd'", "'x'", "'add'"]),
        (b'{"name":"g","reducers":{"x":1}}', ["'x'", "number"]),
        (b'{"name":"g","reducers":[]}', ["'reducers'", "object", "array"]),
        (b'{"name":1}', ["'name'", "string", "number"]),
        (b'{"name":"g","tasks":{}}', ["'tasks'", "array", "object"]),
        (b'{"name":"g","tasks":["a"]}', ["tasks[0]", "object", "string"]),
        (b'{"name":"g","tasks":[{"name":"a","fanIn":"yes"}]}', ["'fanIn'", "true or false", "string"]),
        (
            b'{"name":"g","tasks":[{"name":"a"}],"transitions":[{"from":"a","to":"END","when":true}]}',
            ["'when'", "boolean"],
        ),
        (b'{"name":"\\ud800"}', ["not valid JSON"]),
    ],
)
def test_g8_what_the_schema_does_not_know_is_refused_by_name(text: bytes, words: list[str]) -> None:
    with pytest.raises(BadRequest) as refusal:
        Graph.from_json(text)
    for word in words:
        assert word in refusal.value.message


def test_g8_a_task_named_end_is_refused_by_validation() -> None:
    with pytest.raises(BadRequest, match="END"):
        Graph.from_json(b'{"name":"g","tasks":[{"name":"END"}],"transitions":[]}').validate()


def test_g8_what_is_no_text_cannot_be_written() -> None:
    graph = Graph("g")
    graph.add_task("a\ud800")
    with pytest.raises(BadRequest):
        graph.to_json()


NAMES = st.text(min_size=1, max_size=6).filter(lambda name: name != END and name.isprintable())


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph = Graph(draw(NAMES))
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    for name in names:
        graph.add_task(name, draw(st.none() | NAMES))
        if draw(st.booleans()):
            graph.set_fan_in(name)
        if draw(st.booleans()):
            graph.annotate(name, draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)))
    ends = st.sampled_from([*names, END])
    for _ in range(draw(st.integers(0, 5))):
        graph.add_transition(
            draw(ends),
            draw(ends),
            when=draw(st.sampled_from(["", "x > 1"])),
            switch=draw(st.booleans()),
            goto=draw(st.booleans()),
            for_each=draw(st.sampled_from(["", "rows"])),
            as_=draw(st.sampled_from(["", "item", "row"])),
            on_error=draw(st.booleans()),
        )
    if draw(st.booleans()):
        graph.set_entry_point(draw(st.sampled_from(names)))
    for field in draw(st.sets(NAMES, max_size=2)):
        graph.set_reducer(field, draw(st.sampled_from(list(ReducerKind))))
    return graph


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_g8_the_round_trip_is_exact(graph: Graph) -> None:
    text = graph.to_json()
    again = Graph.from_json(text)
    assert again.to_json() == text
    assert again.name == graph.name
    assert again.entry_point == graph.entry_point
    assert list(again.nodes.items()) == list(graph.nodes.items())
    assert again.transitions == graph.transitions
    assert again.reducers == graph.reducers
    assert again.annotations == graph.annotations
    assert all(again.leaving(name) == graph.leaving(name) for name in graph.nodes)
