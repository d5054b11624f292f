"""Sources over a real JetStream: flows and events from messages, each once; what goes wrong is told in words (R1, R2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.js.api import RetentionPolicy, StreamConfig
from nats.js.errors import NotFoundError

from dwarf_nats.dev_servers import NatsServer
from tests.support.caller import WAIT, Caller, conforms, deployment, line, take

pytestmark = pytest.mark.slow
START = {"workflow": "order", "state": {"n": "=data.n"}}


@pytest.fixture(scope="module")
def jetstream() -> Any:
    """One server with JetStream for all tests of the module: each has a prefix and a stream of its own."""
    server = NatsServer(jetstream=True)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


class Streamed:
    """A deployment, its stream, and the graph `order` with a task that counts."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.js = caller.client.jetstream()
        self.stream = f"S{caller.prefix}"
        self.subject = f"{caller.prefix}orders"
        self.got: list[int] = []

    async def prepare(self) -> None:
        def work(request: dict[str, Any]) -> dict[str, Any]:
            self.got.append(request["state"].get("n"))
            return {"changes": {"done": True}}

        await self.caller.plays("work", work)
        await self.caller.ok("graph.put", **line("order", "work"))

    async def add_stream(self, **more: Any) -> None:
        await self.js.add_stream(StreamConfig(name=self.stream, subjects=[f"{self.subject}.>"], **more))

    async def publish(self, *numbers: int, to: str = "web") -> None:
        for n in numbers:
            await self.js.publish(f"{self.subject}.{to}", json.dumps({"n": n}).encode())

    async def put(self, **more: Any) -> Any:
        fields = {"name": "orders", "subject": f"{self.subject}.>", "stream": self.stream, "start": START}
        return await self.caller.ok("source.put", **{k: v for k, v in (fields | more).items() if v is not None})

    async def get(self) -> Any:
        return await self.caller.ok("source.get", name="orders")

    async def until(self, holds: Callable[[Any], bool]) -> Any:
        """Wait until the source stands as wanted."""
        async with asyncio.timeout(WAIT):
            while not holds(found := await self.get()):
                await asyncio.sleep(0.05)
        return found

    async def until_got(self, *numbers: int) -> None:
        async with asyncio.timeout(WAIT):
            while sorted(self.got) != sorted(numbers):
                assert len(self.got) <= len(numbers), self.got
                await asyncio.sleep(0.02)

    async def consumers(self) -> list[str]:
        return [one.name for one in await self.js.consumers_info(self.stream)]

    async def flows(self) -> int:
        return len((await self.caller.ok("flow.list", workflow="order", limit=1000))["flows"])


@asynccontextmanager
async def streamed(server: NatsServer, dsn: str, prefix: str, **more: Any) -> AsyncIterator[Streamed]:
    async with deployment(server.url, dsn, prefix, **more) as caller:
        one = Streamed(caller)
        await one.prepare()
        yield one


@pytest.fixture
async def orders(jetstream: NatsServer, dsn: str, prefix: str) -> AsyncIterator[Streamed]:
    async with streamed(jetstream, dsn, f"{prefix}x") as one:
        await one.add_stream()
        yield one


async def test_each_message_of_a_stream_starts_one_flow(orders: Streamed) -> None:
    """R1: those that were there before the source, and those that come; the reply says how it stands."""
    await orders.publish(1, 2)
    put = await orders.put()
    assert put["name"] == "orders"
    await orders.publish(3)
    await orders.until_got(1, 2, 3)
    found = await orders.until(lambda one: one["state"] == "running" and one["pending"] == 0 and not one.get("inHand"))
    assert (found["start"], found.get("rejected", 0), "lastError" in found) == (START, 0, False)
    (name,) = await orders.consumers()
    assert name.startswith(f"{orders.caller.prefix}-orders-")
    assert await orders.flows() == 3
    listed = await orders.caller.ok("source.list")
    assert [one["name"] for one in listed["sources"]] == ["orders"]


