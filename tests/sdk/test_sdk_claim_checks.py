"""Claim checks from end to end: flows carry references, and large values are in the object store (B10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from typer.testing import CliRunner

from dwarf_nats.cli.main import app
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, NotFound, Unavailable
from dwarf_nats.sdk import END, ClaimChecks, Client, Codec, Flow, FlowOptions, Graph, Status, Worker
from dwarf_nats.sdk.answer_encoder import AnswerEncoder
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.sdk.value_store import digest_of
from dwarf_nats.testing import service as running_service

OVER = 2_000
BIG = "x" * 5_000
PATIENCE = 60.0


def checks(**more: Any) -> ClaimChecks:
    return ClaimChecks(OVER, keep=["items", "kept"], **more)


def claim(value: Any) -> dict[str, Any]:
    text = msgspec.json.encode(value)
    return {"$claim": digest_of(text), "size": len(text)}


@dataclass
class Place:
    """A running deployment on a server with JetStream: a client with claim checks, and one without."""

    server: NatsServer
    client: Client
    plain: Client
    nc: Nats

    @asynccontextmanager
    async def serving(
        self, codec: Codec | None = None, claim_checks: ClaimChecks | None = None, **functions: Any
    ) -> AsyncIterator[Worker]:
        worker = Worker(self.server.url, drain_seconds=0, codec=codec, claim_checks=claim_checks or checks())
        for url, function in functions.items():
            worker.add_task(url, function)
        async with worker:
            yield worker

    async def objects(self) -> set[str]:
        """The names of the objects, as nats-py's own object store lists them."""
        store = await self.nc.jetstream().object_store("dwarf-values")
        return {one.name for one in await store.list() if one.name is not None}


@pytest.fixture
async def place(dsn: str) -> AsyncIterator[Place]:
    async with (
        NatsServer(jetstream=True) as server,
        running_service(server.url, dsn),
        Client(server.url, claim_checks=checks()) as client,
        Client(server.url) as plain,
    ):
        nc = await nats.connect(server.url)
        yield Place(server, client, plain, nc)
        await nc.close()


def name_in_store(value: Any) -> str:
    return digest_of(msgspec.json.encode(value)).partition(":")[2]


async def test_flows_carry_references_and_tasks_and_callers_see_values(place: Place) -> None:
    """B10: states, changes, payloads, data, children; after a restart, a fork and a continue; equal values are stored once."""
    inner = Graph("inner")
    inner.add_chain("look", END)
    graph = Graph("outer")
    graph.add_chain("grow", "call", "ask", END)
    graph.declare_field("doc", "string")
    await place.client.put_graph(inner)
    seen: list[int] = []

    def look(doc: str) -> dict[str, Any]:
        seen.append(len(doc))
        return {"doc": doc, "looked": {"at": doc}}

    def grow(doc: str, small: int) -> dict[str, Any]:
        return {"grown": doc * 2, "small": small + 1, "doc": doc}

    def call(flow: Flow, grown: str) -> dict[str, Any]:
        return {"child": flow.subgraph("inner", {"doc": grown})}

    def ask(flow: Flow, doc: str) -> dict[str, Any]:
        return {"answer": flow.interrupt({"read": doc})}

    async with place.serving(look=look, grow=grow, call=call, ask=ask):
        key = await place.client.create(graph, {"doc": BIG, "small": 1}, FlowOptions(idempotency_key="k"), start=True)
        assert await place.client.create(graph, {"doc": BIG, "small": 1}, FlowOptions(idempotency_key="k")) == key
        paused = await place.client.await_(key, PATIENCE)
        assert paused.interrupt_payload == {"read": BIG}
        assert (await place.plain.snapshot(key)).interrupt_payload == {"read": claim(BIG)}
        await place.client.resume(key, BIG * 3)
        done = await place.client.await_(key, PATIENCE)
        assert done.status is Status.COMPLETED
        grown = BIG * 2
        child = {"doc": grown, "looked": {"at": grown}}
        assert done.state == {"doc": BIG, "small": 2, "grown": grown, "child": child, "answer": BIG * 3}
        assert seen == [10_000]
        bare = (await place.plain.snapshot(key)).state
        assert bare == {
            "doc": claim(BIG),
            "small": 2,
            "grown": claim(grown),
            "child": claim(child),
            "answer": claim(BIG * 3),
        }
        names = {name_in_store(one) for one in (BIG, grown, child, child["looked"], BIG * 3)}
        assert await place.objects() == names
        store = await place.nc.jetstream().object_store("dwarf-values")
        assert (await store.get(name_in_store(BIG))).data == msgspec.json.encode(BIG)  # as the nats CLI reads it

        first = (await place.client.history(key))[0]
        step = await place.client.step(first.step_key)
        assert step.changes_json is not None
        assert msgspec.json.decode(step.changes_json) == {"grown": grown, "small": 2, "doc": BIG}
        copy = await place.client.fork(first.step_key, {"small": 7})
        assert (await place.client.await_(copy, PATIENCE)).status is Status.INTERRUPTED
        await place.client.delete(key)
        await place.client.restart(copy, {"small": 9})
        await place.client.await_(copy, PATIENCE)
        await place.client.resume(copy, "short")
        assert (await place.client.await_(copy, PATIENCE)).state["grown"] == grown
        following = await place.client.continue_(copy, {"small": 0}, start=True)
        assert (await place.client.await_(following, PATIENCE)).status is Status.INTERRUPTED
        assert await place.objects() == names


