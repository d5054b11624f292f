"""Compensation by requests, messages and changes of the state, which the engine carries out itself (N9)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from dwarf_nats.library import open_engine
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.nodes import Field
from dwarf_nats.workflow.services import ServiceReply
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON
from tests.support.services import LocalServices

PAGE = Path(__file__).parents[2] / "docs/compensation.md"
RECEIPT = {"receipt": "r7", "n": 2**60}


def order(*nodes: dict[str, Any]) -> Graph:
    """The nodes in a line, and one after them that fails."""
    tasks = [*nodes, {"name": "ship", "request": {"subject": "ship"}}]
    names = [one["name"] for one in tasks]
    edges = [{"from": one, "to": then} for one, then in zip(names, [*names[1:], "END"], strict=True)]
    values = {"name": "order", "entryPoint": names[0], "tasks": tasks, "transitions": edges}
    return Graph.from_json(json.dumps(values))


def charge(**compensate: Any) -> dict[str, Any]:
    return {"name": "charge", "request": {"subject": "charge", "payload": "=total"}, "compensate": compensate}


async def test_a_request_knows_the_state_and_the_changes_of_what_it_compensates(dsn: str) -> None:
    """N3, N9: with a message id of its own, the same for each attempt; its reply changes nothing."""
    answers = iter([ServiceReply(error=ErrorInfo("busy", 500)), {"refunded": True}])
    services = LocalServices(
        charge=lambda _: RECEIPT,
        ship=lambda _: ServiceReply(error=ErrorInfo("no truck", 422)),
        refund=lambda _: next(answers),
    )
    payload = {"receipt": "=changes.charge.receipt", "n": "=changes.charge.n", "total": "=total", "seen": "=charge"}
    node = charge(request={"subject": "refund", "payload": payload})
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        outcome = await engine.run(order(node), {"total": 5}, timeout=SOON)
        assert outcome.status is Status.FAILED
        assert outcome.state == {"total": 5, "charge": RECEIPT}
        steps = {step.task: step for step in await engine.history(outcome.flow_key)}
        assert steps["charge:compensate"].status is Status.COMPLETED
    first, second = (call for call in services.requests if call.subject == "refund")
    assert json.loads(second.payload) == {"receipt": "r7", "n": 2**60, "total": 5, "seen": None}
    assert first.message_id == second.message_id
    (charged,) = (call for call in services.requests if call.subject == "charge")
    assert charged.message_id != first.message_id


async def test_a_message_compensates(dsn: str) -> None:
    services = LocalServices(charge=lambda _: RECEIPT, ship=lambda _: ServiceReply(error=ErrorInfo("no", 422)))
    node = charge(publish={"subject": "refunds", "payload": "=changes.charge.receipt", "stream": True})
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        assert (await engine.run(order(node), {"total": 5}, timeout=SOON)).status is Status.FAILED
    ((call, stream),) = services.published
    assert (call.subject, call.payload, stream) == ("refunds", b"r7", True)


async def test_a_template_that_cannot_be_evaluated_fails_the_compensation(dsn: str) -> None:
    """The error names the node, and the flow ends as it was about to."""
    services = LocalServices(charge=lambda _: RECEIPT, ship=lambda _: ServiceReply(error=ErrorInfo("no truck", 422)))
    node = {**charge(request={"subject": "refund", "payload": "=changes.nothing.at.all"}), "retry": {"maxAttempts": 1}}
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        outcome = await engine.run(order(node), {"total": 5}, timeout=SOON)
        assert outcome.error is not None
        assert outcome.error.message == "no truck"
        steps = {step.task: step for step in await engine.history(outcome.flow_key)}
        error = steps["charge:compensate"].error
        assert error is not None
        assert error.code == 400
        assert "node 'charge:compensate', request.payload" in error.message


async def test_a_set_compensates_in_the_final_state(dsn: str) -> None:
    """N1, N9: a null removes; it knows the state that the node was given, and what it had changed."""
    services = LocalServices(charge=lambda _: RECEIPT, ship=lambda _: ServiceReply(error=ErrorInfo("no", 422)))
    node = charge(set={"charge": None, "undone": "=changes.charge.receipt", "left": "=total - 1"})
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        outcome = await engine.run(order(node), {"total": 5}, timeout=SOON)
        assert outcome.status is Status.FAILED
        assert outcome.state == {"total": 5, "undone": "r7", "left": 4}


async def test_a_change_of_a_wrong_type_fails_the_compensation(dsn: str) -> None:
    """G11: the final state holds what the graph declares."""
    services = LocalServices(charge=lambda _: RECEIPT, ship=lambda _: ServiceReply(error=ErrorInfo("no", 422)))
    graph = order({**charge(set={"total": "none"}), "retry": {"maxAttempts": 1}})
    graph.fields["total"] = Field(types=("integer",))
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        outcome = await engine.run(graph, {"total": 5}, timeout=SOON)
        assert outcome.state["total"] == 5
        error = {step.task: step.error for step in await engine.history(outcome.flow_key)}["charge:compensate"]
        assert error is not None
        assert "does not fit the graph" in error.message


async def test_a_set_node_in_a_chain_is_compensated_as_well(dsn: str) -> None:
    """N8, N9: steps that are settled in one transaction completed in the order in which they follow each other."""
    undo = [{"name": f"s{n}", "set": {"x": n}, "compensate": {"publish": {"subject": f"undo.{n}"}}} for n in range(4)]
    services = LocalServices(ship=lambda _: ServiceReply(error=ErrorInfo("no", 422)))
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        assert (await engine.run(order(*undo), timeout=SOON)).status is Status.FAILED
    assert [call.subject for call, _ in services.published] == ["undo.3", "undo.2", "undo.1", "undo.0"]


async def test_a_chain_that_fails_is_compensated(dsn: str) -> None:
    """The failing step is settled together with those before it."""
    nodes = [
        {"name": "a", "set": {"x": 1}, "compensate": {"publish": {"subject": "undo.a"}}},
        {"name": "b", "set": {"y": "=nothing.there"}},
    ]
    services = LocalServices()
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        outcome = await engine.run(order(*nodes), timeout=SOON)
        assert (outcome.status, outcome.state) == (Status.FAILED, {"x": 1})
    assert [call.subject for call, _ in services.published] == ["undo.a"]


async def test_the_order_of_the_documentation_is_undone(dsn: str) -> None:
    """The graph of docs/compensation.md."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    services = LocalServices(
        **{
            "stock.reserve": lambda _: "shelf 7",
            "stock.release": lambda _: None,
            "billing.charge": lambda _: {"receipt": "r7"},
            "billing.refund": lambda _: None,
            "shipping.ship": lambda _: ServiceReply(error=ErrorInfo("no truck", 422)),
        }
    )
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        outcome = await engine.run(Graph.from_values(yaml.safe_load(text)), {"sku": "a1", "total": 5}, timeout=SOON)
        assert outcome.error is not None
        assert outcome.error.message == "no truck"
        names = [step.task for step in await engine.history(outcome.flow_key)]
    assert names == ["reserve", "charge", "ship", "charge:compensate", "reserve:compensate"]
    undone = [(call.subject, call.payload) for call in services.requests[3:]]
    assert undone == [("billing.refund", b'{"receipt":"r7"}'), ("stock.release", b"a1")]