async def test_poison_does_not_stop_the_stream(orders: Streamed) -> None:
    """R2: terminated, counted, published, shown; the others start their flows, and nothing comes twice."""
    rejected = await orders.caller.hear(f"{orders.caller.prefix}.rejected.orders")
    await orders.put()
    await orders.js.publish(f"{orders.subject}.web", b"no json")
    await orders.js.publish(f"{orders.subject}.web", b'{"m": 1}')
    await orders.publish(1)
    told = [conforms("rejected", json.loads((await take(rejected)).data)) for _ in range(2)]
    assert [(one["sequence"], one["subject"], one["stream"]) for one in told] == [
        (1, f"{orders.subject}.web", orders.stream),
        (2, f"{orders.subject}.web", orders.stream),
    ]
    assert "not valid JSON" in told[0]["reason"]
    assert "start.state.n" in told[1]["reason"]
    await orders.until_got(1)
    found = await orders.until(lambda one: one.get("rejected") == 2 and not one.get("inHand"))
    assert (found["state"], "start.state.n" in found["lastError"]) == ("running", True)


async def test_a_workflow_that_comes_later_is_waited_for(orders: Streamed) -> None:
    """R2: the message comes again; one that names its workflow itself is rejected."""
    await orders.put(start={"workflow": "later"})
    await orders.publish(1)
    found = await orders.until(lambda one: "lastError" in one)
    assert "no workflow 'later'" in found["lastError"]
    assert found.get("rejected", 0) == 0
    await orders.caller.ok("graph.put", **line("later", "work"))
    await orders.until_got(1)
    await orders.put(start={"workflow": "=data.kind", "state": {"n": 2}})
    await orders.js.publish(f"{orders.subject}.web", b'{"kind": "nowhere"}')
    await orders.until(lambda one: one.get("rejected") == 1)


async def test_a_paused_source_leaves_its_messages_in_the_stream(orders: Streamed) -> None:
    await orders.put()
    await orders.publish(1)
    await orders.until_got(1)
    paused = await orders.caller.ok("source.pause", name="orders")
    assert (paused["state"], paused["paused"]) == ("paused", True)
    await orders.publish(2, 3)
    found = await orders.until(lambda one: one.get("pending") == 2)
    assert found["state"] == "paused"
    assert orders.got == [1]
    assert not (await orders.caller.ok("source.resume", name="orders")).get("paused")
    await orders.until_got(1, 2, 3)


async def test_a_consumer_that_is_removed_by_hand_comes_back_behind_what_was_read(orders: Streamed) -> None:
    """R1: nothing is started again, whatever is left in the stream."""
    await orders.put()
    await orders.publish(*range(20))
    await orders.until_got(*range(20))
    for _ in range(2):
        (name,) = await orders.consumers()
        await orders.js.delete_consumer(orders.stream, name)
        await orders.publish(20 + _)
        await orders.until_got(*range(21 + _))
    assert await orders.flows() == 22


