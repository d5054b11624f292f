"""Output of running tasks, from `flow.emit` to `client.stream` (B8)."""

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
from dwarf_nats.errors import NotFound
from dwarf_nats.sdk import END, Chunk, Client, Codec, Flow, Graph, OutputEnd, Status, TaskError, Worker
from dwarf_nats.sdk.flow_stream import FlowStream
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.testing import service as running_service

CODEC = Codec({"2026": b"n" * 32}, ["secret"])
PATIENCE = 30.0
TOKENS = ["Once", " upon", " a", " time"]


@dataclass
class Place:
    """A running deployment and a client of it."""

    url: str
    prefix: str
    client: Client

    @asynccontextmanager
    async def serving(self, codec: Codec | None = None, **functions: Any) -> AsyncIterator[None]:
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
        Client(url, prefix=prefix) as client,
    ):
        yield Place(url, prefix, client)


async def tell(flow: Flow) -> dict[str, Any]:
    for token in TOKENS:
        flow.emit(token)
    return {"told": "".join(TOKENS)}


def tell_in_a_thread(flow: Flow) -> None:
    for n in range(200):
        flow.emit({"n": n})


async def read(stream: FlowStream) -> list[Chunk]:
    async with asyncio.timeout(PATIENCE):
        return [chunk async for chunk in stream]


async def started(client: Client, key: str, **how: Any) -> tuple[list[Chunk], FlowStream]:
    """Start a flow and read all that its tasks emit."""
    async with client.stream(key, **how) as stream:
        await client.start(key)
        return await read(stream), stream


async def test_whoever_follows_a_flow_reads_what_its_tasks_and_those_of_flows_it_calls_emit(place: Place) -> None:
    """B8: in order, with the end of each execution, under the flow at the top; from claimed steps, eager ones and children."""
    inner = Graph("inner")
    inner.add_chain("tell", "count", END)
    outer = Graph("outer")
    outer.add_chain("tell", "call", "count", END)
    await place.client.put_graph(inner)

    def call(flow: Flow) -> None:
        flow.emit("calling")
        flow.subgraph("inner")

    async with place.serving(tell=tell, call=call, count=tell_in_a_thread):
        key = await place.client.create(outer)
        chunks, stream = await started(place.client, key)
    assert stream.outcome is not None
    assert stream.outcome.status is Status.COMPLETED
    counted = [{"n": n} for n in range(200)]
    flow_id = key.rpartition("-")[0]
    told = [(chunk.task, chunk.end or chunk.data) for chunk in chunks]
    assert told == [
        *(("tell", token) for token in TOKENS),
        ("tell", OutputEnd.DONE),
        ("call", "calling"),
        ("call", OutputEnd.PAUSED),
        *(("tell", token) for token in TOKENS),
        ("tell", OutputEnd.DONE),
        *(("count", one) for one in counted),
        ("count", OutputEnd.DONE),
        ("call", "calling"),
        ("call", OutputEnd.DONE),
        *(("count", one) for one in counted),
        ("count", OutputEnd.DONE),
    ]
    assert {chunk.missed for chunk in chunks} == {0}
    assert [chunk.text for chunk in chunks if chunk.restarted] == ["calling"]
    inside = {chunk.flow_id for chunk in chunks[7:12]}
    assert len(inside) == 1
    assert inside != {flow_id}
    assert {chunk.flow_id for chunk in chunks[:7]} == {flow_id}
    assert await read(place.client.stream(key)) == []  # nothing is kept
    with pytest.raises(NotFound):
        await read(place.client.stream("1-999999-a1B2c3D4e5F6g7H8"))


async def test_a_step_that_runs_again_says_so(place: Place) -> None:
    """B8: a failed attempt ends as failed, the next one begins afresh; bytes and JSON arrive as they were emitted."""

    async def flaky(flow: Flow) -> None:
        flow.emit(b"\xff\x00")
        flow.emit([1, {"a": None}])
        flow.emit("")
        if flow.attempt == 0:
            flow.retry(max_attempts=2, initial_delay=0)
            raise TaskError("try again", 500)

    async with place.serving(flaky=flaky):
        chunks, _ = await started(place.client, await place.client.create_task("flaky"))
    once = [b"\xff\x00", [1, {"a": None}], "", None]
    assert [chunk.data for chunk in chunks] == [*once, *once]
    assert [chunk.attempt for chunk in chunks] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [chunk.end for chunk in chunks] == [None, None, None, "failed", None, None, None, "done"]
    assert [chunk.restarted for chunk in chunks] == [False] * 4 + [True] + [False] * 3
    assert [chunk.number for chunk in chunks] == [1, 2, 3, 4] * 2


