"""Request and publish nodes of graphs over plain NATS services and streams (N3, N4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.server import replica
from tests.support.caller import WAIT, Caller, connected, deployment, settings, take

KINDS = {"request", "publish"}


def graph(*nodes: dict[str, Any], name: str = "acme.order", **more: Any) -> dict[str, Any]:
    """A line of nodes."""
    names = [node["name"] for node in nodes]
    return {
        "name": name,
        "entryPoint": names[0],
        "tasks": list(nodes),
        "transitions": [{"from": a, "to": b} for a, b in zip(names, [*names[1:], "END"], strict=True)],
        **more,
    }


def request(subject: str, **more: Any) -> dict[str, Any]:
    """A node `ask` whose reply goes into `answer`."""
    into = more.pop("into", "answer")
    node = {key: more.pop(key) for key in ("retry", "timeoutMs") if key in more}
    return {"name": "ask", "request": {"subject": subject, **more}, "into": into, **node}


def publish(subject: str, **more: Any) -> dict[str, Any]:
    return {"name": "tell", "publish": {"subject": subject, **more}}


async def serves(caller: Caller, subject: str, reply: bytes = b"", headers: dict[str, str] | None = None) -> list[Msg]:
    """A plain service with one and the same reply; the requests it got."""
    got: list[Msg] = []

    async def answer(message: Msg) -> None:
        got.append(message)
        await caller.client.publish(message.reply, reply, headers=headers)

    await caller.client.subscribe(subject, cb=answer)
    await caller.client.flush()
    return got


def refusal(code: int, text: str, **more: str) -> dict[str, str]:
    return {"Nats-Service-Error-Code": str(code), "Nats-Service-Error": text, **more}


async def tripped(caller: Caller, subject: str) -> bool:
    reply = await caller.ok("task.breaker", task=subject)
    assert reply["task"] == subject
    value: bool = reply["tripped"]
    return value


async def until_tripped(caller: Caller, subject: str, wanted: bool = True) -> None:
    async with asyncio.timeout(WAIT):
        while await tripped(caller, subject) is not wanted:
            pass


# --- what a service gets, and what becomes of its reply ---


async def test_a_service_that_exists_already_is_a_step(either: Caller) -> None:
    """N3: subject, payload and headers by template; the reply digit for digit; token-free ids only."""
    caller, root = either, f"{either.prefix}x"
    asked = await serves(caller, f"{root}.stock.a1.quote", b'{"price": 12.50, "id": 9007199254740993}')
    node = request(
        f"='{root}.stock.' + sku + '.quote'",
        payload={"quantity": "=n", "fixed": [1, "==2"], "none": "=absent"},
        headers={"Shop": "=shop", "Count": "=n", "Gone": "=absent"},
    )
    flow = await caller.ok(
        "flow.create", graph=graph(node), state={"sku": "a1", "n": 3, "shop": "Zoë's"}, start=True,
        options={"baggage": {"secret": 1}},
    )  # fmt: skip
    outcome = await caller.ok("flow.await", **flow)
    assert outcome["status"] == "completed", outcome
    assert outcome["state"]["answer"] == {"price": 12.50, "id": 9007199254740993}
    (message,) = asked
    assert json.loads(message.data) == {"quantity": 3, "fixed": [1, "=2"], "none": None}
    headers = message.headers or {}
    (step,) = (await caller.ok("flow.history", **flow))["steps"]
    step_id = step["stepKey"].rpartition("-")[0]
    assert {name: headers[name] for name in headers if name not in ("traceparent", "tracestate", "Dwarf-Deadline")} == {
        "Dwarf-Flow-Id": flow["flowKey"].rpartition("-")[0], "Dwarf-Step-Id": step_id, "Dwarf-Attempt": "0",
        "Nats-Msg-Id": headers["Nats-Msg-Id"], "Shop": "Zo%C3%AB's", "Count": "3",
    }  # fmt: skip
    assert headers["Nats-Msg-Id"].startswith(f"{step_id}-")
    said = message.data.decode() + json.dumps(dict(headers))
    for key in (flow["flowKey"], step["stepKey"]):
        assert key.rpartition("-")[2] not in said


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        ("plain text", b"plain text"),
        ("=name", "żółć".encode()),
        (7, b"7"),
        ({"a": "=n"}, b'{"a":1e2}'),
        (None, b"null"),
    ],
)
async def test_a_text_is_sent_as_it_is_and_anything_else_as_json(caller: Caller, payload: Any, sent: bytes) -> None:
    """N3: numbers digit for digit."""
    asked = await serves(caller, f"{caller.prefix}x", b"1")
    made = json.dumps({"graph": graph(request(f"{caller.prefix}x", payload=payload))})[:-1]
    reply = await caller.raw("flow.run", f'{made}, "state": {{"name": "żółć", "n": 1e2}}}}'.encode())
    assert json.loads(reply.data)["status"] == "completed", reply.data
    assert [message.data for message in asked] == [sent]


async def test_replies_of_every_kind(caller: Caller) -> None:
    """N3: JSON, text, and nothing, which removes a former value; without a payload the request is empty."""
    asked = {}
    for name, reply in {"json": b'[1,"a"]', "text": b"sold out", "empty": b"", "null": b"null"}.items():
        asked[name] = await serves(caller, f"{caller.prefix}x.{name}", reply)
    nodes = [
        {"name": name, "request": {"subject": f"{caller.prefix}x.{name}"}} for name in ("json", "text", "empty", "null")
    ]
    state = {"json": 0, "text": 0, "empty": 0, "null": 0, "other": 1}
    outcome = await caller.ok("flow.run", graph=graph(*nodes), state=state)
    assert outcome["state"] == {"json": [1, "a"], "text": "sold out", "other": 1}
    assert [message.data for got in asked.values() for message in got] == [b""] * 4


async def test_an_error_of_a_service_is_an_error_of_the_step(either: Caller) -> None:
    """N3: with code, text and the further fields, for `onError`; nothing is written into the field."""
    caller, subject = either, f"{either.prefix}x.charge"
    await serves(caller, subject, b'{"bank": "B", "limit": 5}', refusal(402, "card declined"))
    outcome = await caller.ok("flow.run", graph=graph(request(subject)), state={"answer": 1})
    assert (outcome["status"], outcome["state"]) == ("failed", {"answer": 1})
    assert outcome["error"] == {"message": "card declined", "code": 402, "bank": "B", "limit": 5}
    handled = graph(
        request(subject), {"name": "why", "request": {"subject": f"{either.prefix}x.note", "payload": "=onErr.bank"}}
    )
    handled["transitions"] = [
        {"from": "ask", "to": "END"}, {"from": "ask", "to": "why", "onError": True}, {"from": "why", "to": "END"}
    ]  # fmt: skip
    told = await serves(caller, f"{either.prefix}x.note", b"noted")
    outcome = await caller.ok("flow.run", graph=handled)
    assert (outcome["status"], outcome["state"]["why"]) == ("completed", "noted")
    assert [message.data for message in told] == [b"B"]


async def test_a_reply_that_cannot_be_stored_is_an_error_502(caller: Caller) -> None:
    """N3, S1: also one that is too deep as a field, though not by itself."""
    for number, reply in enumerate((b"\xff", b"[" * 64 + b"]" * 64, b"92233720368547758070")):
        subject = f"{caller.prefix}x.{number}"
        await serves(caller, subject, reply)
        outcome = await caller.ok("flow.run", graph=graph(request(subject)))
        assert (outcome["status"], outcome["error"]["code"]) == ("failed", 502), outcome
        assert subject in outcome["error"]["message"]


async def test_a_reply_over_the_limit_of_a_state_is_an_error_413(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """N3."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, max_state_bytes=10_000) as caller:
        await serves(caller, f"{prefix}x", b'"' + b"a" * 20_000 + b'"')
        outcome = await caller.ok("flow.run", graph=graph(request(f"{prefix}x")))
        assert (outcome["status"], outcome["error"]["code"]) == ("failed", 413), outcome


