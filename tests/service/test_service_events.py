"""Events over NATS: signals as an operation and by subject, waits in the replies of task services (E1-E3; wire section 1)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dwarf_nats.sdk import Client, Flow, Worker
from tests.support.caller import WAIT, Caller, line


def waits(request: dict[str, Any]) -> dict[str, Any]:
    """A task that waits for its event and keeps how the wait ended."""
    if "event" in request:
        return {"changes": {"got": request["event"]}}
    return {"wait": {"event": "order.paid", "key": "7", **request["state"].get("more", {})}}


async def ended(caller: Caller, flow: dict[str, str]) -> dict[str, Any]:
    outcome: dict[str, Any] = await caller.ok("flow.await", **flow)
    return outcome


async def test_a_signal_continues_the_flow_that_waits(either: Caller) -> None:
    """E1, E2: early or late, by name or by subject; the task sees data, id and time."""
    caller = either
    await caller.plays("wait", waits)
    early = await caller.ok("flow.signal", event="order.paid", key="7", data={"n": 2**63 - 1}, id="m1")
    assert early == {"delivered": 0, "kept": True}
    flow = await caller.ok("flow.create", graph=line("acme.w", "wait"), start=True)
    got = (await ended(caller, flow))["state"]["got"]
    assert (got["data"], got["id"], set(got)) == ({"n": 2**63 - 1}, "m1", {"data", "id", "at"})
    assert await caller.ok("flow.signal", event="order.paid", key="7", data="other", id="m1") == early
    later = await caller.raw("signal.order.paid", {"key": "7", "data": 5})
    assert json.loads(later.data) == {"delivered": 0, "kept": True}
    flow = await caller.ok("flow.create", graph=line("acme.w", "wait"), start=True)
    assert (await ended(caller, flow))["state"]["got"]["data"] == 5


async def test_a_plain_publish_is_enough(caller: Caller) -> None:
    """E1, wire section 1: without a reply subject, and `Nats-Msg-Id` is the id."""
    await caller.plays("wait", waits)
    for data in ("first", "again"):
        await caller.client.publish(
            f"{caller.prefix}.signal.order.paid",
            json.dumps({"key": "7", "data": data}).encode(),
            headers={"Nats-Msg-Id": "m1"},
        )
    await caller.client.publish(f"{caller.prefix}.flow.signal", b'{"event": "order.paid", "key": "7", "data": "last"}')
    got = []
    for _ in range(2):
        flow = await caller.ok("flow.create", graph=line("acme.w", "wait"), start=True)
        got.append((await ended(caller, flow))["state"]["got"]["data"])
    assert sorted(got) == ["first", "last"]


async def test_a_wait_that_ends_by_its_time_says_so(caller: Caller) -> None:
    """E2."""
    await caller.plays("wait", waits)
    outcome = await caller.ok("flow.run", graph=line("acme.w", "wait"), state={"more": {"timeoutMs": 10}})
    assert outcome["state"]["got"] == {"timedOut": True}


@pytest.mark.parametrize(
    ("operation", "request_", "headers", "why"),
    [
        ("flow.signal", {}, None, "`event`"),
        ("flow.signal", {"event": "no spaces"}, None, "invalid event"),
        ("flow.signal", {"event": "e", "keepMs": -1}, None, "`keepMs`"),
        ("flow.signal", {"event": "e", "id": "a"}, {"Nats-Msg-Id": "b"}, "differ"),
        ("flow.signal", {"event": "e", "id": ""}, None, "id is empty"),
        ("flow.signal", {"event": "e", "keey": "k"}, None, "`key`"),
        ("signal.order.paid", {"event": "order.sent"}, None, "leave the field out"),
        ("signal.order.paid", {"id": "a"}, {"Nats-Msg-Id": "b"}, "differ"),
        ("signal.order.p*id", {}, None, "invalid event"),
    ],
)
async def test_a_signal_that_makes_no_sense_is_refused(
    caller: Caller, operation: str, request_: dict[str, Any], headers: dict[str, str] | None, why: str
) -> None:
    """Wire section 1: a 400 that says what to do."""
    message = await caller.raw(operation, request_, headers)
    error = json.loads(message.data)["error"]
    assert error["code"] == 400
    assert why in error["message"]


@pytest.mark.parametrize(
    "reply",
    [
        {"wait": {}},
        {"wait": {"event": "no spaces"}},
        {"wait": {"event": "e", "key": "x" * 257}},
        {"wait": {"event": "e", "timeoutMs": -1}},
        {"wait": {"event": "e", "timeout": 1}},
        {"wait": "e"},
    ],
)
async def test_a_malformed_wait_is_an_error_of_the_step(caller: Caller, reply: dict[str, Any]) -> None:
    """Wire section 2: 502, as for any malformed reply."""
    await caller.serves("wait", reply)
    outcome = await caller.ok("flow.run", graph=line("acme.w", "wait"))
    assert outcome["status"] == "failed"
    assert outcome["error"]["code"] == 502


async def test_a_wait_beside_another_signal_is_an_error(caller: Caller) -> None:
    """X4."""
    await caller.serves("wait", {"wait": {"event": "e"}, "interrupt": 1})
    outcome = await caller.ok("flow.run", graph=line("acme.w", "wait"))
    assert "interrupt and wait together" in outcome["error"]["message"]


async def test_the_sdk_waits_and_signals(caller: Caller) -> None:
    """E1, E2: `Flow.wait_for` in a worker, `Client.signal`."""
    worker = Worker(nc=caller.client, task_prefix=f"{caller.prefix}task")

    @worker.task("sdk.wait")
    def wait(flow: Flow) -> None:
        flow.set("got", flow.wait_for("order.paid", key=flow.get("order")))

    async with worker, Client(nc=caller.client, prefix=caller.prefix) as client:
        receipt = await client.signal("order.paid", "7", {"amount": 3}, id="m1", keep=60)
        assert (receipt.delivered, receipt.kept) == (0, True)
        outcome = await client.run(_line(), {"order": "7"}, timeout=WAIT)
        assert outcome.state == {"order": "7", "got": {"amount": 3}}


def _line() -> Any:
    from dwarf_nats.sdk import Graph

    graph = Graph("acme.sdk")
    graph.add_task("wait", "sdk.wait")
    graph.add_transition("wait", "END")
    return graph