async def test_what_the_engine_reads_is_kept_and_else_it_says_so(place: Place) -> None:
    """B10: for_each and reducers over fields that are kept, with large elements claimed; clear errors otherwise."""
    graph = Graph("fan")
    graph.add_transition("spread", "each", for_each="items", as_="item")
    graph.add_transition("each", "gather")
    graph.add_transition("gather", END)
    graph.set_fan_in("gather")
    graph.set_reducer("kept", "append")
    other = Graph("other")
    other.add_transition("spread", "each", for_each="loose", as_="item")
    other.add_transition("each", "gather")
    other.add_transition("gather", END)
    other.set_fan_in("gather")
    merged = Graph("merged")
    merged.add_fan_out("spread", "left", "right")
    for branch in ("left", "right"):
        merged.add_transition(branch, "gather")
    merged.add_transition("gather", END)
    merged.set_fan_in("gather")
    merged.set_reducer("total", "merge")

    def spread(wide: bool = False) -> dict[str, Any]:
        items = [BIG, "small", {"n": BIG}] + (["s"] * 2_000 if wide else [])
        return {"items": items, "loose": [BIG, "small"]}

    def each(item: Any) -> dict[str, Any]:
        return {"kept": [[item]]}

    def gather(kept: list[Any] | None = None) -> dict[str, Any]:
        return {"sizes": [len(str(one)) for one in kept or []]}

    def side() -> dict[str, Any]:
        return {"total": {"a": BIG}}

    functions = {"spread": spread, "each": each, "gather": gather, "left": side, "right": side}
    async with place.serving(**functions):
        done = await place.client.run(graph, {}, timeout=PATIENCE)
        assert done.status is Status.COMPLETED
        assert done.state["kept"] == [[BIG], ["small"], [{"n": BIG}]]
        bare = (await place.plain.snapshot(done.flow_key)).state
        assert bare["items"] == [claim(BIG), "small", claim({"n": BIG})]
        assert bare["kept"] == [claim([BIG]), ["small"], claim([{"n": BIG}])]
        wide = await place.client.run(graph, {"wide": True}, timeout=PATIENCE)
        assert len(wide.state["sizes"]) == 2_003
        failed = await place.client.run(other, {}, timeout=PATIENCE)
        assert failed.error is not None
        assert (
            "for_each over field 'loose' requires an array, got claim (its value is in the object"
            in failed.error.message
        )
        broken = await place.client.run(merged, {}, timeout=PATIENCE)
        assert broken.error is not None
        assert "`merge` reducer on field `total` requires an object, got claim" in broken.error.message


async def test_values_are_sealed_before_they_are_stored(place: Place) -> None:
    """B9, B10: also in steps that come together in one message; a repeated create is the same one."""
    codec = Codec({"2026": b"n" * 32}, ["secret"])
    graph = Graph("sealed")
    graph.add_chain("look", END)

    def look(secret: str, n: int) -> dict[str, Any]:
        return {"secret": secret + "!", "n": n}

    async with (
        place.serving(codec=codec, look=look),
        Client(place.server.url, codec=codec, claim_checks=checks()) as client,
    ):
        options = FlowOptions(idempotency_key="once")
        first = await client.create(graph, {"secret": "s3 same" + BIG, "n": 0}, options, start=True)
        assert await client.create(graph, {"secret": "s3 same" + BIG, "n": 0}, options) == first
        assert (await client.await_(first, PATIENCE)).state["secret"] == "s3 same" + BIG + "!"
        keys = [await client.create(graph, {"secret": f"s3 same{n}" + BIG, "n": n}) for n in range(20)]
        await asyncio.gather(*(client.start(key) for key in keys))
        outcomes = await asyncio.gather(*(client.await_(key, PATIENCE) for key in keys))
        assert [one.state for one in outcomes] == [{"secret": f"s3 same{n}{BIG}!", "n": n} for n in range(20)]
        seen = (await place.plain.snapshot(keys[3])).state["secret"]
        assert seen.keys() == {"$claim", "size", "sealed"}
    store = await place.nc.jetstream().object_store("dwarf-values")
    for name in await place.objects():
        data = (await store.get(name)).data or b""
        assert b"$sealed" in data
        assert b"s3 same" not in data


