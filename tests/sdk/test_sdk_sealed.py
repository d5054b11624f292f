"""Sealed fields from end to end: client and worker read them, and nothing between does (B9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, Conflict, Forbidden
from dwarf_nats.sdk import END, Client, Codec, Flow, FlowOptions, Graph, Status, Worker
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.testing import service as running_service

OLD = Codec({"2025": b"o" * 32}, ["secret_*"])
NEW = Codec({"2026": b"n" * 32, "2025": b"o" * 32}, ["secret_*"])
SECRETS = ("4711 0815", "DE 89", "s3 same", "pin 9999", "half way")
"""No ciphertext, key or time contains them: none has a space."""


@dataclass
class Place:
    """A running deployment: clients of it with a codec and without one."""

    url: str
    prefix: str
    plain: Client
    client: Client

    @asynccontextmanager
    async def serving(self, codec: Codec | None = NEW, **functions: Any) -> AsyncIterator[None]:
        worker = Worker(self.url, task_prefix=f"{self.prefix}task", drain_seconds=0, codec=codec)
        for url, function in functions.items():
            worker.add_task(url, function)
        async with worker:
            yield


@pytest.fixture
async def place(nats_server: NatsServer, dsn: str, prefix: str) -> AsyncIterator[Place]:
    url = nats_server.url
    async with (
        running_service(url, dsn, prefix=prefix, task_prefix=f"{prefix}task"),
        Client(url, prefix=prefix) as plain,
        Client(url, prefix=prefix, codec=NEW) as client,
    ):
        yield Place(url, prefix, plain, client)


def order() -> Graph:
    graph = Graph("order")
    graph.add_chain("pay", "confirm", END)
    graph.declare_field("iban", "string", required=True, sealed=True)
    graph.declare_field("total", "integer")
    graph.declare_field("seen", "object")
    return graph


def pay(flow: Flow, secret_card: str, iban: str) -> dict[str, Any]:
    flow.progress(0.5, data={"secret_note": "half way"})
    assert (secret_card, iban) == ("4711 0815", "DE 89")
    return {"iban": "DE 89 3704", "secret_card": {"number": secret_card}, "paid": True}


def confirm(flow: Flow) -> dict[str, Any]:
    answer = flow.interrupt({"secret_question": "s3 same"})
    return {"secret_pin": answer["secret_pin"], "by": answer["by"]}


async def test_nobody_between_reads_a_sealed_field(place: Place, nc: Nats) -> None:
    """B9: state, changes, progress, payloads, data and results; not on the bus, not in what a client without keys is told."""
    passed: list[bytes] = []

    async def keep(msg: Msg) -> None:
        passed.append(msg.data)

    await nc.subscribe(">", cb=keep)
    await round_trip(nc)
    start = {"secret_card": "4711 0815", "iban": "DE 89", "total": 7}
    async with place.serving(pay=pay, confirm=confirm):
        key = await place.client.create(order(), start, start=True)
        paused = await place.client.await_(key)
        assert paused.interrupt_payload == {"secret_question": "s3 same"}
        assert [pause.payload for pause in paused.pauses] == [{"secret_question": "s3 same"}]
        await place.client.resume(key, {"secret_pin": "pin 9999", "by": "ada"})
        done = await place.client.await_(key)
        assert done.status is Status.COMPLETED
        assert done.state == {
            "secret_card": {"number": "4711 0815"},
            "iban": "DE 89 3704",
            "secret_pin": "pin 9999",
            "by": "ada",
            "total": 7,
            "paid": True,
        }
        first, _ = await place.client.history(key)
        step = await place.client.step(first.step_key)
        assert step.state_json is not None
        assert b'"DE 89"' in step.state_json
        seen = (await place.plain.snapshot(key)).state
        assert {name for name, value in seen.items() if isinstance(value, dict) and "$sealed" in value} == {
            "secret_card",
            "iban",
            "secret_pin",
        }
        copy = await place.client.fork(first.step_key, {"total": 8})
        assert (await place.client.await_(copy)).status is Status.INTERRUPTED
        assert (await place.client.snapshot(copy)).state["iban"] == "DE 89 3704"
    await round_trip(nc)
    texts = b"\n".join(passed)
    assert b"$sealed" in texts
    assert b'"total":7' in texts
    assert [secret for secret in SECRETS if secret.encode() in texts] == []


async def test_keys_are_rotated_while_flows_run(place: Place) -> None:
    """B9: any known key opens, the first seals; who lacks a key is told which one."""
    graph = Graph("rotated")
    graph.add_chain("look", END)

    def look(secret_a: int) -> dict[str, Any]:
        return {"secret_a": secret_a + 1}

    async with Client(place.url, prefix=place.prefix, codec=OLD) as before:
        async with place.serving(codec=OLD, look=look):
            key = await before.create(graph, {"secret_a": 1})
            made = await place.client.run(graph, {"secret_a": 1})
            assert made.status is Status.FAILED
            assert made.error is not None
            assert made.error.code == 403
            assert (
                "field 'secret_a' is sealed with the key '2026', which this codec does not have" in made.error.message
            )
        async with place.serving(codec=NEW, look=look):
            await before.start(key)
            assert (await place.client.await_(key)).state == {"secret_a": 2}
            with pytest.raises(Forbidden, match="sealed with the key '2026'"):
                await before.snapshot(key)
    async with place.serving(codec=None, look=lambda secret_a: {"what": sorted(secret_a)}):
        bare = await place.client.run(graph, {"secret_a": 1})
        assert bare.state == {"secret_a": 1, "what": ["$sealed", "data", "key"]}


async def test_the_same_create_again_makes_no_second_flow_though_it_is_sealed_anew(place: Place) -> None:
    """O1: an idempotency key is taken for what is asked, and sealed values are never the same text twice."""
    graph = Graph("once")
    graph.add_chain("pay", END)
    options = FlowOptions(idempotency_key="order-7")
    first = await place.client.create(graph, {"secret_a": 1, "n": 1}, options)
    assert await place.client.create(graph, {"secret_a": 1, "n": 1}, options) == first
    for other in ({"secret_a": 1, "n": 2}, {"n": 1}, {"n": 1, "secret_b": 1}):
        with pytest.raises(Conflict):
            await place.client.create(graph, other, options)


async def test_a_condition_cannot_read_a_sealed_field_and_types_are_not_checked_in_it(place: Place) -> None:
    """G11, B9."""
    graph = order()
    graph.add_when("pay", "confirm", 'iban == "DE 89"')
    with pytest.raises(BadRequest, match="it reads the field 'iban', which is sealed"):
        await place.client.validate_graph(graph)
    key = await place.client.create(order(), {"iban": 7, "total": 7})
    (entry,) = await place.client.history(key)
    assert (await place.client.step(entry.step_key)).state_json == b'{"iban":7,"total":7}'
    with pytest.raises(BadRequest, match="field 'iban' must be a string, got integer"):
        await place.plain.create(order(), {"iban": 7})
    with pytest.raises(BadRequest, match="field 'total' must be an integer, got object"):
        await place.plain.create(order(), {"iban": "x", "total": {"$sealed": "A256GCM", "key": "2026", "data": ""}})


async def test_a_raw_request_is_sent_and_returned_as_it_is(place: Place) -> None:
    """What travels is the wire's, sealed: as `dwarf-nats` consoles and proxies hand it on."""
    (entry,) = await place.client.history(await place.client.create(order(), {"iban": "DE 89"}))
    body = await place.client.request("step.get", f'{{"stepKey":"{entry.step_key}"}}'.encode())
    assert b"$sealed" in body