async def test_a_request_over_max_payload_is_an_error_413(caller: Caller) -> None:
    """N3: it is not sent."""
    asked = await serves(caller, f"{caller.prefix}x")
    state = {"text": "a" * 600_000}
    node = request(f"{caller.prefix}x", payload={"twice": ["=text", "=text"]})
    outcome = await caller.ok("flow.run", graph=graph(node), state=state)
    assert (outcome["status"], outcome["error"]["code"]) == ("failed", 413), outcome
    assert asked == []


# --- busy, away, silent ---


async def test_a_service_that_appears_later_is_asked_then(either: Caller) -> None:
    """N3, V4, V5: nothing fails meanwhile; the breaker is known by the subject as it is written."""
    caller, written = either, f"='{either.prefix}x.' + sku"
    node = request(written, payload="=n")
    flows = [
        await caller.ok("flow.create", graph=graph(node), state={"n": n, "sku": "a1"}, start=True) for n in range(5)
    ]
    await until_tripped(caller, written)
    for flow in flows:
        assert (await caller.ok("flow.snapshot", **flow))["status"] == "running"
    asked = await caller.hear(f"{caller.prefix}x.a1")
    for _ in flows:
        message = await take(asked)
        await caller.answer(message, message.data)
    for n, flow in enumerate(flows):
        assert (await caller.ok("flow.await", **flow))["state"] == {"n": n, "sku": "a1", "answer": n}
        (step,) = (await caller.ok("flow.history", **flow))["steps"]
        assert (step["status"], step["attempt"]) == ("completed", 0)
    await until_tripped(caller, written, wanted=False)


