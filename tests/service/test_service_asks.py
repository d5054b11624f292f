"""Three people who are asked by a graph without a line of code, over NATS (N6, P5, P6)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.caller import Caller, take

PEOPLE = ("ada", "bea", "cyd")


def approvals(**more: Any) -> dict[str, Any]:
    """Three asks at once, each with its own question; `more` goes into each of them."""
    return {
        "name": "acme.asks",
        "entryPoint": "split",
        "tasks": [
            {"name": "split", "set": {"total": "=price * 2"}},
            *({"name": name, "ask": {"payload": {"for": name, "total": "=total"}, **more}} for name in PEOPLE),
            {"name": "join", "fanIn": True, "set": {"asked": len(PEOPLE)}},
        ],
        "transitions": [
            *({"from": "split", "to": name} for name in PEOPLE),
            *({"from": name, "to": "join"} for name in PEOPLE),
            {"from": "join", "to": "END"},
        ],
    }


async def asked(caller: Caller, flow: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The three pauses by node, once all people are asked."""
    async with asyncio.timeout(30):
        while len(found := (await caller.ok("flow.snapshot", **flow)).get("pauses", [])) != len(PEOPLE):
            await asyncio.sleep(0)
    return {one["task"]: one for one in found}


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
async def test_each_answer_reaches_the_question_of_its_person(either: Caller, order: tuple[int, ...]) -> None:
    """P5, N6: whatever the order; the data goes into the field of the node."""
    flow = await either.ok("flow.create", graph=approvals(), state={"price": 21}, start=True)
    pauses = await asked(either, flow)
    assert {name: one["payload"] for name, one in pauses.items()} == {
        name: {"for": name, "total": 42} for name in PEOPLE
    }
    for at in order:
        name = PEOPLE[at]
        await either.ok("flow.resume", stepKey=pauses[name]["stepKey"], data={"signed": name})
        assert await either.code("flow.resume", stepKey=pauses[name]["stepKey"]) == 409
    ended = await either.ok("flow.await", **flow)
    assert ended["status"] == "completed"
    assert ended["state"] == {"price": 21, "total": 42, "asked": 3, **{name: {"signed": name} for name in PEOPLE}}


async def test_one_who_does_not_answer_in_time_takes_the_error_edge(either: Caller) -> None:
    """P6, N6: a timeout of an ask is an error 408."""
    heard = await either.hear(f"{either.prefix}.stopped.desk")
    graph = {
        "name": "acme.late",
        "entryPoint": "ask",
        "tasks": [
            {"name": "ask", "ask": {"payload": "=price", "timeoutMs": 40}},
            {"name": "late", "set": {"code": "=onErr.code", "onErr": None}},
        ],
        "transitions": [
            {"from": "ask", "to": "END"},
            {"from": "ask", "to": "late", "onError": True},
            {"from": "late", "to": "END"},
        ],
    }
    await either.ok("flow.create", graph=graph, state={"price": 7}, start=True, options={"notify": "desk"})
    paused, ended = [json.loads((await take(heard)).data) for _ in range(2)]
    assert (paused["status"], paused["interruptPayload"]) == ("interrupted", 7)
    assert paused["pauses"][0]["until"] > paused["pauses"][0]["since"]
    assert (ended["status"], ended["state"]) == ("completed", {"price": 7, "code": 408})
