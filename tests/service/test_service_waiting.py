"""Requests that wait: they hold up nobody, are bounded, and are told when their replica stops (O3, O4; wire section 1)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.server import replica
from tests.support.caller import WAIT, Caller, connected, deployment, line, settings, take

MANY = 300


async def waiting(caller: Caller, operation: str, count: int, **fields: Any) -> list[asyncio.Task[Msg]]:
    """That many requests on their way. One more, which is answered, shows that the replica has taken them."""
    requests = [asyncio.create_task(caller.raw(operation, fields)) for _ in range(count)]
    await asyncio.sleep(0)
    await caller.ok("shard.info")
    return requests


async def replies(requests: list[asyncio.Task[Msg]]) -> list[dict[str, Any]]:
    return [json.loads(one.data) for one in await asyncio.wait_for(asyncio.gather(*requests), WAIT)]


async def test_hundreds_of_waiting_requests_hold_up_nobody(either: Caller) -> None:
    """O4: while they wait, every other request is served; when the flow stops, each has its outcome."""
    asked = await either.holds("slow")
    await either.serves("quick", {"changes": {"done": True}})
    held = await either.ok("flow.create_task", task="slow", state={"n": 1}, start=True)
    call = await take(asked)
    waits = [
        *await waiting(either, "flow.await", MANY, **held),
        *await waiting(either, "flow.poll", MANY, **held),
    ]
    for _ in range(20):
        assert (await either.ok("flow.snapshot", **held))["status"] == "running"
        assert (await either.ok("flow.run", graph=line("l", "quick")))["state"] == {"done": True}
    assert not any(one.done() for one in waits)
    await either.answer(call, {"changes": {"n": 2}})
    assert all(one["state"] == {"n": 2} for one in await replies(waits))


async def test_a_timeout_of_0_does_not_wait(caller: Caller) -> None:
    """Wire section 1: await and run are a 408, that of a run with the key; poll tells how the flow stands."""
    asked = await caller.holds("slow")
    error = await caller.refused("flow.run", graph=line("l", "slow"), timeoutMs=0)
    assert error["code"] == 408
    flow = {"flowKey": error["flowKey"]}
    call = await take(asked)
    assert await caller.code("flow.await", **flow, timeoutMs=0) == 408
    assert (await caller.ok("flow.poll", **flow, timeoutMs=0))["status"] == "running"
    await caller.answer(call, {"changes": {"done": True}})
    assert (await caller.ok("flow.await", **flow))["state"] == {"done": True}, "the flow went on"
    assert (await caller.ok("flow.await", **flow, timeoutMs=0))["status"] == "completed"
    assert (await caller.ok("flow.poll", **flow, timeoutMs=0))["status"] == "completed"


async def test_a_wait_for_a_flow_that_is_cancelled_or_deleted_ends(either: Caller) -> None:
    """O4, O9, O10: the outcome, or 404."""
    one, other = [await either.ok("flow.create_task", task="slow") for _ in range(2)]
    first, second = await waiting(either, "flow.await", 5, **one), await waiting(either, "flow.await", 5, **other)
    await either.ok("flow.cancel", **one, reason="enough")
    assert [each["cancelReason"] for each in await replies(first)] == ["enough"] * 5
    await either.ok("flow.delete", **other)
    assert [each["error"]["code"] for each in await replies(second)] == [404] * 5


async def test_a_drain_answers_every_wait_with_a_503_and_another_replica_takes_over(
    nats_server: NatsServer, dsn: str, prefix: str
) -> None:
    """B3, O4: a wait whose replica stops gets a 503; asked again, the next replica serves it."""
    async with connected(nats_server.url) as client:
        caller = Caller(client, prefix)
        async with replica(settings(nats_server.url, dsn, prefix)):
            flow = await caller.ok("flow.create_task", task="quick")
            waits = await waiting(caller, "flow.await", MANY, **flow)
        errors = [one["error"] for one in await replies(waits)]
        assert len(errors) == MANY
        assert {one["code"] for one in errors} == {503}
        async with replica(settings(nats_server.url, dsn, prefix)):
            await caller.serves("quick", {"changes": {"done": True}})
            waits = await waiting(caller, "flow.await", 1, **flow)
            await caller.ok("flow.start", **flow)
            assert (await replies(waits))[0]["state"] == {"done": True}


async def test_a_drain_lets_the_tasks_in_hand_finish(nats_server: NatsServer, dsn: str, prefix: str) -> None:
    """B3, wire section 6: the result is written before the replica goes, and the step is not run again."""
    async with connected(nats_server.url) as client:
        caller = Caller(client, prefix)
        asked = await caller.holds("slow")
        async with asyncio.timeout(WAIT):
            async with replica(settings(nats_server.url, dsn, prefix, drain_ms=30_000)):
                flow = await caller.ok("flow.create_task", task="slow", start=True)
                call = await take(asked)
                waits = await waiting(caller, "flow.await", 1, **flow)

                async def finish() -> None:
                    await asyncio.wait(waits)  # it is refused once the drain has begun
                    await caller.answer(call, {"changes": {"done": True}})

                finishing = asyncio.create_task(finish())
            await finishing
        assert (await replies(waits))[0]["error"]["code"] == 503
        async with replica(settings(nats_server.url, dsn, prefix)):
            assert (await caller.ok("flow.await", **flow))["state"] == {"done": True}
        assert asked.empty()


async def test_beyond_the_bound_on_waiting_requests_is_a_429(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """Wire section 1: others are served meanwhile, and a place that becomes free is given away again."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, max_waiting=3) as caller:
        flow = await caller.ok("flow.create_task", task="slow")
        waits = await waiting(caller, "flow.await", 3, **flow)
        for operation in ("flow.await", "flow.poll"):
            assert await caller.code(operation, **flow) == 429
        error = await caller.refused("flow.run", graph=line("l", "slow"))
        assert error["code"] == 429
        assert "3 waiting requests" in error["message"]
        assert len((await caller.ok("flow.list"))["flows"]) == 1, "a refused run made no flow"
        await caller.ok("flow.cancel", **flow)
        assert {one["status"] for one in await replies(waits)} == {"cancelled"}
        assert (await caller.ok("flow.await", **flow))["status"] == "cancelled"


async def test_beyond_the_bound_on_requests_is_a_429(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> None:
    """Wire section 1: the requests taken are carried out; the one too many had no effect."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, max_requests=2) as caller:
        graphs = await caller.hear(f"{prefix}graph.slow")
        created = [asyncio.create_task(caller.ok("flow.create", workflow="slow")) for _ in range(2)]
        asked = [await take(graphs) for _ in range(2)]
        error = await caller.refused("flow.create_task", task="x")
        assert error["code"] == 429
        assert "2 requests" in error["message"]
        assert await caller.code("shard.info") == 429
        for message in asked:
            await caller.answer(message, line("slow", "x"))
        keys = {one["flowKey"] for one in await asyncio.wait_for(asyncio.gather(*created), WAIT)}
        assert {one["flowKey"] for one in (await caller.ok("flow.list"))["flows"]} == keys


async def test_a_long_timeout_is_cut_to_the_configured_cap(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """Wire section 1: capped, not refused; the default wait is under the cap as well."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, max_timeout_ms=20) as caller:
        flow = await caller.ok("flow.create_task", task="slow")
        assert await caller.code("flow.await", **flow, timeoutMs=10**15) == 408
        assert await caller.code("flow.await", **flow) == 408
        assert (await caller.ok("flow.poll", **flow, timeoutMs=10**15))["status"] == "created"