@pytest.mark.parametrize("code", [429, 503, 529])
async def test_a_service_that_is_busy_or_cannot_serve_gets_its_step_again(caller: Caller, code: int) -> None:
    """N3, V1, V4: neither failed nor counted as an attempt; the message id stays."""
    subject = f"{caller.prefix}x"
    asked = await caller.hear(subject)
    flow = await caller.ok("flow.create", graph=graph(request(subject)), start=True)
    refused = await take(asked)
    await caller.answer(refused, b"", refusal(code, "not now"))
    again = await take(asked)
    assert await tripped(caller, subject) is (code != 429)
    await caller.answer(again, 7)
    outcome = await caller.ok("flow.await", **flow)
    assert (outcome["status"], outcome["state"]) == ("completed", {"answer": 7})
    first, second = refused.headers or {}, again.headers or {}
    assert (first["Nats-Msg-Id"], first["Dwarf-Attempt"]) == (second["Nats-Msg-Id"], second["Dwarf-Attempt"])


async def test_a_missed_deadline_is_retried_by_the_policy_of_the_node(either: Caller) -> None:
    """N3, L1, L2: 408; the attempt counts, and the message id stays."""
    caller, subject = either, f"{either.prefix}x"
    asked = await caller.hear(subject)
    node = request(subject, timeoutMs=50, retry={"maxAttempts": 3, "initialDelayMs": 1})
    flow = await caller.ok("flow.create", graph=graph(node), start=True)
    messages = [await take(asked) for _ in range(2)]
    last = await take(asked)
    await caller.answer(last, b"late but in time")
    outcome = await caller.ok("flow.await", **flow)
    if outcome["status"] != "completed":  # this machine was slower than the deadline
        assert outcome["error"]["code"] == 408
    sent = [message.headers or {} for message in [*messages, last]]
    assert [one["Dwarf-Attempt"] for one in sent] == ["0", "1", "2"]
    assert len({one["Nats-Msg-Id"] for one in sent}) == 1


