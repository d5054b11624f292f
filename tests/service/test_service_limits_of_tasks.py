"""Limits as an operator puts and sees them, over NATS and on both databases (K1)."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.caller import Caller

SOON = 20.0


async def listed(caller: Caller) -> list[dict[str, Any]]:
    return [{**one, "updatedAt": ""} for one in (await caller.ok("limit.list"))["limits"]]


async def test_a_limit_is_put_shown_explained_and_removed(either: Caller) -> None:
    """K1, Q2."""
    caller = either
    asked = await caller.holds("charge")
    limit = {"name": "bank", "task": "charge", "by": "tag:bank", "concurrency": 1}
    assert await caller.ok("limit.put", **limit) == {}
    flows = [
        (await caller.ok("flow.create_task", task="charge", start=True, options={"tags": {"bank": "first"}}))["flowKey"]
        for _ in range(2)
    ]
    async with asyncio.timeout(SOON):
        first = await asked.get()
        while (shown := await listed(caller))[0]["waiting"] != 1:
            await asyncio.sleep(0.01)
    assert shown == [{**limit, "running": 1, "waiting": 1, "updatedAt": ""}]
    waits = [(await caller.ok("flow.explain", flowKey=flow))["waits"][0] for flow in flows]
    (waiting,) = [one for one in waits if one["reason"] == "queued"]
    assert (waiting["because"], waiting["limit"], waiting["key"]) == ("limit", "bank", "first")
    assert waiting["text"] == "Waits for its turn: as many run as the limit bank allows for first."
    assert asked.empty()
    await caller.ok("limit.put", **{**limit, "concurrency": 2})
    async with asyncio.timeout(SOON):
        second = await asked.get()
    for message in (first, second):
        await caller.answer(message)
    for flow in flows:
        assert (await caller.ok("flow.await", flowKey=flow))["status"] == "completed"
    assert await caller.ok("limit.delete", name="bank") == {}
    assert await listed(caller) == []


async def test_a_limit_that_cannot_be_is_refused_with_what_to_do(caller: Caller) -> None:
    for body, said in (
        ({"name": "a", "concurrency": 1}, "either a `task`"),
        ({"name": "a", "task": "b"}, "how much is allowed"),
        ({"name": "a", "task": "b", "concurrency": 1, "by": "customer"}, "tag:<name>"),
        ({"name": "a", "task": "b", "concurency": 1}, "concurrency"),
    ):
        error = await caller.refused("limit.put", **body)
        assert error["code"] == 400
        assert said in error["message"]
    assert (await caller.refused("limit.delete", name="nobody"))["code"] == 404
