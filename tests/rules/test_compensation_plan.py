"""The plan of compensations, and what an answer of one comes to (N9)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.rules import compensation
from dwarf_nats.rules.compensation import DoneStep, EndingFlow, plan
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import COMPENSATION_RETRY, Compensation, Defaults, RetryPolicy, SendRequest, SetFields


def graph_of(*nodes: str, plain: tuple[str, ...] = ()) -> Graph:
    graph = Graph("g")
    graph.add_chain(*nodes, *plain, END)
    for name in nodes:
        graph.nodes[name].compensate = Compensation(url=f"undo-{name}")
    return graph


def done(step_id: int, node: str, at: int, *, flow_id: int = 1, depth: int = 0, **more: Any) -> DoneStep:
    values = {"predecessor_id": None, "done": True, "compensates": None, **more}
    return DoneStep(step_id=step_id, flow_id=flow_id, node=node, depth=depth or step_id, updated_at=at, **values)


def order(steps: list[DoneStep], flows: list[EndingFlow] | None = None, graph: Graph | None = None) -> list[int]:
    given = flows or [EndingFlow(1, None, "d")]
    return [one.step_id for one in plan(1, given, steps, {"d": graph or graph_of("a", "b", "c")})]


def test_the_last_to_complete_comes_first() -> None:
    assert order([done(1, "a", 10), done(2, "b", 30, depth=2), done(3, "c", 20, depth=2)]) == [2, 3, 1]


def test_of_one_transaction_the_step_further_down_comes_first_then_the_larger_id() -> None:
    assert order([done(1, "a", 7), done(2, "b", 7), done(4, "c", 7, depth=3), done(3, "c", 7, depth=3)]) == [4, 3, 2, 1]


def test_a_step_completed_after_the_one_before_it_even_if_the_clock_was_set_back() -> None:
    assert order([done(1, "a", 90), done(2, "b", 50, predecessor_id=1), done(3, "c", 60, predecessor_id=2)]) == [
        3,
        2,
        1,
    ]


def test_what_has_not_completed_has_no_compensation_or_was_compensated_is_left_out() -> None:
    steps = [
        done(1, "a", 1),
        done(2, "b", 2, done=False),
        done(3, "x", 3),
        done(4, "c", 4),
        done(5, "c:compensate", 5, compensates=4, done=False),
    ]
    assert order(steps, graph=graph_of("a", "b", "c", plain=("x",))) == [1]


def test_the_compensations_of_one_flow_lie_below_all_its_steps() -> None:
    steps = [done(1, "a", 1), done(2, "b", 2, depth=7)]
    planned = plan(1, [EndingFlow(1, None, "d")], steps, {"d": graph_of("a", "b")})
    assert [(one.depth, one.node.name, one.node.url) for one in planned] == [
        (8, "b:compensate", "undo-b"),
        (8, "a:compensate", "undo-a"),
    ]


def test_the_steps_of_a_called_flow_come_before_the_step_that_called_it() -> None:
    """Whenever they completed: their place is that of the caller."""
    flows = [EndingFlow(1, None, "d"), EndingFlow(2, 2, "d"), EndingFlow(3, 21, "d")]
    steps = [
        done(1, "a", 1),
        done(2, "b", 50),
        done(3, "c", 40),
        done(21, "a", 20, flow_id=2),
        done(22, "b", 30, flow_id=2),
        done(31, "a", 10, flow_id=3),
        done(32, "b", 11, flow_id=3),
    ]
    assert order(steps, flows) == [22, 32, 31, 21, 2, 3, 1]


def test_flows_nest_deeply() -> None:
    """P4: no recursion."""
    flows = [EndingFlow(1, None, "d"), *(EndingFlow(n, n - 1, "d") for n in range(2, 5_000))]
    steps = [done(n, "a", 1, flow_id=n, depth=1) for n in range(1, 5_000)]
    assert order(steps, flows) == list(range(4_999, 0, -1))


def test_a_graph_that_is_gone_compensates_nothing() -> None:
    assert plan(1, [EndingFlow(1, None, "other")], [done(1, "a", 1)], {}) == []


@pytest.mark.parametrize(
    ("own", "shared", "policy"),
    [
        (None, None, COMPENSATION_RETRY),
        (None, RetryPolicy(max_attempts=3), RetryPolicy(max_attempts=3)),
        (RetryPolicy(max_attempts=2), RetryPolicy(max_attempts=3), RetryPolicy(max_attempts=2)),
    ],
)
def test_a_compensation_has_the_policy_of_its_node_or_ten_attempts(
    own: RetryPolicy | None, shared: RetryPolicy | None, policy: RetryPolicy
) -> None:
    graph = graph_of("a")
    graph.nodes["a"].retry, graph.nodes["a"].timeout_ms, graph.defaults = own, 70, Defaults(retry=shared)
    node = graph.compensations["a:compensate"]
    assert (node.retry, node.timeout_ms) == (policy, 70)


def test_an_action_of_the_engine_compensates_under_its_own_name() -> None:
    graph = graph_of("a", "b", "c")
    graph.nodes["a"].compensate = Compensation(action=SendRequest(subject="stock.release"))
    graph.nodes["b"].compensate = Compensation(action=SetFields({"x": None}))
    graph.nodes["c"].compensate = None
    assert {name: node.url for name, node in graph.compensations.items()} == {
        "a:compensate": "stock.release",
        "b:compensate": "engine:set",
    }
    assert graph.compensates
    assert not Graph("plain").compensates
    assert compensation.plan(1, [], [], {}) == []