async def test_silence_is_a_408(either: Caller) -> None:
    """N3, X3."""
    asked = await either.hear(f"{either.prefix}x")
    node = request(f"{either.prefix}x", timeoutMs=30)
    outcome = await either.ok("flow.run", graph=graph(node))
    assert (outcome["status"], outcome["error"]["code"]) == ("failed", 408)
    assert asked.qsize() == 1


async def test_a_probe_that_cannot_be_sent_closes_no_breaker(caller: Caller) -> None:
    """V5, N3: nobody was asked, so nothing is known of the service."""
    written = f"='{caller.prefix}x.' + sku"
    good = await caller.ok("flow.create", graph=graph(request(written)), state={"sku": "a1"}, start=True)
    await until_tripped(caller, written)
    bad = [
        await caller.ok("flow.create", graph=graph(request(written)), state=state, start=True, options={"priority": 1})
        for state in ({"sku": "a b"}, {"sku": 5})
    ]
    for flow in bad:
        outcome = await caller.ok("flow.await", **flow)
        assert (outcome["status"], outcome["error"]["code"]) == ("failed", 400)
    assert await tripped(caller, written)
    await serves(caller, f"{caller.prefix}x.a1", b"1")
    assert (await caller.ok("flow.await", **good))["state"]["answer"] == 1


# --- what cannot be sent ---


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"sku": "a b"}, "space"),
        ({"sku": "*"}, "wildcard"),
        ({"sku": "a..b"}, "empty token"),
        ({"sku": ""}, "empty token"),
        ({}, "ask"),
    ],
)
async def test_a_computed_subject_that_is_none_is_an_error_400(
    caller: Caller, state: dict[str, Any], words: str
) -> None:
    """N3: it names the subject, or the node and the expression."""
    outcome = await caller.ok("flow.run", graph=graph(request(f"='{caller.prefix}x.' + sku")), state=state)
    assert (outcome["status"], outcome["error"]["code"]) == ("failed", 400), outcome
    assert words in outcome["error"]["message"]


@pytest.mark.parametrize("below", ["{}.flow.run", "{}task.work", "{}graph.w", "$JS.API.INFO", "_INBOX.x"])
@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_subjects_of_the_service_itself_are_refused(caller: Caller, below: str, kind: str) -> None:
    """N3, N4: written out they are a 400 with the place; computed, an error 400 of the step."""
    subject = below.format(caller.prefix)
    listening = await caller.hear(f"{caller.prefix}task.work")
    node = {"name": "n", kind: {"subject": subject}}
    for operation, fields in (
        ("graph.put", graph(node)), ("graph.validate", graph(node)), ("flow.create", {"graph": graph(node)})
    ):  # fmt: skip
        error = await caller.refused(operation, **fields)
        assert error["code"] == 400
        for word in ("acme.order", "'n'", f"{kind}.subject", subject):
            assert word in error["message"]
    computed = {"name": "n", kind: {"subject": "=where"}}
    outcome = await caller.ok("flow.run", graph=graph(computed), state={"where": subject})
    assert (outcome["status"], outcome["error"]["code"]) == ("failed", 400)
    assert subject in outcome["error"]["message"]
    assert listening.empty()


@pytest.mark.parametrize(
    "name", ["Nats-Msg-Id", "dwarf-step-id", "Dwarf-Anything", "traceparent", "a b", "a:b", "ä", ""]
)
async def test_a_header_of_the_engine_cannot_be_replaced(caller: Caller, name: str) -> None:
    """N3."""
    error = await caller.refused("graph.validate", **graph(request("x.y", headers={name: "1"})))
    assert error["code"] == 400
    assert "'ask'" in error["message"]
    assert "headers" in error["message"]


# --- messages ---


