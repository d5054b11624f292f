"""Bad input through the whole service: a clear error, and nothing is lost (S1; semantics: refusals; wire section 1)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.testing import service

STRAIGHT = {
    "name": "straight",
    "entryPoint": "a",
    "tasks": [{"name": "a"}],
    "transitions": [{"from": "a", "to": "END"}],
}
KEY = "1-999-AAAAAAAAAAAAAAAA"


@pytest.fixture
async def connection(nats_server: NatsServer, dsn: str) -> AsyncIterator[Client]:
    """A client of a service with an answering task `a`."""
    async with service(nats_server.url, dsn, prefix="bad", task_prefix="badtask"):
        client = await nats.connect(nats_server.url)

        async def done(message: Any) -> None:
            await message.respond(b"")

        await client.subscribe("badtask.a", cb=done)
        await client.flush()
        yield client
        await client.close()


async def request(client: Client, subject: str, payload: bytes) -> tuple[int, str, dict[str, Any]]:
    """Code (0: done), message and body of an answer; header and body must agree."""
    answer = await client.request(f"bad.{subject}", payload, timeout=20)
    body = json.loads(answer.data)
    if "error" not in body or "status" in body:
        return 0, "", body
    error = body["error"]
    assert answer.headers is not None
    assert answer.headers["Nats-Service-Error-Code"] == str(error["code"])
    assert "\n" not in error["message"]
    return error["code"], error["message"], body


def graph(**changes: Any) -> bytes:
    return json.dumps({"graph": {**STRAIGHT, **changes}}).encode()


def state(text: str) -> bytes:
    return b'{"graph": ' + json.dumps(STRAIGHT).encode() + b', "state": ' + text.encode() + b"}"


REFUSED = {
    "an unknown workflow": ("flow.run", b'{"workflow": "nowhere"}', 404, "nowhere"),
    "an unknown flow": ("flow.snapshot", json.dumps({"flowKey": KEY}).encode(), 404, "1-999"),
    "an unknown step": ("step.get", json.dumps({"stepKey": KEY}).encode(), 404, "1-999"),
    "an unknown shard in a key": ("flow.await", b'{"flowKey": "7-1-AAAAAAAAAAAAAAAA"}', 404, "shard 7"),
    "a malformed key": ("flow.snapshot", b'{"flowKey": "1-1"}', 400, "malformed"),
    "a key beyond 63 bits": (
        "flow.snapshot",
        b'{"flowKey": "1-9223372036854775808-AAAAAAAAAAAAAAAA"}',
        400,
        "malformed",
    ),
    "an unknown graph": ("graph.get", b'{"name": "nowhere"}', 404, "nowhere"),
    "an unknown thread": ("flow.list", json.dumps({"threadKey": KEY}).encode(), 404, "1-999"),
    "a shard that is not there": ("flow.list", b'{"shard": 9}', 400, "shard 9"),
    "a limit of none": ("flow.list", b'{"limit": 0}', 400, "limit"),
    "a limit of too many": ("flow.list", b'{"limit": 1001}', 400, "limit"),
    "a broken cursor": ("flow.list", b'{"cursor": "%%%"}', 400, "cursor"),
    "a purge of everything": ("flow.purge", b"{}", 400, "olderThanMs"),
    "invalid JSON": ("flow.run", b"{", 400, "JSON"),
    "no object": ("flow.run", b"[1]", 400, "object"),
    "an unknown field": ("flow.run", b'{"workfow": "x"}', 400, "workflow"),
    "a missing field": ("flow.start", b"{}", 400, "flowKey"),
    "a wrong type": ("flow.run", b'{"workflow": 1}', 400, "workflow"),
    "workflow and graph": ("flow.run", graph()[:-1] + b', "workflow": "x"}', 400, "both"),
    "neither workflow nor graph": ("flow.run", b"{}", 400, "workflow"),
    "a wildcard in a workflow": ("flow.run", b'{"workflow": "a.*"}', 400, "wildcards"),
    "a space in a workflow": ("flow.run", b'{"workflow": "a b"}', 400, "spaces"),
    "an empty token in a task": ("flow.create_task", b'{"task": "a..b"}', 400, "empty tokens"),
    "a wildcard in a notify target": ("flow.run", graph()[:-1] + b', "options": {"notify": ">"}}', 400, "notify"),
    "a priority of 0": ("flow.run", graph()[:-1] + b', "options": {"priority": 0}}', 400, "priority"),
    "a weight of 0": ("flow.run", graph()[:-1] + b', "options": {"fairnessWeight": 0}}', 400, "fairnessWeight"),
    "key and thread": (
        "flow.create",
        graph()[:-1] + b', "options": {"idempotencyKey": "k", "threadKey": "' + KEY.encode() + b'"}}',
        400,
        "together",
    ),
    "a state that is no object": ("flow.run", state("[1]"), 400, "object"),
    "a state too deep": ("flow.run", state('{"a":' * 65 + "1" + "}" * 65), 400, "64"),
    "an integer beyond 64 bits": ("flow.run", state('{"n": 9223372036854775808}'), 400, "64 bits"),
    "a number beyond a double": ("flow.run", state('{"n": 1e400}'), 400, "state"),
    "a lone surrogate": ("flow.run", state('{"s": "\\ud800"}'), 400, "JSON"),
    "a graph that never ends": ("flow.run", graph(transitions=[{"from": "a", "to": "a"}]), 400, "END"),
    "a graph with an unknown key": ("graph.put", json.dumps({**STRAIGHT, "task": []}).encode(), 400, "task"),
    "a resume of nothing": ("flow.resume", json.dumps({"flowKey": KEY}).encode(), 404, "1-999"),
    "overrides that are no object": (
        "flow.restart",
        json.dumps({"flowKey": KEY, "overrides": [1]}).encode(),
        400,
        "overrides",
    ),
    "a fork without a step": ("flow.fork", json.dumps({"flowKey": KEY}).encode(), 400, "stepKey"),
    "a breakpoint before no task": (
        "flow.break_before",
        json.dumps({"flowKey": KEY, "task": ""}).encode(),
        400,
        "task",
    ),
    "a continue with a thread in its options": (
        "flow.continue",
        json.dumps({"threadKey": KEY, "options": {"threadKey": KEY}}).encode(),
        400,
        "threadKey",
    ),
}


async def test_every_bad_request_gets_its_code_and_a_message_that_helps(connection: Client) -> None:
    """S1, O9, G6: code and a telling word of each; the service goes on serving and made no flow."""
    wrong = {}
    for what, (subject, payload, code, word) in REFUSED.items():
        got, message, body = await request(connection, subject, payload)
        if got != code or word.lower() not in message.lower():
            wrong[what] = (got, message or body)
    assert wrong == {}
    assert (await request(connection, "flow.list", b""))[2] == {"flows": []}
    assert (await request(connection, "flow.run", graph()))[2]["status"] == "completed"


async def test_what_is_unusual_but_sound_comes_back_digit_for_digit(connection: Client) -> None:
    """S1: the ends of 64 bits, a NUL in a string, nesting at the limit, a null, text of any script."""
    deep = '{"a":' * 63 + "1" + "}" * 63
    text = (
        '{"most": 9223372036854775807, "least": -9223372036854775808, "nul": "a\\u0000b", "deep": '
        + deep
        + ', "none": null, "text": "żółć 🐟", "small": 0.1, "": ""}'
    )
    code, _, body = await request(connection, "flow.run", state(text))
    assert code == 0
    assert body["state"] == json.loads(text)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (b"[1]", "object"),
        (b"not json", "not json"),
        (b'{"greeting": "hello"}', "changes"),
        (b'{"changes": 1}', "changes"),
        (b'{"changes": {"n": 9223372036854775808}}', "64 bits"),
        (b'{"changes": {"s": "\\ud800"}}', "JSON"),
        (b'{"sleepMs": -1}', "sleepMs"),
        (b'{"retry": {"maxAttempts": 0}}', "maxAttempts"),
    ],
)
async def test_a_malformed_reply_fails_its_step_and_says_why(connection: Client, reply: bytes, word: str) -> None:
    """X4, wire section 2: code 502 with an excerpt or the name of the field."""

    async def answer(message: Any) -> None:
        await message.respond(reply)

    await connection.subscribe("badtask.odd", cb=answer)
    await connection.flush()
    made = (await request(connection, "flow.create_task", b'{"task": "odd", "start": true}'))[2]
    body = json.loads((await connection.request("bad.flow.await", json.dumps(made).encode(), timeout=20)).data)
    assert body["status"] == "failed"
    assert body["error"]["code"] == 502
    assert word in body["error"]["message"]


EMPTY_TEXTS = [
    ("flow.create", {"options": {"idempotencyKey": ""}}), ("flow.create", {"options": {"notify": ""}}),
    ("flow.create", {"options": {"threadKey": ""}}), ("flow.list", {"workflow": ""}), ("flow.list", {"task": ""}),
    ("flow.list", {"threadKey": ""}), ("flow.list", {"search": ""}), ("flow.purge", {"status": "completed", "workflow": ""}),
]  # fmt: skip
ODD_TEXTS = ["x" * 100_000, "\0", "\u202e\x1b[2J", "'; drop table dwarf_flows; --", "%", "\\", "\U0001f600"]
ODD_NUMBERS = ["0", "-1", "1e400", "9" * 18, "9" * 25, "9" * 400, "9" * 5000, "1.5", "null", '"1"']
ODD_TIMES = ["10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59",
             "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00+99:00",
             "", "soon"]  # fmt: skip


async def test_texts_that_are_empty_are_refused_and_do_not_mean_none_or_all(connection: Client) -> None:
    """O1, O9: an unset variable of the caller neither loses its key nor purges everything."""
    done = json.dumps({"graph": STRAIGHT}).encode()
    assert (await request(connection, "flow.run", done))[0] == 0
    for subject, fields in EMPTY_TEXTS:
        body = {"graph": STRAIGHT, **fields} if subject == "flow.create" else fields
        code, message, _ = await request(connection, subject, json.dumps(body).encode())
        assert (code, "is empty: leave it out" in message) == (400, True), fields
    answer = await connection.request("bad.flow.create", done, headers={"Nats-Msg-Id": ""}, timeout=20)
    assert json.loads(answer.data)["error"]["code"] == 400
    assert "Nats-Msg-Id is empty" in json.loads(answer.data)["error"]["message"]
    assert len((await request(connection, "flow.list", b""))[2]["flows"]) == 1


async def test_no_text_or_number_of_a_query_is_a_500(connection: Client) -> None:
    """O9: every field of list and purge takes what it can hold and refuses the rest with a 400."""
    for subject in ("flow.list", "flow.purge"):
        for name in ("workflow", "task", "fairnessKey", "search", "threadKey"):
            for text in ODD_TEXTS:
                body = json.dumps({"status": "failed", name: text}).encode()
                code, message, _ = await request(connection, subject, body)
                assert code in (0, 400), (subject, name, text[:20], message)
                assert code == 400 or len(text) < 100
        for name in ("priority", "olderThanMs", "newerThanMs", "shard", "limit"):
            for number in ODD_NUMBERS:
                body = f'{{"status": "failed", "{name}": {number}}}'.encode()
                code, message, _ = await request(connection, subject, body)
                assert code in (0, 400), (subject, name, number[:20], message)
    for cursor in (*ODD_TEXTS, "9" * 5000, "MS4y", "ü"):
        code, message, _ = await request(connection, "flow.list", json.dumps({"cursor": cursor}).encode())
        assert code == 400, (cursor[:20], message)


async def test_no_time_or_duration_of_a_request_is_a_500(connection: Client) -> None:
    """O1, O2, O4: times beyond the calendar are refused, waits beyond the cap are capped."""
    for at in ODD_TIMES:
        body = json.dumps({"graph": STRAIGHT, "options": {"startAt": at}}).encode()
        assert (await request(connection, "flow.create", body))[0] == 400, at
    for name in ("priority", "fairnessWeight", "timeBudgetMs"):
        for number in ODD_NUMBERS:
            body = b'{"graph": ' + json.dumps(STRAIGHT).encode() + f', "options": {{"{name}": {number}}}}}'.encode()
            assert (await request(connection, "flow.create", body))[0] in (0, 400), (name, number[:20])
    for number in ODD_NUMBERS:
        body = b'{"graph": ' + json.dumps(STRAIGHT).encode() + f', "timeoutMs": {number}}}'.encode()
        code, message, _ = await request(connection, "flow.run", body)
        assert code in (0, 400, 408), (number[:20], message)