async def test_a_worker_that_is_lost_between_storing_and_answering_costs_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B10: the step runs again elsewhere, and the value is stored once. Then one whose value is gone fails with the reason."""
    stored, encoded = asyncio.Event(), AnswerEncoder.encoded

    async def then_nothing(self: AnswerEncoder, *given: Any) -> Any:
        found = await encoded(self, *given)
        if not stored.is_set():
            stored.set()
            await asyncio.Event().wait()
        return found

    def grow() -> dict[str, Any]:
        return {"doc": BIG}

    def read(doc: str) -> dict[str, Any]:
        return {"length": len(doc)}

    graph = Graph("w")
    graph.add_chain("grow", "read", END)
    monkeypatch.setattr(AnswerEncoder, "encoded", then_nothing)
    dying = await nats.connect(place.server.url)
    called = asyncio.Event()

    async def hear(msg: Msg) -> None:
        if msg.data.startswith(b'{"running":["'):
            called.set()

    listening = await place.nc.subscribe("_INBOX.>", cb=hear)
    await round_trip(place.nc)
    worker = Worker(nc=dying, drain_seconds=0, claim_checks=checks())
    worker.add_task("grow", grow)
    await worker.start()
    key = await place.client.create(graph, {}, start=True)
    await asyncio.wait_for(stored.wait(), PATIENCE)
    assert await place.objects() == {name_in_store(BIG)}
    monkeypatch.undo()
    await asyncio.wait_for(called.wait(), PATIENCE)  # it stores still, so it counts as at work
    await listening.unsubscribe()
    await dying.close()  # as if its process were gone: the roll call finds nobody
    async with place.serving(grow=grow):
        await _until_step(place, key, "read")
    assert await place.objects() == {name_in_store(BIG)}
    await place.nc.jetstream().delete_object_store("dwarf-values")
    async with place.serving(read=read):
        failed = await place.plain.await_(key, PATIENCE)
    assert failed.error is not None
    assert failed.error.code == 404
    assert "the value of field 'doc', sha256:" in failed.error.message
    assert "is not in the object store (bucket dwarf-values)" in failed.error.message
    async with Client(place.server.url, claim_checks=checks()) as fresh:
        with pytest.raises(NotFound, match="the value of field 'doc'"):
            await fresh.step((await fresh.history(key))[0].step_key)


async def _until_step(place: Place, key: str, task: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while all(step.task != task for step in await place.plain.history(key)):
            await asyncio.sleep(0.02)


async def test_without_jetstream_a_large_value_is_refused_with_the_reason(nats_server: NatsServer) -> None:
    async with Client(nats_server.url, claim_checks=checks()) as client:
        with pytest.raises(Unavailable, match="JetStream does not answer: it is not enabled for this account"):
            await client.create("w", {"doc": BIG})


async def test_the_command_line_stores_and_resolves(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(f"over: {OVER}\nkeep: [items]\n")

    def grow(doc: str) -> dict[str, Any]:
        return {"doc": doc + "y"}

    async with place.serving(grow=grow):
        arguments = ["flow", "run", "--task", "grow", "--state", msgspec.json.encode({"doc": BIG}).decode()]
        more = ["--claim-checks", str(file), "--nats", place.server.url, "--json"]
        ran = await asyncio.to_thread(CliRunner().invoke, app, arguments + more)
    assert ran.exit_code == 0, ran.output
    outcome = msgspec.json.decode(ran.stdout)
    assert outcome["state"] == {"doc": BIG + "y"}
    assert (await place.plain.snapshot(outcome["flowKey"])).state == {"doc": claim(BIG + "y")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("over: 10", "over is a number of bytes from 1024 on, got 10"),
        ("over: 64k", "over is a number of bytes"),
        ("bucket: a.b", "bucket has 1 to 64 of"),
        ("keep: items", "keep is a list of names"),
        ("ower: 2000", "is a mapping with over, keep and bucket"),
        ("{", "is neither YAML nor JSON"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(text)
    with pytest.raises(BadRequest, match=told):
        ClaimChecks.from_file(file)
    file.write_text("")
    assert ClaimChecks.from_file(file).over == 65_536