async def test_a_message_is_published_and_the_flow_goes_on(either: Caller) -> None:
    """N4: whoever listens; the node changes nothing."""
    caller = either
    heard = await caller.hear(f"{caller.prefix}x.told")
    nodes = [
        publish(f"{caller.prefix}x.told", payload={"n": "=n"}, headers={"Kind": "news"}),
        request(f"{caller.prefix}x.ask"),
    ]
    nodes.insert(0, {"name": "nobody", "publish": {"subject": f"{caller.prefix}x.nobody"}})
    await serves(caller, f"{caller.prefix}x.ask", b"1")
    outcome = await caller.ok("flow.run", graph=graph(*nodes), state={"n": 2**53 + 1})
    assert (outcome["status"], outcome["state"]) == ("completed", {"n": 2**53 + 1, "answer": 1})
    message = await take(heard)
    assert (message.data, message.reply) == (b'{"n":9007199254740993}', "")
    headers = message.headers or {}
    assert (headers["Kind"], headers["Dwarf-Attempt"], "Dwarf-Deadline" in headers) == ("news", "0", False)


@pytest.fixture
async def jetstream() -> AsyncIterator[NatsServer]:
    async with NatsServer(jetstream=True) as server:
        yield server


async def test_a_stream_stores_a_message_once_until_an_operation_runs_the_step_again(
    jetstream: NatsServer, dsn: str, prefix: str
) -> None:
    """N4, O13: retries keep the message id, a restart and a restart from the step change it, a fork has another one."""
    async with deployment(jetstream.url, dsn, prefix) as caller:
        stream = caller.client.jetstream()
        await stream.add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"]))
        flow = await caller.ok(
            "flow.run", graph=graph(publish("orders.shipped", payload="=id", stream=True)), state={"id": "o-1"}
        )
        assert flow["status"] == "completed", flow
        key = {"flowKey": flow["flowKey"]}
        (step,) = (await caller.ok("flow.history", **key))["steps"]
        await caller.ok("flow.restart", **key)
        assert (await caller.ok("flow.await", **key))["status"] == "completed"
        await caller.ok("flow.restart_from", stepKey=step["stepKey"])
        assert (await caller.ok("flow.await", **key))["status"] == "completed"
        fork = await caller.ok("flow.fork", stepKey=step["stepKey"])
        assert (await caller.ok("flow.await", **fork))["status"] == "completed"
        info = await stream.stream_info("ORDERS")
        stored = [await stream.get_msg("ORDERS", sequence) for sequence in range(1, info.state.messages + 1)]
        ids = [(one.headers or {})["Nats-Msg-Id"] for one in stored]
        assert len(ids) == len(set(ids)) == 4, ids
        assert {one.data for one in stored} == {b"o-1"}


async def test_a_message_waits_for_a_stream_that_is_made_later(jetstream: NatsServer, dsn: str, prefix: str) -> None:
    """N4: no stream for the subject is as no responders."""
    async with deployment(jetstream.url, dsn, prefix) as caller:
        flow = await caller.ok(
            "flow.create", graph=graph(publish("orders.shipped", payload="1", stream=True)), start=True
        )
        await until_tripped(caller, "orders.shipped")
        stream = caller.client.jetstream()
        await stream.add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"]))
        assert (await caller.ok("flow.await", **flow))["status"] == "completed"
        assert (await stream.stream_info("ORDERS")).state.messages == 1


