"""What the service says unasked: announcements and events, and the keys it keeps to itself (wire section 5)."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy

from dwarf_nats.dev_servers import NatsServer
from tests.support.caller import WAIT, Caller, conforms, deployment, line, take

Events = asyncio.Queue[Msg]


async def events(heard: Events, count: int) -> list[dict[str, Any]]:
    """The next events: as the schema has them, on the subject they belong to, each with an id of its own."""
    messages = [await take(heard) for _ in range(count)]
    found = []
    for message in messages:
        event = conforms("event", json.loads(message.data))
        assert set(event) == {"flowId", "threadId", "workflow", "status", "at"}
        assert message.subject.endswith(f".event.{event['status']}.{event['workflow']}")
        found.append(event)
    assert len({(one.headers or {})["Nats-Msg-Id"] for one in messages}) == count
    return found


def of(flow: dict[str, str], heard: list[dict[str, Any]]) -> list[str]:
    shown = flow["flowKey"].rsplit("-", 1)[0]
    return [one["status"] for one in heard if one["flowId"] == shown]


async def test_every_change_of_a_flows_status_is_an_event_in_order(either: Caller) -> None:
    """Wire section 5: from `created` on, whatever way the flow takes; times never run backwards."""
    heard = await either.hear(f"{either.prefix}.event.>")
    await either.serves("good")
    await either.serves("bad", {"error": "no"})
    asked = await either.holds("slow")
    one = await either.ok("flow.create", graph=line("acme.good", "good"))
    await either.ok("flow.start", **one)
    await either.ok("flow.await", **one)
    two = {"flowKey": (await either.ok("flow.run", graph=line("acme.bad", "good", "bad")))["flowKey"]}
    three = await either.ok("flow.create_task", task="good", options={"threadKey": one["flowKey"]})
    await either.ok("flow.cancel", **three)
    four = await either.ok("flow.create_task", task="slow", start=True)
    await take(asked)
    await either.ok("flow.cancel", **four)
    seen = await events(heard, 3 + 3 + 2 + 3)
    assert of(one, seen) == ["created", "running", "completed"]
    assert of(two, seen) == ["created", "running", "failed"]
    assert of(three, seen) == ["created", "cancelled"]
    assert of(four, seen) == ["created", "running", "cancelled"]
    for flow in (one, two, three, four):
        shown = flow["flowKey"].rsplit("-", 1)[0]
        times = [event["at"] for event in seen if event["flowId"] == shown]
        assert times == sorted(times)
        threads = {event["threadId"] for event in seen if event["flowId"] == shown}
        assert threads == {one["flowKey"].rsplit("-", 1)[0] if flow is three else shown}
    await either.ok("flow.delete", **one)
    await either.client.flush()
    assert heard.empty(), "a deletion is no change of a status"


async def test_many_flows_at_once_have_each_their_events_in_order(either: Caller) -> None:
    """Wire section 5: also where commits carry many flows together."""
    heard = await either.hear(f"{either.prefix}.event.>")
    await either.serves("good")
    runs = [either.ok("flow.run", graph=line("acme.good", "good"), state={"n": n}) for n in range(40)]
    flows = await asyncio.wait_for(asyncio.gather(*runs), WAIT)
    seen = await events(heard, 120)
    assert all(of(flow, seen) == ["created", "running", "completed"] for flow in flows)


async def test_an_outcome_is_announced_to_whom_the_flow_names(caller: Caller) -> None:
    """B4, O2: the option, start's name before it; each time it stops, with the outcome await would give."""
    heard = await caller.hear(f"{caller.prefix}.stopped.>")
    await caller.serves("good", {"changes": {"n": 1}})
    await caller.serves("bad", {"error": {"message": "no", "code": 402}})
    by_option = await caller.ok("flow.run", graph=line("l", "good"), options={"notify": "orders.done"})
    message = await take(heard)
    assert message.subject == f"{caller.prefix}.stopped.orders.done"
    assert conforms("outcome", json.loads(message.data)) == by_option
    flow = await caller.ok("flow.create_task", task="bad", options={"notify": "never"})
    await caller.ok("flow.start", **flow, notify="orders.failed")
    outcome = await caller.ok("flow.await", **flow)
    message = await take(heard)
    assert message.subject == f"{caller.prefix}.stopped.orders.failed"
    assert json.loads(message.data) == outcome
    assert outcome["error"]["code"] == 402
    flow = await caller.ok("flow.create_task", task="good", options={"notify": "orders.cancelled"})
    await caller.ok("flow.cancel", **flow, reason="stale")
    message = await take(heard)
    assert message.subject == f"{caller.prefix}.stopped.orders.cancelled"
    assert json.loads(message.data) == await caller.ok("flow.snapshot", **flow)
    await caller.ok("flow.run", graph=line("l", "good"))
    await caller.client.flush()
    assert heard.empty(), "nobody asked to be told of the last one"


