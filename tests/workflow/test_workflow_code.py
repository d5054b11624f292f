"""Workflows in code: the graph that `>>` makes, and what is refused (G2-G4, G7, G11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import END, Flow, Graph, RetryPolicy, SendRequest, WholeState, Worker, Workflow
from dwarf_nats.sdk.arguments import graph_json

worker = Worker()


@dataclass
class Line:
    sku: str
    price: int


@dataclass
class Order:
    order_id: str
    lines: list[Line] = field(default_factory=list)
    total: int = 0
    receipt: str | None = None


class Reserved(TypedDict):
    reserved: bool
    lines: list[Line]


class Receipt(msgspec.Struct):
    receipt: str


class Parcel(pydantic.BaseModel):
    parcel: str
    weight: float


@worker.task("stock.reserve")
def reserve(order_id: str) -> Reserved:
    return {"reserved": bool(order_id), "lines": []}


@worker.task("charge")
async def charge(order_id: str, total: int, currency: str = "EUR") -> Receipt:
    return Receipt(f"{order_id}{total}{currency}")


@worker.task("refund")
def refund(receipt: str) -> None:
    del receipt


@worker.task("ship")
def ship(flow: Flow, order: WholeState[Order], receipt: str) -> Parcel:
    del flow, order, receipt
    return Parcel(parcel="p", weight=1.5)


@worker.task("pack")
def pack(line: Line) -> None:
    del line


@worker.task("weigh")
def weigh(weight: float) -> None:
    del weight


@worker.task("label")
def label(parcel: int) -> None:
    del parcel


@worker.task("sorry")
def sorry(order_id: str, onErr: dict[str, Any]) -> None:  # noqa: N803
    del order_id, onErr


def edges(graph: Graph) -> list[str]:
    def shown(one: Any) -> str:
        kind = "switch " if one.switch else "goto " if one.goto else "error " if one.on_error else ""
        kind += f"each {one.for_each} as {one.as_} " if one.for_each else ""
        return f"{one.source} -{kind}{one.when}> {one.target}"

    return [shown(one) for one in graph.transitions]


def test_a_chain_of_functions_is_the_graph_of_a_file() -> None:
    order = Workflow("order", Order)
    order.start >> reserve >> charge >> ship >> END
    order.validate()
    by_hand = Graph("order")
    by_hand.declare_field("order_id", "string", required=True)
    by_hand.declare_field("lines", "array")
    by_hand.declare_field("total", "integer", default=0)
    by_hand.declare_field("receipt", "string")
    for name in ("reserved", "parcel", "weight"):
        by_hand.declare_field(name, {"reserved": "boolean", "parcel": "string", "weight": "number"}[name])
    by_hand.add_chain("stock.reserve", "charge", "ship", END)
    assert order.to_values() | {"fields": {}} == by_hand.to_values() | {"fields": {}}
    lines = order.to_values()["fields"].pop("lines")
    assert lines["type"] == "array"
    assert order.to_values()["fields"].keys() == by_hand.to_values()["fields"].keys()
    assert order.to_values()["fields"]["order_id"] == by_hand.to_values()["fields"]["order_id"]
    assert Graph.from_json(order.to_json()).to_values() == order.to_values()
    assert graph_json(order) == order.to_json()


def test_branches_conditions_loops_and_error_edges() -> None:
    order = Workflow("order", Order)
    taken = order.task(reserve, retry=RetryPolicy(max_attempts=5, jitter=0.2))
    paid = order.task(charge, timeout=10, queue_timeout=5, retry=3, compensate=refund, note="The bank")
    approve = order.ask("approve", {"total": "=total"}, timeout=172_800)
    sent = order.task(ship)
    (
        order.start
        >> taken
        >> [order.sleep("rest", 1), order.publish("tell", "orders.seen")]
        >> order.set("meet", {"n": 1})
    )
    meet = order.part("meet")
    meet >> approve
    approve.switch("approve.yes == true") >> paid >> sent >> END
    approve.switch("approve.again == true") >> approve
    approve.otherwise() >> END
    paid.on_error("onErr.code == 402") >> sorry >> END
    sent.goto() >> paid
    order.validate()
    assert order.nodes["meet"].fan_in
    assert not order.nodes["approve"].fan_in
    assert edges(order) == [
        "stock.reserve -> rest",
        "stock.reserve -> tell",
        "rest -> meet",
        "tell -> meet",
        "meet -> approve",
        "approve -switch approve.yes == true> charge",
        "charge -> ship",
        "ship -> END",
        "approve -switch approve.again == true> approve",
        "approve -switch true> END",
        "charge -error onErr.code == 402> sorry",
        "sorry -> END",
        "ship -goto > charge",
    ]
    charged = order.nodes["charge"]
    assert (charged.timeout_ms, charged.queue_timeout_ms, charged.retry) == (
        10_000,
        5_000,
        RetryPolicy(max_attempts=3),
    )
    assert charged.compensate is not None
    assert charged.compensate.url == "refund"
    assert order.annotations == {"charge": "The bank"}


def test_chains_stand_in_lists_and_lists_before_nodes() -> None:
    order = Workflow("order")
    a, b, c, d, e = (order.task(one) for one in ("a", "b", "c", "d", "e"))
    a >> [b >> c, d] >> e >> END
    assert edges(order) == ["b -> c", "a -> b", "a -> d", "c -> e", "d -> e", "e -> END"]
    assert order.nodes["e"].fan_in
    order.validate()
    choice = Workflow("choice")
    a, b, c, d = (choice.task(one) for one in ("a", "b", "c", "d"))
    [a.switch("x > 1") >> b, a.otherwise() >> c] >> d >> END
    assert edges(choice) == ["a -switch x > 1> b", "a -switch true> c", "b -> d", "c -> d", "d -> END"]
    assert not choice.nodes["d"].fan_in
    choice.validate()


def test_for_each_gives_its_element_to_the_branch() -> None:
    order = Workflow("order", Order)
    total = order.task("total")
    order.start >> order.task(reserve).for_each("lines", as_="line") >> pack >> total.join() >> END
    order.validate()
    assert edges(order)[0] == "stock.reserve -each lines as line > pack"


def test_sub_workflows_and_all_other_kinds() -> None:
    class Input(TypedDict):
        address: str

    shipping = Workflow("shipping", Input)
    shipping.start >> shipping.task("parcel.send") >> END
    order = Workflow("order", Order)
    quoted = order.request("quote", "pricing.quote", {"order": "=order_id"}, returns=Line, timeout=2)
    (
        order.start
        >> quoted
        >> order.wait("paid", "payment.settled", "=order_id", timeout=60, returns=Receipt)
        >> order.workflow("deliver", shipping, {"address": "=order_id"}, into="sent")
        >> order.sleep("night", until="2026-12-01T08:00:00Z")
        >> END
    )
    quoted.on_error() >> END
    order.compensate("quote", SendRequest(subject="pricing.drop"))
    order.validate()
    assert [node.kind for node in order.nodes.values()] == ["request", "wait", "workflow", "sleep"]


def _after(*parts: Any) -> Callable[[], Workflow]:
    def make() -> Workflow:
        order = Workflow("order", Order)
        whole = order.start
        for one in parts:
            whole = whole >> (one(order) if getattr(one, "__name__", "") == "<lambda>" else one)
        whole >> END
        return order

    return make


REFUSED: dict[str, Callable[[], Workflow]] = {
    r"node 'weigh' \(test_workflow_code.py:\d+\) takes 'weight', which neither Order has nor a node before": _after(
        weigh
    ),
    r"node 'weigh' .* takes 'weight', which only node 'ship' sets, and not before it": _after(weigh, ship),
    r"node 'label' \(test_workflow_code.py:\d+\) takes 'parcel', which node 'ship' \(test_workflow_code.py:\d+\) sets to"
    r" another type: it is a string, not an integer": _after(ship, label),
    "takes 'total', which node 'sum' sets to another type: it is a string, not an integer": _after(
        lambda order: order.set("sum", {"total": "much"}), charge
    ),
    "edge 'charge' -> 'END', when: it reads the field 'reciept'.*did you mean 'receipt'": lambda: _with_condition(
        "reciept == ''"
    ),
    "edge 'charge' -> 'END', when: it reads 'reserved', which only node 'stock.reserve' sets, and not before": lambda: (
        _with_condition("reserved")
    ),
    "node 'deliver', input: the workflow 'shipping' needs 'address'": lambda: _calling({}),
    "node 'deliver', input: the workflow 'shipping' has no field 'adress'.*did you mean 'address'": lambda: _calling(
        {"address": "x", "adress": "y"}
    ),
    r"'address' comes from the state \(Order\), and is another type in the workflow 'shipping' .*: it is an integer,"
    " not a string": lambda: _calling({"address": "=total"}),
    "stock.reserve.when.'total > 1'. leads nowhere": lambda: _dangling(),
}


def _with_condition(text: str) -> Workflow:
    order = Workflow("order", Order)
    paid = order.task(charge)
    paid.switch(text) >> END
    paid.otherwise() >> reserve >> END
    return order


def _calling(given: dict[str, Any]) -> Workflow:
    class Input(TypedDict):
        address: str

    shipping = Workflow("shipping", Input)
    return _after(lambda order: order.workflow("deliver", shipping, given))()


def _dangling() -> Workflow:
    order = Workflow("order", Order)
    first = order.task(reserve)
    first >> END
    first.when("total > 1")
    return order


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_the_tasks_is_refused_with_both_places(said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        REFUSED[said]().validate()


def test_a_client_does_not_send_what_does_not_fit() -> None:
    with pytest.raises(BadRequest, match="takes 'weight'"):
        graph_json(_after(weigh)())


def test_without_a_type_of_the_state_only_types_are_compared() -> None:
    order = Workflow("order")
    order.start >> weigh >> END
    order.validate()
    order = Workflow("order")
    order.start >> ship >> label >> END
    with pytest.raises(BadRequest, match="takes 'parcel', which node 'ship'"):
        order.validate()


def test_a_compensation_sees_what_its_node_has_set() -> None:
    order = Workflow("order", Order)
    order.start >> order.task(reserve, compensate=weigh) >> END
    with pytest.raises(BadRequest, match=r"the compensation of node 'stock.reserve' .* takes 'weight'"):
        order.validate()


def test_a_loop_may_use_what_a_later_node_sets() -> None:
    """What may have been set is enough: the check raises no false alarm."""
    order = Workflow("order", Order)
    sent = order.task(ship)
    order.start >> sent
    weighed = order.task("scale")
    sent.switch("parcel == 'p'") >> weigh >> weighed >> sent
    sent.otherwise() >> END
    order.validate()


def _twice(order: Workflow) -> Any:
    order.task(reserve)
    return order.task(reserve)


def _after_the_end(order: Workflow) -> Any:
    return order.start >> reserve >> END >> charge


MISUSE: dict[str, Callable[[Workflow], Any]] = {
    "node 'stock.reserve' is there already: use the node that was returned, or name this one": _twice,
    "nothing can follow on END": _after_the_end,
    "_twice is no task: write @worker.task": lambda order: order.start >> _twice,
    "there is no node 'chrage'": lambda order: order.start >> "chrage",
    "a flow starts at one node": lambda order: order.start >> [reserve, charge],
    "belongs to another workflow": lambda order: order.start >> Workflow("other").task(reserve),
    "3 cannot be joined": lambda order: order.start >> 3,  # type: ignore[operator]
    "leads to one node: put a node before the branches": lambda order: (
        order.task(reserve).otherwise() >> [charge, ship]
    ),
    "a list of branches follows on a list": lambda order: order.start >> reserve >> [charge, ship] >> [pack, weigh],
    "int is no type of a state": lambda _: Workflow("order", int),
    "END ends flows": lambda order: order.task("END"),
}


@pytest.mark.parametrize("said", MISUSE)
def test_misuse_is_refused_at_once(said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        MISUSE[said](Workflow("order", Order))


def test_an_unknown_policy_is_a_type_error_as_for_any_function() -> None:
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        Workflow("order").task(reserve, timout=3)  # type: ignore[call-arg]


def test_a_function_of_two_tasks_says_which() -> None:
    def both() -> None: ...

    one = Worker()
    one.add_task("first", both)
    one.add_task("second", both)
    order = Workflow("order")
    with pytest.raises(BadRequest, match="both serves the tasks first, second: say which one with url="):
        order.task(both)
    order.start >> order.task(both, url="second") >> END
    assert order.nodes["second"].url == "second"
