"""Holds over NATS, by requests and by the client (K2, wire: section 1)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from dwarf_nats import errors
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Client
from tests.support.caller import Caller

pytestmark = pytest.mark.slow


async def test_k2_a_hold_is_put_seen_and_deleted(caller: Caller) -> None:
    """K2: by a request with an actor; the steps it keeps are counted and go on afterwards."""
    asked = await caller.holds("charge")
    until = "2090-01-01T00:00:00.000000Z"
    put = await caller.ok("hold.put", {"Dwarf-Actor": "ada"}, task="charge", reason="moved", until=until)
    assert {key: put[key] for key in put if key != "since"} == {
        "task": "charge", "reason": "moved", "until": until, "actor": "ada", "steps": 0,
    }  # fmt: skip
    flow = await caller.ok("flow.create_task", task="charge", start=True)
    async with asyncio.timeout(20):
        while (await caller.ok("hold.list"))["holds"][0]["steps"] != 1:
            pass
    (wait,) = (await caller.ok("flow.explain", **flow))["waits"]
    assert (wait["reason"], wait["until"]) == ("paused", until)
    assert wait["text"] == "Stopped by hand: the task charge was put on hold by ada: moved"
    assert asked.empty()
    await caller.ok("hold.delete", task="charge")
    async with asyncio.timeout(20):
        await caller.answer(await asked.get())
    assert (await caller.ok("flow.await", **flow))["status"] == "completed"
    assert await caller.ok("hold.list") == {"holds": []}


async def test_bad_holds_are_refused_with_what_to_do(caller: Caller) -> None:
    assert await caller.code("hold.put") == 400
    assert await caller.code("hold.put", task="a", workflow="b") == 400
    assert await caller.code("hold.put", task="a", until="2001-01-01T00:00:00Z") == 400
    assert await caller.code("hold.put", task="a", until="soon") == 400
    assert await caller.code("hold.put", task="a", untill="2090-01-01T00:00:00Z") == 400
    assert await caller.code("hold.delete", task="never") == 404
    assert await caller.code("hold.delete") == 400


async def test_the_client_puts_lists_and_deletes_holds(caller: Caller, nats_server: NatsServer) -> None:
    """K2: times in results are microseconds."""
    async with Client(nats_server.url, prefix=caller.prefix, actor="bea") as client:
        until = datetime.now(UTC) + timedelta(hours=1)
        hold = await client.put_hold(workflow="order", reason="wrong prices", until=until)
        assert (hold.workflow, hold.reason, hold.actor) == ("order", "wrong prices", "bea")
        assert hold.until == round(until.timestamp() * 1_000_000)
        assert await client.list_holds() == [hold]
        await client.delete_hold(workflow="order")
        assert await client.list_holds() == []
        with pytest.raises(errors.NotFound):
            await client.delete_hold(workflow="order")
        with pytest.raises(errors.BadRequest, match="time zone"):
            await client.put_hold(task="a", until=datetime(2090, 1, 1))
