"""Every operation as a caller uses it, on both databases; requests and replies as the schemas have them (wire section 1)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.caller import Caller, conforms, line, take

KEY = re.compile(r"1-[1-9][0-9]*-[A-Za-z0-9]{16}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
ORDER = line("acme.order", "reserve", "price", "charge")


async def shop(caller: Caller) -> None:
    await caller.serves("reserve", {"changes": {"reserved": True}})
    await caller.serves("price", {"changes": {"price": 12.5, "reserved": None}})
    await caller.serves("charge", {"changes": {"paid": True}})


async def test_a_registered_workflow_from_its_graph_to_its_removal(either: Caller) -> None:
    """O1, O2, O4-O7, O9: put, create, start, await, and every way to look at it; delete leaves nothing."""
    caller = either
    await shop(caller)
    assert await caller.ok("graph.validate", **ORDER) == {}
    put = await caller.ok("graph.put", **ORDER)
    (listed,) = (await caller.ok("graph.list"))["graphs"]
    assert (listed["name"], listed["digest"]) == ("acme.order", put["digest"])
    got = await caller.ok("graph.get", name="acme.order")
    assert (await caller.ok("graph.put", **got))["digest"] == put["digest"]

    flow = (await caller.ok("flow.create", workflow="acme.order", state={"item": "book"}))["flowKey"]
    assert KEY.fullmatch(flow)
    made = {"flowKey": flow, "workflow": "acme.order", "status": "created", "state": {}}
    assert await caller.ok("flow.snapshot", flowKey=flow) == made
    before = await caller.ok("flow.fingerprint", flowKey=flow)
    assert before["status"] == "created"
    assert await caller.ok("flow.fingerprint", flowKey=flow) == before

    assert await caller.ok("flow.start", flowKey=flow) == {}
    ended = {**made, "status": "completed", "state": {"item": "book", "price": 12.5, "paid": True}}
    assert await caller.ok("flow.await", flowKey=flow) == ended
    assert await caller.ok("flow.poll", flowKey=flow) == ended
    assert await caller.ok("flow.snapshot", flowKey=flow) == ended
    after = await caller.ok("flow.fingerprint", flowKey=flow)
    assert after["status"] == "completed"
    assert after["fingerprint"] != before["fingerprint"]

    steps = (await caller.ok("flow.history", flowKey=flow))["steps"]
    assert [(one["task"], one["depth"], one["attempt"], one["status"]) for one in steps] == [
        ("reserve", 1, 0, "completed"),
        ("price", 2, 0, "completed"),
        ("charge", 3, 0, "completed"),
    ]
    first, second, third = [await caller.ok("step.get", stepKey=one["stepKey"]) for one in steps]
    assert (first["state"], first["changes"]) == ({"item": "book"}, {"reserved": True})
    assert (second["state"], second["changes"]) == (
        {"item": "book", "reserved": True},
        {"price": 12.5, "reserved": None},
    )
    assert third["state"] == {"item": "book", "price": 12.5}
    assert (first["nextKey"], second["prevKey"], second["nextKey"], third["prevKey"]) == (
        second["stepKey"], first["stepKey"], third["stepKey"], second["stepKey"],
    )  # fmt: skip
    assert (first["successorId"], third["predecessorId"]) == (second["stepId"], second["stepId"])
    assert "prevKey" not in first
    assert "nextKey" not in third
    for step in (first, second, third):
        assert TIME.fullmatch(step["createdAt"])
        assert step["createdAt"] <= step["startedAt"] <= step["updatedAt"]

    assert await caller.ok("flow.delete", flowKey=flow) == {}
    for operation in ("snapshot", "await", "poll", "history", "fingerprint", "start", "delete", "cancel"):
        assert await caller.code(f"flow.{operation}", flowKey=flow) == 404, operation
    assert await caller.code("step.get", stepKey=first["stepKey"]) == 404
    assert (await caller.ok("shard.info"))["shards"][0]["steps"] == 0
    assert await caller.ok("graph.delete", name="acme.order") == {}
    assert await caller.code("graph.delete", name="acme.order") == 404
    assert (await caller.ok("graph.list"))["graphs"] == []


async def test_run_takes_a_workflow_or_a_graph_and_answers_with_the_outcome(either: Caller) -> None:
    """O3; an inline graph needs no registry, and the flow keeps it (G10)."""
    await shop(either)
    outcome = await either.ok("flow.run", graph=ORDER, state={"item": "pen"}, timeoutMs=30_000)
    assert outcome["state"] == {"item": "pen", "price": 12.5, "paid": True}
    assert (await either.ok("graph.list"))["graphs"] == []
    await either.ok("graph.put", **line("acme.short", "price"))
    outcome = await either.ok("flow.run", workflow="acme.short")
    assert (outcome["workflow"], outcome["state"]) == ("acme.short", {"price": 12.5})


async def test_a_create_with_start_needs_no_second_call(caller: Caller) -> None:
    """O1, O2: `start` in a create and in a create_task; a flow is started once."""
    await shop(caller)
    one = await caller.ok("flow.create", graph=ORDER, start=True)
    other = await caller.ok("flow.create_task", task="price", start=True)
    assert (await caller.ok("flow.await", **one))["status"] == "completed"
    outcome = await caller.ok("flow.await", **other)
    assert (outcome["workflow"], outcome["state"]) == ("price", {"price": 12.5})
    assert await caller.code("flow.start", **one) == 409
    later = await caller.ok("flow.create_task", task="price", state={"a": None})
    assert (await caller.ok("flow.snapshot", **later))["status"] == "created"
    await caller.ok("flow.start", **later)
    assert (await caller.ok("flow.await", **later))["state"]["price"] == 12.5
    assert await caller.code("flow.start", **later) == 409


async def test_a_create_without_a_reply_subject_runs_the_flow(either: Caller) -> None:
    """Wire section 1: nobody could start it otherwise, so it starts; a bad one of that kind harms nobody."""
    asked = await either.holds("charge")
    heard = await either.hear(f"{either.prefix}.stopped.till")
    request = {"graph": line("quiet", "charge"), "state": {"n": 1}, "options": {"notify": "till"}}
    for subject, body in (
        ("flow.create", b"{"),
        ("flow.create", json.dumps(request).encode()),
        ("flow.create_task", b'{"task": "charge", "state": {"n": 2}, "options": {"notify": "till"}}'),
        ("flow.create_task", b'{"task": "no one"}'),
    ):
        await either.client.publish(f"{either.prefix}.{subject}", body)
    states = []
    for _ in range(2):
        message = await take(asked)
        states.append(json.loads(message.data)["state"]["n"])
        await either.answer(message)
    assert sorted(states) == [1, 2]
    outcomes = [conforms("outcome", json.loads((await take(heard)).data)) for _ in range(2)]
    assert {one["workflow"] for one in outcomes} == {"quiet", "charge"}
    assert {one["status"] for one in outcomes} == {"completed"}
    assert len((await either.ok("flow.list"))["flows"]) == 2


async def test_cancel_ends_a_flow_wherever_it_stands_and_drops_what_its_task_answers(either: Caller) -> None:
    """O10, O5: created or running → cancelled with the reason; terminal → 409; a running flow is not deleted (O9)."""
    asked = await either.holds("charge")
    created = await either.ok("flow.create_task", task="charge", state={"n": 1})
    assert await either.ok("flow.cancel", **created, reason="changed my mind") == {}
    outcome = await either.ok("flow.await", **created)
    assert (outcome["status"], outcome["cancelReason"]) == ("cancelled", "changed my mind")
    assert outcome["state"] == {"n": 1}
    assert await either.code("flow.start", **created) == 409
    assert (await either.ok("flow.history", **created))["steps"][0]["status"] == "cancelled"

    running = await either.ok("flow.create_task", task="charge", state={"n": 2}, start=True)
    call = await take(asked)
    assert (await either.ok("flow.snapshot", **running)) | {"flowKey": ""} == {
        "flowKey": "", "workflow": "charge", "status": "running", "state": {},
    }  # fmt: skip
    assert await either.code("flow.delete", **running) == 409
    assert await either.ok("flow.cancel", **running) == {}
    before = await either.ok("flow.fingerprint", **running)
    await either.answer(call, {"changes": {"paid": True}})
    outcome = await either.ok("flow.await", **running)
    assert (outcome["status"], outcome["cancelReason"], outcome["state"]) == ("cancelled", "", {"n": 2})
    assert await either.ok("flow.fingerprint", **running) == before
    assert await either.code("flow.cancel", **running) == 409
    await either.serves("price")
    ended = await either.ok("flow.run", graph=line("l", "price"))
    assert await either.code("flow.cancel", flowKey=ended["flowKey"]) == 409


async def listed(caller: Caller, **query: Any) -> list[str]:
    return [one["flowKey"] for one in (await caller.ok("flow.list", **query))["flows"]]


async def test_list_finds_flows_by_whatever_is_asked_and_purge_removes_them(either: Caller) -> None:
    """O9: summaries newest first, all filters, pages by cursor; a purge leaves what runs."""
    asked = await either.holds("hang")
    await shop(either)
    await either.serves("fall", {"error": {"message": "Out of PAPER", "code": 402}})
    done = (await either.ok("flow.run", graph=ORDER, options={"fairnessKey": "acme", "priority": 7}))["flowKey"]
    failed = (await either.ok("flow.run", graph=line("print", "fall")))["flowKey"]
    cancelled = (await either.ok("flow.create", graph=ORDER, options={"threadKey": done}))["flowKey"]
    await either.ok("flow.cancel", flowKey=cancelled, reason="stale")
    running = (await either.ok("flow.create_task", task="hang", start=True))["flowKey"]
    await take(asked)
    created = (await either.ok("flow.create_task", task="price"))["flowKey"]

    everything = [created, running, cancelled, failed, done]
    assert await listed(either) == everything
    assert await listed(either, status="completed") == [done]
    assert await listed(either, status="created") == [created]
    assert await listed(either, workflow="acme.order") == [cancelled, done]
    assert await listed(either, threadKey=cancelled) == [cancelled, done]
    assert await listed(either, task="hang") == [running]
    assert await listed(either, fairnessKey="acme") == [done]
    assert await listed(either, priority=7) == [done]
    assert await listed(either, shard=1, newerThanMs=3_600_000) == everything
    assert await listed(either, olderThanMs=3_600_000) == []
    assert await listed(either, search="paper") == [failed]
    assert await listed(either, search="STALE", workflow="acme.order") == [cancelled]
    assert await listed(either, search=created[:-10]) == [created]
    assert await listed(either, status="failed", workflow="acme.order") == []

    rows = {one["flowKey"]: one for one in (await either.ok("flow.list"))["flows"]}
    assert rows[failed]["error"]["code"] == 402
    assert rows[failed]["task"] == "fall"
    assert rows[cancelled]["cancelReason"] == "stale"
    assert rows[cancelled]["threadKey"] == done
    assert (rows[done]["priority"], rows[done]["fairnessKey"], rows[done]["task"]) == (7, "acme", "charge")
    assert "startedAt" not in rows[created]
    assert rows[running]["createdAt"] <= rows[running]["startedAt"]

    seen: list[str] = []
    page: dict[str, Any] = {}
    while not seen or "cursor" in page:
        page = await either.ok("flow.list", limit=2, **({"cursor": page["cursor"]} if page else {}))
        assert 1 <= len(page["flows"]) <= 2
        seen += [one["flowKey"] for one in page["flows"]]
    assert seen == everything

    assert await either.ok("flow.purge", workflow="print") == {"deleted": 1}
    assert await either.ok("flow.purge", olderThanMs=3_600_000) == {"deleted": 0}
    assert await either.ok("flow.purge", olderThanMs=0) == {"deleted": 3}
    assert await listed(either) == [running]
    assert await either.code("flow.snapshot", flowKey=done) == 404


async def test_options_of_a_flow_take_effect(either: Caller) -> None:
    """O1: a start time in the future delays the entry step only; a thread is joined; a wrong thread is a 404."""
    await either.serves("price")
    now = datetime.now(UTC)
    later, due = now + timedelta(hours=1), now + timedelta(milliseconds=300)
    waits, made = [
        await either.ok("flow.create_task", task="price", start=True, options={"startAt": at.isoformat()})
        for at in (later, due)
    ]
    assert (await either.ok("flow.snapshot", **waits))["status"] == "running"
    assert (await either.ok("flow.history", **waits))["steps"][0]["status"] == "pending"
    assert (await either.ok("flow.await", **made))["status"] == "completed"
    (step,) = (await either.ok("flow.history", **made))["steps"]
    assert datetime.fromisoformat(step["startedAt"]) >= due
    joined = await either.ok("flow.create_task", task="price", options={"threadKey": made["flowKey"]})
    again = await either.ok("flow.create_task", task="price", options={"threadKey": joined["flowKey"]})
    rows = (await either.ok("flow.list", threadKey=again["flowKey"]))["flows"]
    assert {one["threadKey"] for one in rows} == {made["flowKey"]}
    assert len(rows) == 3
    wrong = made["flowKey"][:-16] + "A" * 16
    assert await either.code("flow.create_task", task="price", options={"threadKey": wrong}) == 404
    assert await either.code("flow.snapshot", flowKey=wrong) == 404
    assert await either.code("flow.cancel", flowKey=wrong) == 404
    kept = await either.ok("flow.run", graph=line("l", "price"), options={"deleteOnCompletion": True})
    assert (await either.ok("flow.await", flowKey=kept["flowKey"]))["status"] == "completed"


async def test_shards_and_breakers_can_be_asked_about(either: Caller) -> None:
    """O16: sizes are true; a task nobody knows has no tripped breaker."""
    await shop(either)
    for _ in range(3):
        await either.ok("flow.run", graph=ORDER)
    (shard,) = (await either.ok("shard.info"))["shards"]
    assert (shard["shard"], shard["error"], shard["flows"], shard["steps"]) == (1, "", 3, 9)
    assert await either.ok("task.breaker", task="billing.charge") == {"task": "billing.charge", "tripped": False}


async def test_a_refusal_in_any_script_has_an_ascii_header(caller: Caller) -> None:
    """Wire section 1: `Nats-Service-Error` is percent-encoded UTF-8, `%` included; the body has it in full."""
    message = await caller.raw("flow.run", {"żółć 100%": 1})
    assert message.headers is not None
    line_ = message.headers["Nats-Service-Error"]
    assert line_.isascii()
    assert "%C5%BC%C3%B3%C5%82%C4%87 100%25" in line_
    assert "żółć 100%" in json.loads(message.data)["error"]["message"]
