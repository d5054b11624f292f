"""Pauses one by one over NATS: three people who are asked at once, deadlines of interrupts (P5, P6, O11)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dwarf_nats.sdk import Client, Conflict, Flow, Graph, NotFound, WaitTimeout, Worker
from tests.support.caller import Caller, connected, line, take

PEOPLE = ("ada", "bea", "cyd")
APPROVALS: dict[str, Any] = {
    "name": "acme.approvals",
    "entryPoint": "split",
    "tasks": [
        {"name": "split"},
        *({"name": name, "url": "approve"} for name in PEOPLE),
        {"name": "join", "fanIn": True},
    ],
    "transitions": [
        *({"from": "split", "to": name} for name in PEOPLE),
        *({"from": name, "to": "join"} for name in PEOPLE),
        {"from": "join", "to": "END"},
    ],
    "reducers": {"by": "append"},
}


def approve(request: dict[str, Any]) -> dict[str, Any]:
    """A task service that asks the person its node is named after."""
    if "resumed" not in request:
        return {"interrupt": {"for": request["task"]}}
    return {"changes": {"by": [[request["task"], request["resumed"]["data"]]]}}


async def pauses_of(caller: Caller, flow: dict[str, str], count: int) -> list[dict[str, Any]]:
    """The pauses of a flow once there are so many."""
    async with asyncio.timeout(30):
        while len(found := (await caller.ok("flow.snapshot", **flow)).get("pauses", [])) != count:
            await asyncio.sleep(0)
    return list(found)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
async def test_three_people_who_know_only_their_step_answer_in_any_order(
    either: Caller, order: tuple[int, ...]
) -> None:
    """P5: each finds its pause by the payload, continues it by its step's key, and reaches its own step."""
    await either.serves("split")
    await either.serves("join")
    await either.plays("approve", approve)
    heard = await either.hear(f"{either.prefix}.event.*.acme.approvals")
    flow = await either.ok("flow.create", graph=APPROVALS, start=True)
    found = await pauses_of(either, flow, 3)
    assert [one["since"] for one in found] == sorted(one["since"] for one in found)
    assert {one["kind"] for one in found} == {"interrupt"}

    async def person(name: str) -> None:
        (mine,) = [one for one in found if one["payload"] == {"for": name}]
        async with connected(either.client.connected_url.geturl()) as connection:  # type: ignore[union-attr]
            desk = Caller(connection, either.prefix)
            await desk.ok("flow.resume", stepKey=mine["stepKey"], data=f"{name} agrees")
            assert await desk.code("flow.resume", stepKey=mine["stepKey"], data="again") == 409

    for left, at in zip((2, 1), order, strict=False):
        await person(PEOPLE[at])
        assert PEOPLE[at] not in [one["task"] for one in await pauses_of(either, flow, left)]
    await person(PEOPLE[order[2]])
    ended = await either.ok("flow.await", **flow)
    assert ended["state"]["by"] == [[name, f"{name} agrees"] for name in PEOPLE]
    assert "pauses" not in ended
    seen = [json.loads((await take(heard)).data) for _ in range(5)]
    assert [one["status"] for one in seen] == ["created", "running", "interrupted", "running", "completed"]
    told = json.dumps(seen)
    assert not any(one["stepKey"] in told for one in found), "a key is a capability"


async def test_a_step_that_is_not_paused_in_that_way_is_refused(either: Caller) -> None:
    """P5: 404 unknown, 409 not paused by that kind, 400 with both keys or none."""
    await either.plays("approve", approve)
    waiting = await either.ok("flow.run", graph=line("acme.a", "approve"))
    step, flow = waiting["pauses"][0]["stepKey"], waiting["flowKey"]
    assert await either.code("flow.resume_break", stepKey=step) == 409
    for operation in ("flow.resume", "flow.resume_break"):
        assert await either.code(operation) == 400
        assert await either.code(operation, flowKey=flow, stepKey=step) == 400
        assert await either.code(operation, stepKey="1-2") == 400
        assert await either.code(operation, stepKey=flow) == 404
        assert await either.code(operation, stepKey=step[:-1] + ("a" if step[-1] != "a" else "b")) == 404
    assert await either.ok("flow.snapshot", flowKey=flow) == waiting
    assert await either.ok("flow.resume", stepKey=step) == {}


