"""Messages larger than the nats-server takes: refused before they are sent, never at the price of the connection."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dwarf_nats.dev_servers import NatsServer
from tests.support.caller import WAIT, Caller, conforms, deployment, line

LIMIT = 4096
TEXT = "x" * 3000


@pytest.fixture
async def small(sqlite_dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Caller]:
    """A caller of a service on a server that takes 4 KiB at a time; the service must not lose its connection."""
    config = tmp_path / "nats.conf"
    config.write_text(f"max_payload: {LIMIT}")
    with caplog.at_level(logging.INFO):
        async with (
            NatsServer(config=config) as server,
            deployment(server.url, sqlite_dsn, "small", signals=True) as caller,
        ):
            await caller.serves("a", {"changes": {"a": TEXT}})
            await caller.serves("b", {"changes": {"b": TEXT}})
            await caller.serves("clear", {"changes": {"a": None, "b": None}})
            yield caller
            assert caller.client.is_connected
    assert not [record.getMessage() for record in caplog.records if "lost" in record.getMessage()]


async def test_a_task_request_over_max_payload_fails_its_step_with_a_413(small: Caller) -> None:
    """Wire section 2: both sizes are named; headers count; the task is never asked."""
    asked = await small.holds("c")
    heard = await small.hear("small.event.failed.>")
    flow = await small.ok("flow.create", graph=line("l", "a", "b", "c"), start=True)
    await asyncio.wait_for(heard.get(), WAIT)
    *_, step = (await small.ok("flow.history", **flow))["steps"]
    assert (step["task"], step["status"], step["error"]["code"]) == ("c", "failed", 413)
    assert str(LIMIT) in step["error"]["message"]
    sizes = [int(word) for word in step["error"]["message"].split() if word.isdigit()]
    assert max(sizes) > 2 * len(TEXT)
    assert asked.empty()
    assert (await small.ok("flow.run", graph=line("l", "a", "clear")))["state"] == {}


async def test_a_request_just_under_the_limit_is_sent_and_one_over_it_is_not(small: Caller) -> None:
    """Wire section 2: the limit counts headers and payload, to the byte."""
    asked = await small.serves("exact")

    async def size(filler: int) -> int:
        state = {"f": "x" * filler}
        outcome = await small.ok("flow.run", graph=line("l", "exact"), state=state)
        if outcome["status"] == "completed":
            return 0
        assert outcome["error"]["code"] == 413
        return next(int(word) for word in outcome["error"]["message"].split() if word.isdigit())

    over = await size(3700)
    assert over > LIMIT
    spare = 40  # keys and ids may grow by digits between the two flows
    assert await size(3700 - (over - LIMIT) - spare) == 0
    assert await size(3700 - (over - LIMIT) + spare) > LIMIT
    assert len(asked) == 1


async def test_a_refusal_that_quotes_too_much_still_arrives(small: Caller) -> None:
    """Wire section 1: header and body of a refusal are kept within the limit."""
    name = "n" * 3500
    message = await small.raw("flow.run", {name: 1})
    error = conforms("error_reply", json.loads(message.data))["error"]
    assert error["code"] == 400


async def test_discovery_and_signals_over_max_payload_do_not_cost_the_connection(small: Caller) -> None:
    """Wire section 2: exceeding it makes the server cut the connection, so a message that does not fit is not sent."""
    peers = await small.hear("small.peer.>")
    for verb in ("PING", "INFO", "STATS"):
        await small.client.publish(f"$SRV.{verb}.dwarf", b"", reply="small.nobody")
    runs = [small.ok("flow.run", graph=line("l", "clear")) for _ in range(200)]
    outcomes = await asyncio.wait_for(asyncio.gather(*runs), WAIT)
    assert {one["status"] for one in outcomes} == {"completed"}
    told: set[str] = set()
    while len(told) < 200:
        message = await asyncio.wait_for(peers.get(), WAIT)
        if message.subject == "small.peer.notify_status_change":
            told |= {one["flowKey"] for one in json.loads(message.data)["flows"]}
    assert told == {one["flowKey"] for one in outcomes}


# --- limits of the service itself ---


async def test_each_limit_is_a_413_that_names_it(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> None:
    """Semantics: refusals; with the size and the remedy, in header and body; nothing is left behind."""
    limits = {
        "max_request_bytes": 3_000,
        "max_state_bytes": 1_000,
        "max_nodes": 2,
        "max_transitions": 3,
        "max_graph_bytes": 400,
        "max_error_bytes": 100,
    }
    async with deployment(nats_server.url, sqlite_dsn, prefix, **limits) as caller:
        await caller.serves("a")
        long = line("l", "a", "b", "c")
        noted = {**line("l", "a"), "annotations": {"a": "x" * 400}}
        tangled = line("l", "a", "b")
        tangled["transitions"] += [{"from": "a", "to": "b", "withGoto": True, "when": f"x == {n}"} for n in range(2)]
        made = await caller.ok("flow.create_task", task="a")
        big = {"s": "x" * 1_000}
        refusals: list[tuple[str, str, dict[str, object]]] = [
            ("flow.create", "max_request_bytes", {"graph": line("l", "a"), "state": {"s": "x" * 3_000}}),
            ("flow.run", "max_state_bytes", {"graph": line("l", "a"), "state": big}),
            ("flow.create_task", "max_state_bytes", {"task": "a", "state": big}),
            ("flow.create_task", "max_state_bytes", {"task": "a", "options": {"baggage": big}}),
            ("flow.resume", "max_state_bytes", {**made, "data": "x" * 1_000}),
            ("flow.resume_break", "max_state_bytes", {**made, "overrides": big}),
            ("flow.restart", "max_state_bytes", {**made, "overrides": big}),
            ("flow.cancel", "max_error_bytes", {**made, "reason": "x" * 101}),
        ]
        for operation in ("graph.put", "graph.validate"):
            refusals += [(operation, "max_nodes", long), (operation, "max_graph_bytes", noted)]
            refusals += [(operation, "max_transitions", tangled)]
        refusals += [("flow.create", "max_nodes", {"graph": long})]
        for operation, name, fields in refusals:
            error = await caller.refused(operation, **fields)
            assert (error["code"], f"({name})" in error["message"]) == (413, True), (operation, error)
            assert f"over the limit of {limits[name]}" in error["message"]
        assert [flow["flowKey"] for flow in (await caller.ok("flow.list"))["flows"]] == [made["flowKey"]]
        assert (await caller.ok("graph.list"))["graphs"] == []
        # Just under.
        fits = {"s": "x" * (1_000 - len('{"s": ""}'))}
        outcome = await caller.ok("flow.run", graph=line("l", "a"), state=fits, options={"baggage": fits})
        assert outcome["status"] == "completed"
        await caller.ok("flow.cancel", **made, reason="x" * 100)


async def test_a_request_may_have_exactly_so_many_bytes(nats_server: NatsServer, sqlite_dsn: str, prefix: str) -> None:
    async with deployment(nats_server.url, sqlite_dsn, prefix, max_request_bytes=100) as caller:
        body = json.dumps({"task": "a", "state": {"s": ""}}).encode()
        for filler, code in ((100 - len(body), None), (101 - len(body), "413")):
            padded = json.dumps({"task": "a", "state": {"s": "x" * filler}}).encode()
            message = await caller.raw("flow.create_task", padded)
            assert (message.headers or {}).get("Nats-Service-Error-Code") == code
        assert len((await caller.ok("flow.list"))["flows"]) == 1


async def test_what_a_task_answers_beyond_the_limits_fails_its_step(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """X4: changes, depth, width, length of the flow, size of an error."""
    limits = {"max_state_bytes": 1_000, "max_depth": 4, "max_branches": 3, "max_steps": 5, "max_error_bytes": 100}
    each = {
        "name": "each",
        "tasks": [{"name": "wide"}, {"name": "a"}, {"name": "join", "fanIn": True}],
        "transitions": [
            {"from": "wide", "to": "a", "forEach": "items", "as": "item"},
            {"from": "a", "to": "join"},
            {"from": "join", "to": "END"},
        ],
    }
    loop = {
        "name": "loop",
        "tasks": [{"name": "a"}],
        "transitions": [
            {"from": "a", "to": "a", "switch": True, "when": "x == null"},
            {"from": "a", "to": "END", "switch": True, "when": "true"},
        ],
    }
    async with deployment(nats_server.url, sqlite_dsn, prefix, **limits) as caller:
        await caller.serves("a")
        await caller.serves("join")
        await caller.serves("big", {"changes": {"s": "x" * 1_000}})
        await caller.serves("deep", {"changes": {"s": [[[[]]]]}})
        await caller.serves("wide", {"changes": {"items": [1, 2, 3, 4]}})
        await caller.serves("wordy", {"error": {"message": "m" * 500, "code": 402, "more": "x" * 500}})
        for graph, code, said in (
            (line("l", "big"), 413, "(max_state_bytes)"),
            (line("l", "deep"), 502, "nested deeper than 4 levels"),
            (each, 413, "(max_branches)"),
            (loop, 413, "(max_steps)"),
            (line("l", "wordy"), 402, "…"),
        ):
            outcome = await caller.ok("flow.run", graph=graph)
            assert outcome["status"] == "failed", outcome
            assert (outcome["error"]["code"], said in outcome["error"]["message"]) == (code, True), outcome
            assert len(outcome["error"]["message"]) < 600
        assert (await caller.ok("flow.run", graph=line("l", "a")))["status"] == "completed"


async def test_a_diagram_of_more_steps_than_the_limit_is_a_413(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """O7, O8: the history itself is read page by page."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, max_history=2) as caller:
        for task in ("a", "b", "c"):
            await caller.serves(task)
        short = await caller.ok("flow.run", graph=line("l", "a", "b"))
        assert len((await caller.ok("flow.history", flowKey=short["flowKey"]))["steps"]) == 2
        flow = {"flowKey": (await caller.ok("flow.run", graph=line("l", "a", "b", "c")))["flowKey"]}
        error = await caller.refused("flow.mermaid", **flow)
        assert (error["code"], "(max_history)" in error["message"]) == (413, True)
        assert len((await caller.ok("flow.history", **flow))["steps"]) == 3