async def test_events_can_be_left_out_but_announcements_stay(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """Wire section 5: `--no-events`."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, events=False) as caller:
        heard = await caller.hear(f"{prefix}.event.>")
        stopped = await caller.hear(f"{prefix}.stopped.me")
        await caller.serves("good")
        await caller.ok("flow.run", graph=line("l", "good"), options={"notify": "me"})
        await take(stopped)
        assert heard.empty()


async def test_a_stream_records_every_event_once(sqlite_dsn: str) -> None:
    """Wire section 5: a JetStream stream on `dwarf.event.>`; an event that comes twice is known by its id."""
    async with NatsServer(jetstream=True) as server, deployment(server.url, sqlite_dsn, "dwarf") as caller:
        stream = caller.client.jetstream()
        await stream.add_stream(name="EVENTS", subjects=["dwarf.event.>"])
        await caller.serves("good")
        runs = [caller.ok("flow.run", graph=line("acme.good", "good")) for _ in range(10)]
        flows = await asyncio.wait_for(asyncio.gather(*runs), WAIT)
        reader = await stream.pull_subscribe(
            "dwarf.event.>", stream="EVENTS", config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        )
        messages: list[Msg] = []
        async with asyncio.timeout(WAIT):
            while len(messages) < 30:
                messages += await reader.fetch(30 - len(messages), timeout=WAIT)
        recorded = [conforms("event", json.loads(one.data)) for one in messages]
        assert all(of(flow, recorded) == ["created", "running", "completed"] for flow in flows)
        for message in messages:
            again = await stream.publish(message.subject, message.data, headers=message.headers)
            assert again.duplicate
        assert (await stream.stream_info("EVENTS")).state.messages == 30


async def test_no_key_is_ever_told_to_whom_it_was_not_given(either: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """Wire section 5: no token in a subject, an event, statistics or a line of the log, whatever happens."""
    with caplog.at_level(logging.INFO):
        everything = await either.hear(">")
        asked = await either.holds("slow")
        await either.serves("good", {"changes": {"n": 1}})
        await either.serves("bad", {"error": "no"})
        await either.serves("odd", b"nonsense")
        keys = []
        for task in ("good", "bad", "odd"):
            outcome = await either.ok("flow.run", graph=line("acme.all", task), options={"notify": "me"})
            keys.append(outcome["flowKey"])
        flow = await either.ok("flow.create_task", task="slow", start=True, options={"timeBudgetMs": 20})
        late = await take(asked)
        await either.ok("flow.await", **flow)
        await either.answer(late)
        keys.append(flow["flowKey"])
        flow = await either.ok("flow.create_task", task="slow", start=True)
        late = await take(asked)
        await either.ok("flow.cancel", **flow, reason="because")
        await either.answer(late)
        keys.append(flow["flowKey"])
        for key in list(keys):
            steps = (await either.ok("flow.history", flowKey=key))["steps"]
            keys += [one["stepKey"] for one in steps]
            await either.refused("flow.cancel", flowKey=key)
            await either.refused("flow.start", flowKey=key)
            await either.client.publish(f"{either.prefix}.flow.start", json.dumps({"flowKey": key}).encode())
            await either.refused("flow.snapshot", flowKey=key[:-1] + ("A" if key[-1] != "A" else "B"))
            await either.ok("flow.delete", flowKey=key)
            await either.client.publish(f"{either.prefix}.flow.delete", json.dumps({"flowKey": key}).encode())
        told = [await either.client.request(f"$SRV.{verb}.dwarf", timeout=WAIT) for verb in ("INFO", "STATS")]
    assert len(keys) == 10
    tokens = [key.rsplit("-", 1)[1] for key in keys]
    messages = [everything.get_nowait() for _ in range(everything.qsize())]
    heard = [one for one in messages if one.subject.startswith(f"{either.prefix}.event.")]
    assert len(heard) == 15
    public = [one.subject + (one.reply or "") for one in messages]
    public += [one.data.decode() + str(one.headers) for one in (*heard, *told)]
    public += [record.getMessage() + str(record.__dict__.get("args")) for record in caplog.records]
    assert [(token, text) for text in public for token in tokens if token in text] == []
    assert any("without a reply subject" in record.getMessage() for record in caplog.records)


async def test_an_announcement_too_large_for_nats_comes_without_its_state(
    sqlite_dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """B4; wire: large-replies; what is too large is left out; nothing harms the flow or the connection."""
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 4096")
    async with NatsServer(config=config) as server, deployment(server.url, sqlite_dsn, "dwarf") as caller:
        stopped = await caller.hear("dwarf.stopped.>")
        await caller.serves("big", {"changes": {"text": "x" * 3000}})
        await caller.serves("bigger", {"changes": {"more": "x" * 3000}})
        large = await caller.ok("flow.run", graph=line("l", "big", "bigger"), options={"notify": "large"})
        small = await caller.ok("flow.run", graph=line("l", "big"), options={"notify": "small"})
        told = {message.subject: json.loads(message.data) for message in [await take(stopped), await take(stopped)]}
        assert told == {"dwarf.stopped.large": large, "dwarf.stopped.small": small}
        assert (large["state"], large["truncated"]) == ({}, True)
        assert "truncated" not in small
        assert {one["status"] for one in (await caller.ok("flow.list"))["flows"]} == {"completed"}
    assert not any("connection to NATS lost" in record.getMessage() for record in caplog.records)