async def test_a_task_is_asked_again_when_its_deadline_passes(either: Caller) -> None:
    """P6: with `resumed: {"timedOut": true}`; the announcement had the deadline."""
    asked = await either.holds("ask")
    heard = await either.hear(f"{either.prefix}.stopped.desk")
    flow = await either.ok("flow.create", graph=line("acme.a", "ask"), options={"notify": "desk"}, start=True)
    first = await take(asked)
    await either.answer(first, {"interrupt": {"q": 1}, "interruptTimeoutMs": 40, "changes": {"seen": True}})
    paused = json.loads((await take(heard)).data)
    assert (paused["status"], paused["interruptPayload"]) == ("interrupted", {"q": 1})
    (pause,) = paused["pauses"]
    assert (pause["task"], pause["payload"], pause["until"] > pause["since"]) == ("ask", {"q": 1}, True)
    again = await take(asked)
    body = json.loads(again.data)
    assert (body["resumed"], body["state"], body["attempt"]) == ({"timedOut": True}, {"seen": True}, 0)
    assert await either.code("flow.resume", stepKey=pause["stepKey"]) == 409
    await either.answer(again, {"changes": {"late": True}})
    assert json.loads((await take(heard)).data)["state"] == {"seen": True, "late": True}
    assert (await either.ok("flow.await", **flow))["status"] == "completed"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ({"interruptTimeoutMs": 5}, "there is none beside it"),
        ({"interrupt": 1, "interruptTimeoutMs": -1}, "interruptTimeoutMs"),
        ({"interrupt": 1, "interruptTimeoutMs": "1s"}, "interruptTimeoutMs"),
        ({"interrupt": 1, "interruptTimeoutMs": 10**14}, "interruptTimeoutMs"),
    ],
)
async def test_a_malformed_deadline_is_a_502(caller: Caller, reply: dict[str, Any], why: str) -> None:
    await caller.serves("ask", reply)
    failed = await caller.ok("flow.run", graph=line("acme.a", "ask"))
    assert failed["error"]["code"] == 502
    assert why in failed["error"]["message"]


async def test_the_sdk_continues_one_pause_and_raises_when_a_deadline_passes(either: Caller) -> None:
    """P5, P6: as a client and as a worker."""
    url = either.client.connected_url.geturl()  # type: ignore[union-attr]
    worker = Worker(url, task_prefix=f"{either.prefix}task", drain_seconds=0)

    @worker.task("approve")
    def approve(flow: Flow) -> dict[str, Any]:
        try:
            return {"by": [flow.interrupt({"for": flow.task}, timeout=0.2 if flow.task == "bea" else 3600)]}
        except WaitTimeout as error:
            return {"by": [f"nobody: {error.code}"]}

    worker.add_task("split", lambda: None)
    worker.add_task("join", lambda: None)
    async with worker, Client(url, prefix=either.prefix) as client:
        key = await client.create(Graph.from_json(json.dumps(APPROVALS).encode()), start=True)
        async with asyncio.timeout(30):
            while [*sorted(by_task := {one.task: one for one in (await client.snapshot(key)).pauses})] != [
                "ada",
                "cyd",
            ]:
                await asyncio.sleep(0)
        ada = by_task["ada"]
        assert (ada.payload, ada.kind) == ({"for": "ada"}, "interrupt")
        assert ada.until is not None
        assert ada.until > ada.since
        await client.resume(step_key=by_task["cyd"].step_key, data="cyd")
        with pytest.raises(Conflict):
            await client.resume(step_key=by_task["cyd"].step_key)
        with pytest.raises(NotFound):
            await client.resume(step_key=key)
        await client.resume(step_key=ada.step_key, data="ada")
        ended = await client.await_(key)
        assert ended.state["by"] == ["ada", "nobody: 408", "cyd"]