async def test_steps_that_come_in_one_message_are_opened_and_sealed_each_for_itself(place: Place, nc: Nats) -> None:
    """B9: many at once, which go to a worker in batches; one that cannot be opened harms no other."""
    graph = Graph("many")
    graph.add_chain("look", "again", END)
    told: list[bytes] = []

    async def keep(msg: Msg) -> None:
        told.append(msg.data)

    await nc.subscribe(">", cb=keep)
    await round_trip(nc)

    def look(flow: Flow, secret_a: str) -> dict[str, Any]:
        flow.progress(0.5, data={"secret_b": secret_a})
        return {"secret_a": f"{secret_a}!"}

    other = Codec({"2019": b"x" * 32}, ["secret_*"])
    async with (
        place.serving(look=look, again=look),
        Client(place.url, prefix=place.prefix, codec=other) as stranger,
    ):
        keys = [await place.client.create(graph, {"secret_a": f"s3 same{n}"}) for n in range(40)]
        keys += [await stranger.create(graph, {"secret_a": "s3 same"})]
        assert (
            await place.client.run(graph, {"secret_a": "s3 same"})
        ).status is Status.COMPLETED  # the worker is known
        await asyncio.gather(*(place.client.start(key) for key in keys))
        outcomes = await asyncio.gather(*(place.plain.await_(key) for key in keys))
        assert [one.status for one in outcomes] == [Status.COMPLETED] * 40 + [Status.FAILED]
        assert (outcomes[-1].error.code if outcomes[-1].error else None) == 403
        assert (await place.client.snapshot(keys[7])).state == {"secret_a": "s3 same7!!"}
    await round_trip(nc)
    assert b"s3 same" not in b"\n".join(told)
    assert any(b'"stepId"' in one and b"$sealed" in one for one in told), "no batches"
