"""The builder of nodes without a task: what it makes, and what it refuses (N1-N9, L1, G11)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import RetryPolicy, SendRequest


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_the_builder_makes_the_same_graph_as_a_file() -> None:
    graph = Graph("order")
    graph.declare_field("order_id", "string", required=True)
    graph.declare_field("total", "integer", "string", default=0, description="In cents.")
    graph.set_defaults(timeout=10, retry=RetryPolicy(max_attempts=5, jitter=0.2))
    graph.add_set("check", {"total": "=1 + 1", "pair": (1, 2)})
    graph.add_request("quote", "pricing.quote", {"order": "=order_id"}, headers={"X-Id": "=order_id"}, into="q")
    graph.add_ask("approve", {"total": "=total"}, timeout=0.5)
    graph.add_wait("settled", "payment.settled", "=order_id", timeout=60, into="payment")
    graph.add_sleep("pause", 1.5)
    graph.add_sleep("night", until="=payment.at")
    graph.add_workflow("ship", "shipping", {"order": "=order_id"})
    graph.add_publish("tell", "orders.shipped", stream=True)
    graph.set_timeout("quote", 2)
    graph.set_retry("quote", 3, 0.2, multiplier=1.5, max_delay=9, give_up_after=99, jitter=0.1, codes=[503])
    graph.compensate("quote", SendRequest(subject="pricing.drop", payload="=changes.q"))
    graph.compensate("ship", "shipping.recall")
    graph.add_chain(*graph.nodes, END)
    graph.validate()
    values = json.loads(graph.to_json())
    del values["transitions"]
    assert values == {
        "name": "order",
        "entryPoint": "check",
        "fields": {
            "order_id": {"type": "string", "required": True},
            "total": {"type": ["integer", "string"], "default": 0, "description": "In cents."},
        },
        "defaults": {"timeoutMs": 10000, "retry": {"maxAttempts": 5, "jitter": 0.2}},
        "tasks": [
            {"name": "check", "set": {"total": "=1 + 1", "pair": [1, 2]}},
            {
                "name": "quote",
                "request": {
                    "subject": "pricing.quote",
                    "payload": {"order": "=order_id"},
                    "headers": {"X-Id": "=order_id"},
                },
                "into": "q",
                "timeoutMs": 2000,
                "retry": {
                    "maxAttempts": 3,
                    "initialDelayMs": 200,
                    "multiplier": 1.5,
                    "maxDelayMs": 9000,
                    "giveUpAfterMs": 99000,
                    "jitter": 0.1,
                    "codes": [503],
                },
                "compensate": {"request": {"subject": "pricing.drop", "payload": "=changes.q"}},
            },
            {"name": "approve", "ask": {"payload": {"total": "=total"}, "timeoutMs": 500}},
            {
                "name": "settled",
                "wait": {"event": "payment.settled", "key": "=order_id", "timeoutMs": 60000},
                "into": "payment",
            },
            {"name": "pause", "sleep": {"ms": 1500}},
            {"name": "night", "sleep": {"until": "=payment.at"}},
            {"name": "ship", "workflow": "shipping", "input": {"order": "=order_id"}, "compensate": "shipping.recall"},
            {"name": "tell", "publish": {"subject": "orders.shipped", "stream": True}},
        ],
    }


def test_a_template_that_is_changed_afterwards_changes_no_graph() -> None:
    """A graph that was validated stays as it is."""
    fields = {"a": [1]}
    graph = Graph("order")
    graph.add_set("check", fields)
    fields["a"].append(2)
    assert graph.to_values()["tasks"] == [{"name": "check", "set": {"a": [1]}}]


def test_the_same_node_again_changes_nothing() -> None:
    graph = Graph("order")
    for _ in range(2):
        graph.add_wait("paid", "payment.settled", into="payment")
    graph.add_chain("paid", END)
    graph.validate()


Build = Callable[[Graph], None]


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (
            lambda graph: graph.add_set("a", {"x": object()}),
            "node 'a': its value cannot be written as JSON: Type is not",
        ),
        (
            lambda graph: graph.add_set("a", {"x": {1: 2, "y": 3}}),
            "node 'a': its value cannot be written as JSON: Dict key",
        ),
        (lambda graph: graph.add_set("a", [1]), "node 'a': 'set' must be an object, got array"),
        (lambda graph: graph.add_set("a", {"x": deep(70)}), "node 'a': its value is nested deeper than 64 levels"),
        (lambda graph: graph.add_set("a", {"x": deep(5000)}), "node 'a': its value cannot be written as JSON: maximum"),
        (
            lambda graph: graph.add_set("a", {"x": 2**70}),
            "node 'a': its value cannot be written as JSON: Integer exceeds",
        ),
        (lambda graph: graph.add_set("a", {"x": math.nan}), "node 'a': its value has the number nan"),
        (lambda graph: graph.add_sleep("a", math.inf), "node 'a', sleep.ms: it is inf: write a number of seconds"),
        (lambda graph: graph.add_sleep("a", -1), "node 'a', sleep.ms: it is -1000: write 0 to"),
        (lambda graph: graph.add_sleep("a", until=5), "node 'a', sleep: 'until' must be a string, got number"),
        (lambda graph: graph.add_wait("a", "e", 5), "node 'a', wait: 'key' must be a string, got number"),
        (lambda graph: graph.add_request("a", 5), "node 'a', request: 'subject' must be a string, got number"),
        (
            lambda graph: graph.set_timeout("task", math.nan),
            "node 'task', timeoutMs: it is nan: write a number of seconds",
        ),
        (
            lambda graph: graph.set_retry("task", "x"),
            "node 'task', retry: 'maxAttempts' must be a whole number, got string",
        ),
        (lambda graph: graph.set_retry("task", codes=["x"]), "node 'task', retry: codes[0] must be a whole number"),
        (lambda graph: graph.set_retry("tsk", 3), "a policy is set for 'tsk', which is no node: did you mean 'task'?"),
        (lambda graph: graph.compensate("task", 5), "node 'task': compensate takes the url of a task, or a SetFields,"),
        (lambda graph: graph.declare_field("x", "int"), "field 'x': unknown type 'int': did you mean 'integer'?"),
        (lambda graph: graph.declare_field("x", default=object()), "field 'x': its value cannot be written as JSON"),
        (
            lambda graph: graph.add_set("task", {}),
            "node 'task' is there already, and is another one: add it before the edges that name it, and once",
        ),
    ],
)
def test_what_no_graph_can_hold_is_refused_with_its_place(build: Build, problem: str) -> None:
    graph = Graph("order")
    graph.add_chain("task", END)
    build(graph)
    with pytest.raises(BadRequest) as refusal:
        graph.validate()
    assert refusal.value.message.startswith(f"graph 'order': {problem}")


@pytest.mark.parametrize(
    ("build", "remedy"),
    [
        (lambda graph: graph.add_wait("a", "e"), "write it into wait"),
        (lambda graph: graph.add_ask("a"), "write it into ask"),
        (lambda graph: graph.add_set("a", {}), "remove it"),
        (lambda graph: graph.add_sleep("a", 1), "remove it"),
    ],
)
def test_l1_a_node_that_makes_no_call_has_no_timeout(build: Build, remedy: str) -> None:
    graph = Graph("order")
    build(graph)
    graph.add_chain("a", END)
    graph.set_timeout("a", 1)
    with pytest.raises(BadRequest, match=f"node 'a', timeoutMs: it bounds a call, and this node makes none: {remedy}"):
        graph.validate()


def test_g11_a_node_that_brings_nothing_back_writes_no_field() -> None:
    graph = Graph("order")
    graph.declare_field("n")
    graph.add_publish("tell", "told")
    graph.add_sleep("nap", 1)
    graph.add_set("after", {"x": "=tell"})
    graph.add_chain("tell", "nap", "after", END)
    with pytest.raises(BadRequest, match=r"node 'after', set\.x: it reads the field 'tell', which is neither declared"):
        graph.validate()