async def test_a_stream_that_refuses_fails_the_step_with_its_code(
    jetstream: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """N4."""
    async with deployment(jetstream.url, sqlite_dsn, prefix) as caller:
        stream = caller.client.jetstream()
        await stream.add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"], max_msg_size=100))
        outcome = await caller.ok("flow.run", graph=graph(publish("orders.x", payload="a" * 500, stream=True)))
        assert (outcome["status"], outcome["error"]["code"], outcome["error"]["errCode"]) == ("failed", 400, 10054)
        await stream.add_stream(StreamConfig(name="OTHER", subjects=["other.>"]))
        node = publish("other.x", stream=True, headers={"Nats-Expected-Last-Sequence": 7})
        outcome = await caller.ok("flow.run", graph=graph(node))
        assert (outcome["status"], outcome["error"]["code"], outcome["error"]["errCode"]) == ("failed", 400, 10071)


# --- the rest of what tasks have ---


async def test_steps_of_services_are_shown_cancelled_and_limited_like_others(caller: Caller) -> None:
    """N8, O10: a cancel drops the late reply; the current task, history and breaker know the node."""
    subject = f"{caller.prefix}x"
    asked = await caller.hear(subject)
    flow = await caller.ok("flow.create", graph=graph(request(subject)), start=True)
    message = await take(asked)
    (row,) = (await caller.ok("flow.list", task="ask", status="running"))["flows"]
    assert row["flowKey"] == flow["flowKey"]
    await caller.ok("flow.cancel", **flow, reason="enough")
    await caller.answer(message, 1)
    outcome = await caller.ok("flow.snapshot", **flow)
    assert (outcome["status"], outcome["state"]) == ("cancelled", {})
    (step,) = (await caller.ok("flow.history", **flow))["steps"]
    assert (step["task"], step["status"]) == ("ask", "cancelled")


async def test_a_breakpoint_stands_before_a_subject_as_it_is_written(caller: Caller) -> None:
    """O12, N3: nothing is sent before the flow goes on."""
    written = f"='{caller.prefix}x.' + sku"
    asked = await serves(caller, f"{caller.prefix}x.a1", b"1")
    flow = await caller.ok("flow.create", graph=graph(request(written)), state={"sku": "a1"})
    await caller.ok("flow.break_before", **flow, task=written)
    await caller.ok("flow.start", **flow)
    assert (await caller.ok("flow.await", **flow))["status"] == "interrupted"
    assert asked == []
    await caller.ok("flow.resume_break", **flow)
    assert (await caller.ok("flow.await", **flow))["state"] == {"sku": "a1", "answer": 1}


async def test_a_message_follows_what_the_engine_carries_out_itself(either: Caller) -> None:
    """N1, N3, N4: set, request and publish in one line, over a fan-out."""
    caller, root = either, f"{either.prefix}x"
    heard = await caller.hear(f"{root}.told")
    await serves(caller, f"{root}.double", b"2")
    document = graph(
        {"name": "begin", "set": {"skus": ["a", "b", "c"]}},
        {"name": "each", "request": {"subject": f"{root}.double", "payload": "=sku"}, "into": "sizes"},
        {"name": "join", "fanIn": True, "set": {"all": "=sizes"}},
        {"name": "tell", "publish": {"subject": f"{root}.told", "payload": "=all"}},
        reducers={"sizes": "add"},
    )
    document["transitions"][0] |= {"forEach": "skus", "as": "sku"}
    outcome = await caller.ok("flow.run", graph=document)
    assert (outcome["status"], outcome["state"]["all"]) == ("completed", 6), outcome
    assert (await take(heard)).data == b"6"


@pytest.mark.slow
async def test_a_bus_that_goes_away_trips_nothing(sqlite_dsn: str, prefix: str) -> None:
    """N3, N4, B6: steps in hand are held and sent again with the same id."""
    async with (
        NatsServer() as server,
        replica(settings(server.url, sqlite_dsn, prefix)) as engine,
        connected(server.url) as client,
    ):
        caller = Caller(client, prefix)
        asked = await caller.hear("stock.quote")
        flow = await caller.ok("flow.create", graph=graph(request("stock.quote")), start=True)
        first = await take(asked)
        await server.kill()
        await server.restart()
        second = await take(asked)
        await caller.answer(second, 1)
        assert (await engine.await_(flow["flowKey"], WAIT)).status.value == "completed"
        assert dict(engine.replica.counters.trips) == {}
    assert (first.headers or {})["Nats-Msg-Id"] == (second.headers or {})["Nats-Msg-Id"]
