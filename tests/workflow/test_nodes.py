"""Kinds of nodes, policies and declared fields: exact round trips, and every refusal with its place (G8, G11, L1, N1-N9)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import fields
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import NodeKind, RetryPolicy, SendRequest
from dwarf_nats.workflow.state import state_from

RETRY = {
    "maxAttempts": 5,
    "initialDelayMs": 200,
    "multiplier": 1.5,
    "maxDelayMs": 9,
    "giveUpAfterMs": 99,
    "jitter": 0.2,
    "codes": [503, -1],
}
NODES: dict[str, dict[str, Any]] = {
    "task": {"url": "a.b", "timeoutMs": 5, "retry": RETRY, "compensate": "undo.it"},
    "set": {"set": {"a": "=n + 1", "b": None, "c": {"d": ["=n", "==x"]}}},
    "workflow": {"workflow": "shipping", "input": {"order": "=n"}, "into": "parcel"},
    "request": {
        "request": {"subject": "='stock.' + sku", "payload": {"q": "=n"}, "headers": {"X-Id": "=sku"}},
        "into": "reserved",
        "compensate": {"request": {"subject": "stock.release", "payload": {"r": "=changes.reserved"}}},
    },
    "bare": {"request": {"subject": "stock.check"}},
    "none": {"request": {"subject": "stock.check", "payload": None}},
    "publish": {"publish": {"subject": "orders.out", "payload": "text", "stream": True}},
    "wait": {"wait": {"event": "payment.settled", "key": "=sku", "timeoutMs": 86400000}, "into": "payment"},
    "ask": {"ask": {"payload": {"question": "='May ' + sku + '?'"}, "timeoutMs": 1000}, "into": "answer"},
    "short": {"ask": {}},
    "sleep": {"sleep": {"ms": 5000}},
    "nap": {"sleep": {"ms": "=n"}},
    "until": {"sleep": {"until": "2026-12-01T08:00:00Z"}},
    "saga": {"set": {}, "compensate": {"set": {"a": "=changes"}}},
    "told": {"set": {}, "compensate": {"publish": {"subject": "undone"}}},
}


def graph_of(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    names = [node["name"] for node in nodes]
    edges = [{"from": a, "to": b} for a, b in zip(names, [*names[1:], END], strict=True)]
    return {"name": "order", "entryPoint": names[0], "tasks": list(nodes), "transitions": edges, **more}


def node(**more: Any) -> dict[str, Any]:
    return graph_of({"name": "quote", **more})


@pytest.mark.parametrize("name", NODES)
def test_a_node_of_each_kind_goes_through_json_unchanged(name: str) -> None:
    """G8: the round trip is exact, and absent is the default."""
    written = graph_of({"name": name, **NODES[name]})
    graph = Graph.from_values(written)
    graph.validate()
    assert graph.to_values() == written
    again = Graph.from_json(graph.to_json())
    assert again == graph
    assert again.nodes == graph.nodes


def test_all_kinds_in_one_graph() -> None:
    graph = Graph.from_values(graph_of(*({"name": name, **values} for name, values in NODES.items())))
    graph.validate()
    assert {one.kind for one in graph.nodes.values()} == set(NodeKind)
    assert graph.nodes["request"].url == "='stock.' + sku"
    assert graph.nodes["wait"].url == "engine:wait"
    assert (graph.nodes["bare"].field, graph.nodes["wait"].field) == ("bare", "payment")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (node(sett={}), r"tasks\[0\]: unknown key 'sett': did you mean 'set'\?"),
        (node(url="a", set={}), "node 'quote': it has 'url' and 'set': a node has one kind"),
        (node(request={"subject": "a"}, wait={"event": "e"}), "it has 'request' and 'wait'"),
        (node(set=None), "node 'quote': 'set' is null"),
        (node(input={}), "node 'quote': 'input' is what a workflow is given"),
        (node(set=[]), "node 'quote': 'set' must be an object, got array"),
        (node(set={"a": {"b": ["=1 +"]}}), r"node 'quote', set\.a\.b\[0\]: the expression '1 \+' is invalid"),
        (node(request={"subjekt": "a"}), "node 'quote', request: unknown key 'subjekt': did you mean 'subject'"),
        (node(request={"subject": 5}), "node 'quote', request: 'subject' must be a string, got"),
        (node(request={"subject": ""}), r"node 'quote', request\.subject: .*it is empty"),
        (node(request={"subject": "a.*"}), r"node 'quote', request\.subject: .*it has a wildcard"),
        (node(request={"subject": "a", "headers": {"A B": "x"}}), r"node 'quote', request\.headers"),
        (node(publish={"subject": "$JS.x"}), r"node 'quote', publish\.subject: .*begins with \$"),
        (node(compensate={"request": {"subject": "a b"}}), r"node 'quote', compensate\.request\.subject: .*space"),
        (node(request={"subject": "=nope("}), r"node 'quote', request\.subject: the expression"),
        (node(request={"subject": "a", "headers": {"X": "=1 +"}}), r"request\.headers\.X: the expression"),
        (node(request={"subject": "a", "payload": {"x y": "=1 +"}}), r"request\.payload\['x y'\]: the expression"),
        (node(publish={"subject": "a", "stream": 1}), "publish: 'stream' must be true or false"),
        (node(workflow="a b"), "node 'quote', workflow: 'a b' is no legal name of a workflow"),
        (node(workflow="a", input={"x": "=1 +"}), r"node 'quote', input\.x: the expression"),
        (node(wait={}), r"node 'quote', wait\.event: '' is no legal name of an event"),
        (node(wait={"event": "e", "key": "k" * 257}), r"wait\.key: it has 257 bytes: shorten it to 256"),
        (node(wait={"event": "e", "timeoutMs": -1}), r"wait\.timeoutMs: it is -1: write 0 to"),
        (node(wait={"event": "e", "timeoutMs": 1.5}), "wait: 'timeoutMs' must be a whole number, got 1.5"),
        (node(ask={"payload": {"a": "=1 +"}}), r"node 'quote', ask\.payload\.a: the expression"),
        (node(sleep={}), "node 'quote', sleep: write exactly one of 'ms' and 'until'"),
        (node(sleep={"ms": 1, "until": "=a"}), "sleep: write exactly one of"),
        (node(sleep={"ms": "soon"}), r"sleep\.ms: 'soon' is neither a number nor an expression"),
        (
            node(sleep={"until": "tomorrow"}),
            r"sleep\.until: 'tomorrow' is no time: write one like 2026-12-01T08:00:00Z",
        ),
        (node(into="x"), "node 'quote', into: it asks a task"),
        (node(set={}, into="x"), "node 'quote', into: a node of this kind brings nothing back"),
        (node(timeoutMs=0), "node 'quote', timeoutMs: it is 0: write 1 to"),
        (node(retry={"attempts": 3}), "node 'quote', retry: unknown key 'attempts'"),
        (
            node(retry={"maxAttempts": 0}),
            r"retry\.maxAttempts: it is 0, and the first execution counts: write 1 or more",
        ),
        (node(retry={"jitter": 2}), r"retry\.jitter: it is 2: write a share from 0 to 1"),
        (node(retry={"multiplier": -1}), r"retry\.multiplier: it is -1"),
        (node(retry={"codes": ["x"]}), r"retry: codes\[0\] must be a whole number"),
        (node(retry={"codes": [2**31]}), r"retry\.codes: 2147483648 is no code"),
        (node(compensate=5), "node 'quote': 'compensate' must be the url of a task, or an object"),
        (node(compensate={}), "compensate: it has nothing: write exactly one of 'request', 'publish' and 'set'"),
        (node(compensate={"set": {}, "request": {"subject": "a"}}), "compensate: it has 'request' and 'set'"),
        (node(compensate="a b"), "node 'quote', compensate: 'a b' is no legal task url"),
        (graph_of({"name": "a"}, defaults={"timeout": 1}), "defaults: unknown key 'timeout': did you mean 'timeoutMs'"),
        (graph_of({"name": "a"}, defaults={"timeoutMs": -1}), r"defaults\.timeoutMs: it is -1"),
        (graph_of({"name": "a"}, defaults={"retry": {"jitter": -1}}), r"defaults\.retry\.jitter: it is -1"),
        (graph_of({"name": "a"}, fields={"n": {"type": "int"}}), "field 'n': unknown type 'int': did you mean"),
        (graph_of({"name": "a"}, fields={"n": "integer"}), "field 'n': it must be an object such as"),
        (
            graph_of({"name": "a"}, fields={"n": {"type": "integer", "default": "x"}}),
            "field 'n', default: it must be an integer",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRequest, match=rf"graph 'order'.*{problem}"):
        Graph.from_values(given).validate()


def test_the_builder_has_every_kind() -> None:
    """The graph is the same as the one read from JSON."""
    graph = Graph("order")
    graph.declare_field("sku", "string", required=True)
    graph.set_defaults(timeout=5, retry=RetryPolicy(max_attempts=3))
    graph.add_set("note", {"total": "=n"})
    graph.add_request("stock", "stock.check", {"sku": "=sku"}, into="reserved")
    graph.add_workflow("ship", "shipping", {"sku": "=sku"})
    graph.add_publish("tell", "orders.out", stream=True)
    graph.add_wait("paid", "payment.settled", "=sku", timeout=60)
    graph.add_ask("approve", {"q": "?"}, timeout=0.5, into="answer")
    graph.add_sleep("nap", 1.5)
    graph.add_sleep("late", until="=due")
    graph.set_retry("stock", 5, 0.2, jitter=0.1, codes=[503])
    graph.set_timeout("stock", 2)
    graph.compensate("stock", SendRequest(subject="stock.release"))
    graph.compensate("ship", "undo.ship")
    graph.add_chain("note", "stock", "ship", "tell", "paid", "approve", "nap", "late", END)
    graph.declare_field("n", "integer", "string", default=1)
    graph.declare_field("due")
    graph.validate()
    values = graph.to_values()
    assert values["tasks"][1] == {
        "name": "stock",
        "request": {"subject": "stock.check", "payload": {"sku": "=sku"}},
        "into": "reserved",
        "timeoutMs": 2000,
        "retry": {"maxAttempts": 5, "initialDelayMs": 200, "jitter": 0.1, "codes": [503]},
        "compensate": {"request": {"subject": "stock.release"}},
    }
    assert values["defaults"] == {"timeoutMs": 5000, "retry": {"maxAttempts": 3}}
    assert Graph.from_values(values) == graph
    graph.set_retry("nothing", 3)
    with pytest.raises(BadRequest, match="a policy is set for 'nothing', which is no node"):
        graph.validate()


# -- fields (G11)

FIELDS = {
    "order_id": {"type": "string", "required": True},
    "total": {"type": "integer", "default": 7},
    "rate": {"type": "number"},
    "lines": {"type": ["array", "object"]},
    "secret": {"type": "string", "sealed": True},
    "anything": None,
}


def declared(**more: Any) -> Graph:
    given = {"name": "order", "tasks": [{"name": "a", "set": {"seen": True}}, {"name": "b"}], "fields": FIELDS}
    edges = [{"from": "a", "to": "b", **more}, {"from": "b", "to": END}]
    return Graph.from_values({**given, "transitions": edges})


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"when": "totl > 1"}, "edge 'a' -> 'b', when: it reads the field 'totl', .*did you mean 'total'"),
        ({"when": "state.totl > 1"}, "it reads the field 'totl'"),
        ({"when": "secret == ''"}, "it reads the field 'secret', which is sealed"),
        ({"forEach": "line"}, "edge 'a' -> 'b', forEach: it reads the field 'line', .*did you mean 'lines'"),
    ],
)
def test_g11_a_field_that_nobody_declares_or_writes_is_refused(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        declared(**more).validate()


@pytest.mark.parametrize("when", ["total > 1", "seen", "onErr == null", "anything == 1", "size(state) > 1"])
def test_g11_what_is_declared_or_written_may_be_read(when: str) -> None:
    declared(when=when).validate()


def test_g11_templates_are_looked_at_as_well() -> None:
    given = graph_of(
        {"name": "a", "request": {"subject": "x", "payload": "=order"}, "compensate": {"set": {"z": "=changes.a"}}},
        fields={"order_id": {}},
    )
    with pytest.raises(BadRequest, match=r"node 'a', request\.payload: it reads the field 'order', .*'order_id'"):
        Graph.from_values(given).validate()
    given["tasks"][0]["request"]["payload"] = "=order_id"
    Graph.from_values(given).validate()


def test_g11_an_initial_state_is_checked_and_filled_in() -> None:
    graph = declared()
    filled = fields.initial_state(graph, state_from({"order_id": "A", "rate": 2, "other": [1]}))
    assert {name: bytes(value) for name, value in filled.items()} == {
        "order_id": b'"A"',
        "rate": b"2",
        "other": b"[1]",
        "total": b"7",
    }
    assert bytes(fields.initial_state(graph, state_from({"order_id": "A", "total": 3}))["total"]) == b"3"


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({}, "lacks the field 'order_id', which is required"),
        ({"order_id": None}, "lacks the field 'order_id'"),
        ({"orderid": "A"}, "lacks the field 'order_id', .*did you mean 'orderid'"),
        ({"order_id": 5}, "the initial state: field 'order_id' must be a string, got integer"),
        ({"order_id": "A", "total": 1.5}, "field 'total' must be an integer, got number"),
        ({"order_id": "A", "rate": "x"}, "field 'rate' must be a number, got string"),
        ({"order_id": "A", "lines": True}, "field 'lines' must be an array or object, got boolean"),
    ],
)
def test_g11_an_initial_state_that_does_not_fit_is_refused(state: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRequest, match=rf"graph 'order': .*{problem}"):
        fields.initial_state(declared(), state_from(state))


def test_g11_a_whole_double_is_an_integer() -> None:
    """As in JSON Schema."""
    fields.initial_state(declared(), state_from(b'{"order_id": "A", "total": 2.0}'))
