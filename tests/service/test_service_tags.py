"""Tags as a caller and a task service use them, over NATS and on both databases (Q1)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dwarf_nats.sdk import Client, Flow, FlowOptions, Query, Worker
from tests.support.caller import Caller, line

TAGS = {"customer": 4711, "channel": "web", "urgent": True}


async def found(caller: Caller, **filters: Any) -> list[str]:
    return [one["flowKey"] for one in (await caller.ok("flow.list", **filters))["flows"]]


async def test_flows_are_tagged_and_found_from_creation_to_removal(either: Caller) -> None:
    """Q1: at creation, by a reply and by the operation; in outcome, announcement and list."""
    caller = either
    await caller.ok("graph.put", **line("acme.order", "reserve"))
    await caller.serves("reserve", {"tags": {"reserved": "R-7", "urgent": None}})
    heard = await caller.hear(f"{caller.prefix}.event.>")
    outcome = await caller.ok("flow.run", workflow="acme.order", options={"tags": TAGS})
    expected = {"customer": 4711, "channel": "web", "reserved": "R-7"}
    assert outcome["tags"] == expected
    key = outcome["flowKey"]
    task = await caller.ok("flow.create_task", task="reserve", options={"tags": {"customer": "4711"}})
    assert await found(caller, tags={"customer": 4711}) == [task["flowKey"], key]
    assert await found(caller, tags={"customer": "4711"}, status="completed") == [key]
    assert await found(caller, tags={"customer": 4711, "reserved": "R-7"}) == [key]
    ((summary,),) = [(await caller.ok("flow.list", tags={"reserved": "R-7"}))["flows"]]
    assert summary["tags"] == expected
    changed = await caller.ok("flow.tag", flowKey=key, tags={"customer": 4712, "channel": None})
    assert changed == {"tags": {"customer": 4712, "reserved": "R-7"}}
    assert (await caller.ok("flow.snapshot", flowKey=key))["tags"] == changed["tags"]
    (step,) = (await caller.ok("flow.history", flowKey=key))["steps"]
    copy = await caller.ok("flow.fork", stepKey=step["stepKey"], tags={"again": 1})
    assert (await caller.ok("flow.await", flowKey=copy["flowKey"]))["tags"] == {"again": 1, "reserved": "R-7"}
    following = await caller.ok("flow.continue", threadKey=key)
    assert (await caller.ok("flow.snapshot", flowKey=following["flowKey"]))["tags"] == changed["tags"]
    purged = await caller.ok("flow.purge", tags={"customer": 4712}, status="completed")
    assert purged == {"deleted": 1}
    assert await found(caller, tags={"customer": 4712}) == [following["flowKey"]]
    while not heard.empty():
        assert "tags" not in json.loads(heard.get_nowait().data)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("flow.create", {"options": {"tags": {"a.b": 1}}}, "field `options.tags` has the name 'a.b': use A-Z"),
    ("flow.run", {"options": {"tags": {"a": None}}}, "field `options.tags`.a is null: give it a text"),
    ("flow.create", {"options": {"tags": []}}, "field `options.tags` must be an object"),
    ("flow.create", {"options": {"tags": {"a": "x" * 257}}}, "at most 256 bytes of UTF-8, got 257"),
    ("flow.create", {"options": {"tags": {f"t{number}": 1 for number in range(33)}}}, "at most 32 tags"),
    ("flow.list", {"tags": {}}, "tags is empty"),
    ("flow.list", {"tags": {"a": {"b": 1}}}, "field `tags`.a must be a text"),
    ("flow.purge", {"tags": {"a": 1}}, "purge needs at least one of status, workflow, olderThanMs"),
]


@pytest.mark.parametrize(("operation", "request_", "why"), BAD)
async def test_bad_tags_are_a_400_with_place_and_remedy(
    caller: Caller, operation: str, request_: dict[str, Any], why: str
) -> None:
    """Q1."""
    if operation in ("flow.create", "flow.run"):
        request_ = {"graph": line("one", "a"), **request_}
    error = await caller.refused(operation, **request_)
    assert error["code"] == 400
    assert why in error["message"]


async def test_a_reply_with_bad_tags_is_an_error_of_the_step(caller: Caller) -> None:
    """Q1, X4: and neither its changes nor its tags are kept."""
    await caller.serves("a", {"changes": {"n": 1}, "tags": {"x": [1]}})
    outcome = await caller.ok("flow.run", graph=line("one", "a"), options={"tags": {"t": 1}})
    assert (outcome["error"]["code"], outcome["state"], outcome["tags"]) == (502, {}, {"t": 1})
    assert "`tags`.x must be a text, a number or a boolean" in outcome["error"]["message"]


async def test_the_client_and_the_worker_have_tags(either: Caller, nats_server: Any) -> None:
    """Q1: options, `tag`, `find` and `list`; `flow.tag` in a task."""
    worker = Worker(nats_server.url, task_prefix=f"{either.prefix}task")

    @worker.task("work")
    def work(flow: Flow) -> None:
        flow.tag({"order-id": 7}, by="task")

    async with worker, Client(nats_server.url, prefix=either.prefix) as client:
        key = await client.create_task("work", options=FlowOptions(tags=TAGS), start=True)
        outcome = await client.await_(key)
        assert outcome.tags == {**TAGS, "order-id": 7, "by": "task"}
        assert [one.flow_key for one in await client.find(customer=4711)] == [key]
        assert await client.find(Query(status="failed"), customer=4711) == []
        assert await client.find(Query(tags={"order-id": 7}), by="nobody") == []
        ((summary,), _) = await client.list(Query(tags={"order-id": "7", "urgent": True}))
        assert summary.tags == outcome.tags
        assert await client.tag(key, {"order-id": None}, urgent=None, by="hand") == {
            "customer": 4711,
            "channel": "web",
            "by": "hand",
        }
        assert await client.tag(key) == (await client.snapshot(key)).tags