async def test_who_comes_late_is_told_how_much_is_missing_and_a_pause_ends_it_if_wanted(place: Place, nc: Nats) -> None:
    emitted, go_on = asyncio.Event(), asyncio.Event()

    async def hear(msg: Msg) -> None:
        if (msg.headers or {}).get("Dwarf-Number") == "2":
            emitted.set()

    await nc.subscribe(f"{place.prefix}.stream.>", cb=hear)
    await round_trip(nc)

    async def slow(flow: Flow) -> dict[str, Any]:
        if flow.get("answer") is None and flow.checkpoint is None:
            flow.emit("early")
            flow.emit("early")
            flow.progress(data=1)
            await go_on.wait()
            flow.emit("late")
        return {"answer": flow.interrupt("well?")}

    async with place.serving(slow=slow):
        key = await place.client.create_task("slow", start=True)
        await emitted.wait()
        async with place.client.stream(key, end_at_pause=True) as stream:
            go_on.set()
            chunks = await read(stream)
        assert [(chunk.text, chunk.missed, chunk.number) for chunk in chunks] == [("late", 2, 3), ("", 0, 4)]
        assert stream.outcome is not None
        assert stream.outcome.status is Status.INTERRUPTED
        async with place.client.stream(key) as stream:  # through the pause, to the end
            await place.client.resume(key, "yes")
            assert await read(stream) == []
        assert stream.outcome is not None
        assert stream.outcome.state["answer"] == "yes"


async def test_many_flows_at_once_are_followed_each_for_itself_and_chosen_fields_are_sealed(
    place: Place, nc: Nats
) -> None:
    """B8, B9: also of steps that come to the worker in one message."""
    passed: list[bytes] = []

    async def keep(msg: Msg) -> None:
        passed.append(msg.data)

    await nc.subscribe(">", cb=keep)
    await round_trip(nc)

    async def reveal(flow: Flow, n: int) -> None:
        flow.emit({"secret": f"s3 same{n}", "n": n})

    graph = Graph("reveal")
    graph.add_chain("reveal", END)
    async with (
        place.serving(codec=CODEC, reveal=reveal),
        Client(place.url, prefix=place.prefix, codec=CODEC) as client,
    ):
        assert (await client.run(graph, {"n": 0})).status is Status.COMPLETED  # the worker is known
        keys = [await client.create(graph, {"n": n}) for n in range(30)]
        read_all = await asyncio.gather(*(started(client, key) for key in keys))
    for n, (chunks, _) in enumerate(read_all):
        assert [chunk.data for chunk in chunks] == [{"secret": f"s3 same{n}", "n": n}, None]
    await round_trip(nc)
    assert b"s3 same" not in b"\n".join(passed)
    assert any(b'"Dwarf-Stream"' in one and b'"stepKey"' in one for one in passed), "no batches"


async def test_a_service_without_the_sdk_publishes_a_plain_text(place: Place, nc: Nats) -> None:
    """Wire section 2: the subject in the request is all that it needs."""

    async def serve(msg: Msg) -> None:
        assert msg.headers is not None
        await nc.publish(msg.headers["Dwarf-Stream"], b"half way")
        await nc.publish(msg.headers["Dwarf-Stream"], b'{"n": 1}', headers={"Content-Type": "application/json"})
        await msg.respond(b"")

    await nc.subscribe(f"{place.prefix}task.plain", cb=serve, queue="q")
    await round_trip(nc)
    chunks, _ = await started(place.client, await place.client.create_task("plain"))
    assert [(chunk.data, chunk.end, chunk.number) for chunk in chunks] == [("half way", None, 0), ({"n": 1}, None, 0)]


async def test_too_much_at_once_is_an_error_of_the_task(place: Place) -> None:
    async def shout(flow: Flow) -> None:
        flow.emit("x" * 300_000)

    async def mean(flow: Flow) -> None:
        flow.emit(object())

    async with place.serving(shout=shout, mean=mean):
        loud = await place.client.await_(await place.client.create_task("shout", start=True))
        odd = await place.client.await_(await place.client.create_task("mean", start=True))
    assert loud.error is not None
    assert loud.error.code == 413
    assert "emit: the output is 300000 bytes" in loud.error.message
    assert odd.error is not None
    assert odd.error.code == 400


async def test_a_worker_publishes_output_only_where_a_request_may_lead_it(place: Place, nc: Nats) -> None:
    """A forged request must not make a worker with wide permissions speak elsewhere."""
    heard: list[str] = []

    async def hear(msg: Msg) -> None:
        heard.append(msg.subject)

    await nc.subscribe(">", cb=hear)
    await round_trip(nc)
    body = (
        b'{"flowKey":"1-7-a1B2c3D4e5F6g7H8","stepKey":"1-9-a1B2c3D4e5F6g7H8","workflow":"w","task":"tell","url":"tell",'
        b'"attempt":0,"state":{},"baggage":null,"flowCreatedAt":"2026-01-31T12:00:00Z",'
        b'"flowUpdatedAt":"2026-01-31T12:00:00Z","deadline":"2096-01-31T12:00:00Z"}'
    )
    forged = ("other.place", "dwarf.stream.1-7.1-8", "dwarf.stream.1-7", "dwarf.flow.cancel", "dwarf.stream.*.1-9", "")
    async with place.serving(tell=tell):
        for subject in (*forged, "dwarf.stream.1-7.1-9"):
            headers = {"Dwarf-Stream": subject} if subject else None
            reply = await nc.request(f"{place.prefix}task.tell", body, timeout=PATIENCE, headers=headers)
            assert b"Once upon a time" in reply.data
    await round_trip(nc)
    assert {one for one in heard if "stream" in one or one in forged} == {"dwarf.stream.1-7.1-9"}
