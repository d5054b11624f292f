"""Replies larger than the nats-server takes (wire: large-replies): what is too large is left out, nothing is refused."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import Unavailable
from dwarf_nats.sdk import Client
from dwarf_nats.server import replica
from tests.service.test_service_discovery import checker
from tests.support.caller import WAIT, Caller, connected, deployment, line, settings, take

pytestmark = pytest.mark.slow

LIMIT = 4096
TEXT = "x" * 3000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A nats-server that takes 4 KiB at a time."""
    config = tmp_path / "nats.conf"
    config.write_text(f"max_payload: {LIMIT}")
    async with NatsServer(config=config) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where graphs are that fit no request."""
    made = tmp_path / "graphs"
    made.mkdir()
    return made


@pytest.fixture
async def small(server: NatsServer, dsn: str, folder: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Caller]:
    """A caller of a service there, once on each database; the service must not lose its connection."""
    with caplog.at_level(logging.INFO):
        async with deployment(server.url, dsn, "small", graphs_dir=folder) as caller:
            await caller.serves("a", {"changes": {"a": TEXT}})
            await caller.serves("b", {"changes": {"b": TEXT}})
            yield caller
            assert caller.client.is_connected
    assert not [record.getMessage() for record in caplog.records if "lost" in record.getMessage()]


async def test_an_outcome_that_does_not_fit_is_answered_without_its_state(small: Caller) -> None:
    """O3 to O5: with the key of the flow, whichever operation answers; a step still has what fits."""
    done = await small.ok("flow.run", graph=line("l", "a", "b"))
    assert (done["status"], done["state"], done["truncated"]) == ("completed", {}, True)
    flow = {"flowKey": done["flowKey"]}
    for operation in ("flow.await", "flow.poll", "flow.snapshot"):
        assert await small.ok(operation, **flow) == done
    first, second = (await small.ok("flow.history", **flow))["steps"]
    told = await small.ok("step.get", stepKey=first["stepKey"])
    assert (told["changes"], "truncated" in told) == ({"a": TEXT}, False)
    told = await small.ok("step.get", stepKey=second["stepKey"])
    assert (told["truncated"], "state" in told, told["changes"]) == (True, False, {"b": TEXT})
    assert told["prevKey"] == first["stepKey"]


async def test_an_outcome_that_does_not_fit_is_announced_without_its_state(small: Caller) -> None:
    """B4: the announcement is not lost."""
    heard = await small.hear("small.stopped.>")
    done = await small.ok("flow.run", graph=line("l", "a", "b"), options={"notify": "shop"})
    assert json.loads((await take(heard)).data) == done
    assert done["truncated"] is True


async def test_of_a_pause_the_state_stays_where_only_the_payload_is_too_large(small: Caller) -> None:
    """O5: the payload was taken in a reply that just fit; together with the outcome around it, it does not."""
    await small.serves("ask", {"interrupt": "?" * (LIMIT - 40)})
    paused = await small.ok("flow.run", graph=line("l", "ask"), state={"n": 1})
    assert (paused["status"], paused["state"], paused["truncated"]) == ("interrupted", {"n": 1}, True)
    assert "interruptPayload" not in paused
    (step,) = (await small.ok("flow.history", flowKey=paused["flowKey"]))["steps"]
    told = await small.ok("step.get", stepKey=step["stepKey"])
    assert (told["state"], told["truncated"]) == ({"n": 1}, True)


async def test_an_error_that_does_not_fit_is_cut_everywhere(small: Caller) -> None:
    """O5, O7, O9: outcome, step, history and list tell what fits of it."""
    await small.serves("fails", {"error": {"message": "m" * (LIMIT - 60), "code": 402}})
    await small.serves("c", {"changes": {"c": 1}})
    failed = await small.ok("flow.run", graph=line("l", "c", "fails"))
    assert (failed["status"], failed["state"], failed["truncated"]) == ("failed", {"c": 1}, True)
    assert (failed["error"]["code"], failed["error"]["cut"]) == (402, True)
    assert len(failed["error"]["message"]) > 500
    pages = await pages_of(small, "flow.history", "steps", flowKey=failed["flowKey"])
    assert [step["task"] for page in pages for step in page] == ["c", "fails"]
    step = pages[-1][-1]
    assert step["error"]["cut"] is True
    assert (await small.ok("step.get", stepKey=step["stepKey"]))["error"]["cut"] is True
    for _ in range(3):
        await small.ok("flow.run", graph=line("l", "fails"))
    listed = await pages_of(small, "flow.list", "flows")
    assert len({flow["flowKey"] for page in listed for flow in page}) == 4
    assert all(flow["error"]["code"] == 402 for page in listed for flow in page)


async def test_the_reason_of_a_cancel_may_be_too_large_for_the_outcome(small: Caller) -> None:
    """O5, O10."""
    flow = await small.ok("flow.create_task", task="a")
    await small.ok("flow.cancel", **flow, reason="r" * (LIMIT - 60))
    told = await small.ok("flow.snapshot", **flow)
    assert (told["status"], told["truncated"]) == ("cancelled", True)
    assert told["cancelReason"].startswith("rrr")
    (flow_told,) = (await small.ok("flow.list"))["flows"]
    assert flow_told["cancelReason"].startswith("rrr")


async def pages_of(caller: Caller, operation: str, field: str, **fields: Any) -> list[list[dict[str, Any]]]:
    pages = []
    while True:
        told = await caller.ok(operation, **fields)
        assert told[field]
        pages.append(told[field])
        if "cursor" not in told:
            return pages
        fields["cursor"] = told["cursor"]


async def test_a_list_that_does_not_fit_has_shorter_pages(small: Caller) -> None:
    """O9: nothing is missing and nothing is there twice."""
    keys = [(await small.ok("flow.create_task", task="long-name-" * 20))["flowKey"] for _ in range(12)]
    listed = await pages_of(small, "flow.list", "flows")
    assert [flow["flowKey"] for page in listed for flow in page] == keys[::-1]
    assert len(listed) > 1


async def test_a_history_that_does_not_fit_has_shorter_pages_and_a_smaller_diagram(small: Caller, folder: Path) -> None:
    """O7, O8: also a step whose sub-workflow is too large; the diagram folds what does not fit."""
    names = [f"node-{number}-" + "n" * 150 for number in range(20)]
    (folder / "long.json").write_text(json.dumps(with_url(line("long", *names), "c")))
    await small.serves("c")
    await small.plays("call", lambda asked: {} if "subgraph" in asked else {"subgraph": {"workflow": "long"}})
    done = await small.ok("flow.run", workflow="long")
    pages = await pages_of(small, "flow.history", "steps", flowKey=done["flowKey"])
    assert [step["task"] for page in pages for step in page] == names
    assert len(pages) > 2
    assert "flowchart" in (await small.ok("flow.mermaid", flowKey=done["flowKey"]))["mermaid"]
    done = await small.ok("flow.run", graph=line("caller", "call", "c"))
    first, last = [step for page in await pages_of(small, "flow.history", "steps", **key(done)) for step in page]
    assert (first["task"], first["truncated"], last["task"]) == ("call", True, "c")
    assert [step["task"] for step in first["subHistory"]] == names[: len(first["subHistory"])]
    assert len(first["subHistory"]) > 3
    pages = await pages_of(small, "flow.history", "steps", flowKey=first["subFlowKey"])
    assert [step["task"] for page in pages for step in page] == names
    assert "flowchart" in (await small.ok("flow.mermaid", **key(done)))["mermaid"]


async def test_graphs_that_do_not_fit(small: Caller) -> None:
    """Of a list as many as fit are told; a graph is whole or refused, with both sizes."""
    for number in range(40):
        await small.ok("graph.put", **line(f"graph-{number:02}-" + "g" * 60, "a"))
    told = await small.ok("graph.list")
    assert (len(told["graphs"]) > 10, told["truncated"]) == (True, True)


async def test_discovery_and_health_fit_a_server_that_takes_very_little(small: Caller) -> None:
    """ADR-32: every verb is answered, without the details there is no room for."""
    for verb in ("PING", "INFO", "STATS"):
        told = json.loads((await small.client.request(f"$SRV.{verb}.dwarf", b"", timeout=WAIT)).data)
        checker(verb).validate(told)
        assert told["metadata"]["prefix"] == "small"
        if verb != "PING":
            assert told["metadata"]["truncated"] == "true"
            assert len(told["endpoints"]) > 5
    assert (await small.ok("health"))["ready"] is True


async def test_a_server_that_takes_less_once_it_is_back(tmp_path: Path, sqlite_dsn: str) -> None:
    """Wire: large-replies; the limit is that of the server now, not that of the first connection."""
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 65536")
    async with NatsServer(config=config) as server, deployment(server.url, sqlite_dsn, "less") as caller:
        await caller.serves("a", {"changes": {"a": "x" * 8_000}})
        done = await caller.ok("flow.run", graph=line("l", "a"))
        assert done["state"]["a"]
        await server.stop()
        config.write_text(f"max_payload: {LIMIT}")
        await server.restart()
        async with Client(server.url, prefix="less") as client, asyncio.timeout(WAIT):
            while True:
                try:
                    outcome = await client.snapshot(done["flowKey"])
                    break
                except Unavailable:
                    await asyncio.sleep(0.01)  # the replica is not back yet
            assert (outcome.truncated, outcome.state) == (True, {})


async def test_a_replica_may_be_told_to_send_less_than_its_server_takes(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """Where a leaf node on the way takes less: replies are made smaller, and larger task requests are not sent."""
    async with deployment(nats_server.url, sqlite_dsn, prefix, max_message_bytes=LIMIT) as caller:
        await caller.serves("a", {"changes": {"a": TEXT}})
        await caller.serves("b", {"changes": {"b": TEXT}})
        done = await caller.ok("flow.run", graph=line("l", "a", "b"))
        assert (done["status"], done["truncated"]) == ("completed", True)
        failed = await caller.ok("flow.run", graph=line("l", "a", "b", "c"))
        assert (failed["status"], failed["error"]["code"]) == ("failed", 413)
        assert str(LIMIT) in failed["error"]["message"]


async def test_a_history_of_many_steps_is_read_page_by_page(nats_server: NatsServer, dsn: str, prefix: str) -> None:
    """O7: over the wire and with the SDK; 1,201 steps in a row, and a fan-out of 700 in a child."""
    wide = {
        "name": "wide",
        "tasks": [
            {"name": "split", "url": "c"},
            {"name": "work", "url": "c"},
            {"name": "join", "url": "c", "fanIn": True},
        ],
        "transitions": [
            {"from": "split", "to": "work", "forEach": "items"},
            {"from": "work", "to": "join"},
            {"from": "join", "to": "END"},
        ],
    }
    loop = {
        "name": "loop",
        "tasks": [{"name": "count"}, {"name": "call"}],
        "transitions": [
            {"from": "count", "to": "count", "when": "n < 1200"},
            {"from": "count", "to": "call", "when": "n >= 1200"},
            {"from": "call", "to": "END"},
        ],
    }
    loop["transitions"][0]["switch"] = loop["transitions"][1]["switch"] = True
    async with (
        replica(settings(nats_server.url, dsn, prefix)),
        connected(nats_server.url) as nc,
        Client(nc=nc, prefix=prefix) as client,
    ):
        caller = Caller(nc, prefix)
        await caller.serves("c")
        await caller.plays("count", lambda asked: {"changes": {"n": asked["state"].get("n", 0) + 1}})
        child = {"workflow": "wide", "input": {"items": list(range(700))}}
        await caller.plays("call", lambda asked: {} if "subgraph" in asked else {"subgraph": child})
        await caller.ok("graph.put", **wide)
        done = await caller.ok("flow.run", graph=loop, timeoutMs=int(WAIT * 1000))
        assert done["status"] == "completed"
        steps = await client.history(done["flowKey"])
        assert [step.depth for step in steps] == list(range(steps[0].depth, steps[0].depth + 1201))
        page, cursor = await client.history_page(done["flowKey"], 10)
        assert [step.step_id for step in page] == [step.step_id for step in steps[:10]]
        page, cursor = await client.history_page(done["flowKey"], 1000, cursor)
        assert [step.step_id for step in page] == [step.step_id for step in steps[10:1010]]
        (call,) = [step for step in (await client.history_page(done["flowKey"], 300, cursor))[0] if step.subgraph]
        assert (call.truncated, len(call.sub_history), call.sub_workflow) == (True, 300, "wide")
        assert call.sub_flow_key is not None
        assert len(await client.history(call.sub_flow_key)) == 702
        for wrong in (0, 1001):
            assert await caller.code("flow.history", **key(done), limit=wrong) == 400
        assert await caller.code("flow.history", **key(done), cursor="nonsense") == 400


def key(outcome: dict[str, Any]) -> dict[str, str]:
    return {"flowKey": outcome["flowKey"]}


def with_url(graph: dict[str, Any], url: str) -> dict[str, Any]:
    for task in graph["tasks"]:
        task["url"] = url
    return graph
