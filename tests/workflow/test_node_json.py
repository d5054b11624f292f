"""Nodes of any kind with any policies as JSON: the round trip, and what is left out (G8)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.nodes import (
    AskPerson,
    Compensation,
    Defaults,
    Field,
    PublishMessage,
    RetryPolicy,
    RunWorkflow,
    SendRequest,
    SetFields,
    Sleep,
    WaitForEvent,
)


def _graph(*nodes: dict[str, Any], **more: Any) -> Graph:
    return Graph.from_values({"name": "order", "tasks": list(nodes), **more})


def test_g8_default_values_are_left_out() -> None:
    node = {
        "name": "a",
        "wait": {"event": "e", "key": "", "timeoutMs": None},
        "into": "",
        "timeoutMs": None,
        "retry": {"initialDelayMs": 100, "multiplier": 2, "maxDelayMs": 60000, "jitter": 0, "codes": []},
    }
    graph = _graph(node, fields={"x": None}, defaults={})
    assert json.loads(graph.to_json()) == {
        "name": "order",
        "entryPoint": "a",
        "fields": {"x": {}},
        "tasks": [{"name": "a", "wait": {"event": "e"}, "retry": {}}],
        "transitions": [],
    }


def test_g8_a_payload_that_is_null_is_no_payload_left_out() -> None:
    given, left_out = (_graph({"name": "a", "request": {"subject": "s", **one}}) for one in ({"payload": None}, {}))
    assert given != left_out
    action = left_out.nodes["a"].action
    assert isinstance(action, SendRequest)
    assert action.payload is msgspec.UNSET


def test_g8_equal_templates_have_equal_bytes_in_any_order_of_keys() -> None:
    one, other = (
        _graph({"name": "a", "set": {"o": dict(pairs), "p": [dict(pairs)]}})
        for pairs in ([("x", 1), ("y", 2)], [("y", 2), ("x", 1)])
    )
    assert one == other
    assert one.to_json() == other.to_json()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "ü", "="]), inner, max_size=3)
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "c d"]), JSON, max_size=3)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
MILLIS = st.none() | st.integers(0, 10**9)
MESSAGES = {"subject": TEXTS, "payload": JSON | st.just(msgspec.UNSET), "headers": OBJECTS}
ACTIONS = st.one_of(
    st.none(),
    st.builds(SetFields, OBJECTS),
    st.builds(RunWorkflow, TEXTS, OBJECTS),
    st.builds(SendRequest, **MESSAGES),
    st.builds(PublishMessage, **MESSAGES, stream=st.booleans()),
    st.builds(WaitForEvent, event=TEXTS, key=TEXTS, timeout_ms=MILLIS),
    st.builds(AskPerson, payload=JSON, timeout_ms=MILLIS),
    st.builds(Sleep, ms=MILLIS | TEXTS),
    st.builds(Sleep, until=TEXTS),
)
RETRIES = st.none() | st.builds(
    RetryPolicy,
    max_attempts=MILLIS,
    initial_delay_ms=st.integers(0, 10**9),
    multiplier=st.floats(1, 10),
    max_delay_ms=st.integers(0, 10**9),
    give_up_after_ms=MILLIS,
    jitter=st.floats(0, 1),
    codes=st.lists(st.integers(100, 599), max_size=3).map(tuple),
)
COMPENSATIONS = st.one_of(
    st.none(),
    st.builds(Compensation, url=st.text("abc", min_size=1)),
    st.builds(Compensation, action=st.builds(SetFields, OBJECTS) | st.builds(PublishMessage, **MESSAGES)),
)
FIELDS = st.builds(
    Field,
    types=st.lists(st.sampled_from(["string", "integer", "array"]), max_size=2, unique=True).map(tuple),
    required=st.booleans(),
    default=JSON.filter(lambda value: value is not None) | st.just(msgspec.UNSET),
    description=TEXTS,
    sealed=st.booleans(),
)


@given(st.lists(st.tuples(ACTIONS, TEXTS, MILLIS, RETRIES, COMPENSATIONS), min_size=1, max_size=4), st.data())
@settings(max_examples=150, deadline=None)
def test_g8_the_round_trip_of_any_node_is_exact(nodes: list[Any], data: st.DataObject) -> None:
    graph = Graph("g")
    for at, (action, into, timeout, retry, compensate) in enumerate(nodes):
        name = f"n{at}"
        if action is None:
            graph.add_task(name)
        else:
            graph.add_action(name, action)
        node = graph.nodes[name]
        node.into, node.timeout_ms, node.retry, node.compensate = into, timeout, retry, compensate
    graph.defaults = data.draw(st.builds(Defaults, timeout_ms=MILLIS, retry=RETRIES))
    graph.fields.update(data.draw(st.dictionaries(TEXTS, FIELDS, max_size=3)))
    text = graph.to_json()
    again = Graph.from_json(text)
    assert again.to_json() == text
    assert again.nodes == graph.nodes
    assert again.defaults == graph.defaults
    assert again.fields == graph.fields