async def test_a_stream_that_is_missing_is_named_and_found_when_it_comes_and_comes_again(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """R2; R1: a stream that is deleted and made again begins at 1 again, and its messages are others."""
    async with streamed(jetstream, sqlite_dsn, f"{prefix}y") as orders:
        await orders.put()
        found = await orders.until(lambda one: "there is no stream" in one.get("reason", ""))
        assert found["state"] == "waiting"
        assert f"nats stream add {orders.stream}" in found["reason"]
        await orders.add_stream()
        await orders.publish(1, 2)
        await orders.until_got(1, 2)
        await orders.js.delete_stream(orders.stream)
        await orders.add_stream()
        await orders.publish(3, 4)
        await orders.until_got(1, 2, 3, 4)
        assert await orders.flows() == 4


async def test_deleting_a_source_removes_its_consumer_and_no_other(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwarf_nats.bus.sources.DROP_SECONDS", 0.1)
    async with streamed(jetstream, sqlite_dsn, f"{prefix}z") as orders:
        await orders.add_stream(retention=RetentionPolicy.WORK_QUEUE)
        await orders.put(subject=f"{orders.subject}.web")
        other = await orders.js.pull_subscribe(f"{orders.subject}.app", "other", stream=orders.stream)
        await orders.publish(1)
        await orders.until_got(1)
        await orders.caller.ok("source.delete", name="orders")
        async with asyncio.timeout(WAIT):
            while await orders.consumers() != ["other"]:
                await asyncio.sleep(0.05)
        assert await orders.caller.code("source.get", name="orders") == 404
        assert await orders.caller.code("source.delete", name="orders") == 404
        await orders.publish(2)
        await orders.put(subject=f"{orders.subject}.web")
        await orders.until_got(1, 2)
        with pytest.raises(NotFoundError):
            await orders.js.consumer_info("nowhere", "x")
        await other.unsubscribe()


async def test_a_changed_source_goes_on_behind_what_was_read(orders: Streamed) -> None:
    await orders.put(subject=f"{orders.subject}.web")
    await orders.publish(1)
    await orders.until_got(1)
    await orders.publish(5, to="app")
    await orders.put(start={"workflow": "order", "state": {"n": "=data.n + 100"}})
    await orders.publish(2)
    async with asyncio.timeout(WAIT):
        while 102 not in orders.got:
            await asyncio.sleep(0.02)
    assert orders.got.count(1) == 1
    assert 101 not in orders.got


async def test_new_messages_only(orders: Streamed) -> None:
    await orders.publish(1, 2)
    await orders.put(deliver="new")
    await orders.until(lambda one: one["state"] == "running")
    await orders.publish(3)
    await orders.until_got(3)


async def test_messages_signal_events(orders: Streamed) -> None:
    """R1: each once, with an id of the same identity."""

    def waits(request: dict[str, Any]) -> dict[str, Any]:
        if "event" in request:
            return {"changes": {"got": request["event"]["data"]}}
        return {"wait": {"event": "paid", "key": "7"}}

    await orders.caller.plays("wait", waits)
    flow = await orders.caller.ok("flow.create", graph=line("w", "wait"), start=True)
    await orders.put(start=None, signal={"event": "paid", "key": "=string(data.n)", "data": "=subject"})
    await orders.publish(7)
    outcome = await orders.caller.ok("flow.await", **flow)
    assert outcome["state"]["got"] == f"{orders.subject}.web"


async def test_a_plain_source_uses_each_message_once_at_most(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """R1: without a stream."""
    async with streamed(jetstream, sqlite_dsn, f"{prefix}p") as orders:
        rejected = await orders.caller.hear(f"{orders.caller.prefix}.rejected.orders")
        await orders.put(stream=None)
        await orders.until(lambda one: one["state"] == "running")
        await orders.caller.client.publish(f"{orders.subject}.web", b'{"n": 1}')
        await orders.caller.client.publish(f"{orders.subject}.web", b"[]")
        await orders.until_got(1)
        told = conforms("rejected", json.loads((await take(rejected)).data))
        assert "sequence" not in told
        await orders.caller.ok("source.pause", name="orders")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "a.b"}, "no name of a source"),
        ({"subject": "{prefix}.flow.>", "stream": None}, "covers requests of this service"),
        ({"subject": "*.flow.create", "stream": None}, "name that is not that of replies"),
        ({"subject": "{prefix}task.work", "stream": None}, "covers requests of this service"),
        ({"subject": "{prefix}.>"}, "what this source rejects"),
        ({"start": {"workflow": "order", "state": "=data."}}, "start.state"),
        ({"start": {"workflow": "order", "options": {"prio": 1}}}, "did you mean 'priority'"),
        ({"start": {"workflow": "order", "options": {"priority": "high"}}}, "`priority` must be an integer"),
        ({"start": {"workflow": "order", "options": {"idempotencyKey": "k"}}}, "has no place in a source"),
        ({"start": {"workflow": "order"}, "signal": {"event": "e"}}, "give one of them"),
        ({"deliver": "some"}, "`deliver`"),
        ({"subjekt": "a"}, "`subjekt`"),
    ],
)
async def test_a_source_that_makes_no_sense_is_refused(caller: Caller, fields: dict[str, Any], why: str) -> None:
    given = {"name": "orders", "subject": "orders.>", "stream": "ORDERS", "start": START} | fields
    if isinstance(given["subject"], str):
        given["subject"] = given["subject"].format(prefix=caller.prefix)
    error = await caller.refused("source.put", **{k: v for k, v in given.items() if v is not None})
    assert error["code"] == 400
    assert why in error["message"]
