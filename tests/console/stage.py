"""Flows of every kind that the flow page shows, made with a real service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.support.caller import WAIT, Caller

FORM = {
    "title": "Release the order",
    "type": "object",
    "properties": {
        "approved": {"type": "boolean", "title": "It may go out"},
        "limit": {"type": "integer", "title": "Limit", "minimum": 1, "maximum": 500, "default": 100},
        "speed": {"enum": ["standard", "express"], "title": "Speed", "default": "standard"},
        "note": {"type": "string", "title": "Note", "maxLength": 400, "description": "The customer sees it."},
    },
    "required": ["limit"],
}
ORDER: dict[str, Any] = {
    "name": "order",
    "entryPoint": "reserve",
    "fields": {"token": {"type": "string", "sealed": True}, "order": {"type": "object"}, "paid": {}, "lot": {}},
    "tasks": [
        {"name": "reserve", "compensate": {"set": {"reserved": None}}},
        {"name": "charge", "url": "billing.charge"},
        {"name": "manual-review"},
        {"name": "ship", "url": "shipping.ship"},
        {"name": "notify", "publish": {"subject": "mail.outbox", "payload": {"to": "=order.mail"}}},
    ],
    "annotations": {"charge": "asks the bank"},
    "transitions": [
        {"from": "reserve", "to": "charge"},
        {"from": "charge", "to": "ship", "switch": True, "when": "order.total < 100.0"},
        {"from": "charge", "to": "manual-review", "switch": True, "when": "true"},
        {"from": "manual-review", "to": "ship"},
        {"from": "ship", "to": "notify"},
        {"from": "notify", "to": "END"},
    ],
}
ASK = {
    "name": "release",
    "entryPoint": "prepare",
    "tasks": [
        {"name": "prepare", "set": {"order": "A-1"}},
        {"name": "approve", "ask": {"payload": {"question": "May order A-1 go out?", "total": 129.5, "form": FORM}}},
        {"name": "record", "set": {"ok": "=approve.approved"}},
    ],
    "transitions": [
        {"from": "prepare", "to": "approve"},
        {"from": "approve", "to": "record"},
        {"from": "record", "to": "END"},
    ],
}
FAN = {
    "name": "fan",
    "entryPoint": "split",
    "tasks": [
        {"name": "split", "set": {"ready": True}},
        {"name": "work"},
        {"name": "skip", "set": {"skipped": True}},
        {"name": "join", "fanIn": True, "set": {"joined": True}},
    ],
    "transitions": [
        {"from": "split", "to": "work", "forEach": "items", "as": "item"},
        {"from": "work", "to": "join"},
        {"from": "work", "to": "skip", "onError": True},
        {"from": "skip", "to": "join"},
        {"from": "join", "to": "END"},
    ],
}
LOOP = {
    "name": "loop",
    "entryPoint": "begin",
    "tasks": [
        {"name": "begin", "set": {"n": 0}},
        {"name": "count", "set": {"n": "=n + 1"}},
        {"name": "done", "set": {"over": True}},
    ],
    "transitions": [
        {"from": "begin", "to": "count"},
        {"from": "count", "to": "count", "switch": True, "when": "n < 4"},
        {"from": "count", "to": "done", "switch": True, "when": "true"},
        {"from": "done", "to": "END"},
    ],
}
CHILD = {
    "name": "payment",
    "entryPoint": "quote",
    "tasks": [{"name": "quote", "set": {"price": 12}}, {"name": "confirm", "ask": {"payload": "Is 12 all right?"}}],
    "transitions": [{"from": "quote", "to": "confirm"}, {"from": "confirm", "to": "END"}],
}
PARENT = {
    "name": "parent",
    "entryPoint": "pay",
    "tasks": [
        {"name": "pay", "workflow": "payment", "input": {}, "into": "payment"},
        {"name": "thank", "set": {"thanked": True}},
    ],
    "transitions": [{"from": "pay", "to": "thank"}, {"from": "thank", "to": "END"}],
}
RESCUED = {
    "name": "rescued",
    "entryPoint": "try",
    "tasks": [{"name": "try", "set": {"x": "=nowhere.field"}}, {"name": "rescue", "set": {"saved": True}}],
    "transitions": [
        {"from": "try", "to": "END"},
        {"from": "try", "to": "rescue", "onError": True},
        {"from": "rescue", "to": "END"},
    ],
}


def sealed(key: str) -> str:
    """The id of a key."""
    return "-".join(key.split("-")[:2])


async def made(caller: Caller, graph: dict[str, Any], **state: Any) -> str:
    """The key of a started flow of a graph."""
    key: str = (await caller.ok("flow.create", graph=graph, state=state, start=True))["flowKey"]
    return key


async def stopped(caller: Caller, key: str, status: str) -> str:
    """The id of a flow that stops with a status."""
    outcome = await caller.ok("flow.await", flowKey=key)
    assert outcome["status"] == status, outcome
    return sealed(key)


async def failed(caller: Caller) -> str:
    """A flow that failed at its second step of five."""
    await caller.serves("reserve", {"changes": {"reserved": True, "lot": 7}})
    await caller.serves("billing.charge", {"error": {"message": "card declined", "code": 402}})
    order = {"id": "A-1", "total": 129.5, "mail": "ada@example.org", "lines": [{"sku": "x" * 40, "n": 2}] * 12}
    return await stopped(caller, await made(caller, ORDER, order=order, token="secret"), "failed")


async def waiting(caller: Caller) -> str:
    """A flow that waits for a person."""
    return await stopped(caller, await made(caller, ASK), "interrupted")


async def rescued(caller: Caller) -> str:
    """A flow that took an error edge."""
    return await stopped(caller, await made(caller, RESCUED), "completed")


async def looped(caller: Caller) -> str:
    """A flow with a node that ran four times."""
    return await stopped(caller, await made(caller, LOOP), "completed")


async def parent(caller: Caller) -> str:
    """A flow whose child waits for a person."""
    await caller.ok("graph.put", **CHILD)
    return await stopped(caller, await made(caller, PARENT), "interrupted")


async def fanned(caller: Caller, count: int = 50, *, reply: Callable[[dict[str, Any]], Any] | None = None) -> str:
    """The key of a flow with so many branches; two of them took an error edge."""

    def answer(request: dict[str, Any]) -> Any:
        if request["state"]["itemIndex"] in (3, 17):
            return {"error": {"message": f"element {request['state']['item']} is broken", "code": 422}}
        return {"changes": {}}

    await caller.plays("work", reply or answer)
    return await made(caller, FAN, items=[f"sku-{number}" for number in range(count)])


async def branches(caller: Caller, key: str, enough: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Wait until the history of a flow is as it should be."""
    async with asyncio.timeout(WAIT):
        while not enough((await caller.ok("flow.history", flowKey=key, limit=1000))["steps"]):
            await asyncio.sleep(0)
