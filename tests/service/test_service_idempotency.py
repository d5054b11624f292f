"""`Nats-Msg-Id` and `idempotencyKey`: a request repeated makes no second flow (O1; wire section 1)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.caller import WAIT, Caller, line, take

ID = {"Nats-Msg-Id": "order-7"}
GRAPH = line("pay", "charge")


async def test_the_same_message_id_makes_one_flow_however_often_it_is_sent(either: Caller) -> None:
    """O1: also when the repeats come all at once, and in another order of the state's fields."""
    request = {"graph": GRAPH, "state": {"a": 1, "b": [2.50]}}
    made = await asyncio.gather(*(either.ok("flow.create", ID, **request) for _ in range(20)))
    made.append(await either.ok("flow.create", ID, graph=GRAPH, state={"b": [2.5], "a": 1}))
    made.append(
        await either.ok("flow.create", graph=GRAPH, state=request["state"], options={"idempotencyKey": "order-7"})
    )
    assert len({one["flowKey"] for one in made}) == 1
    assert len((await either.ok("flow.list"))["flows"]) == 1
    other = await either.ok("flow.create", ID, **request, options={"fairnessKey": "acme"})
    assert other != made[0], "a key is unique within its fairness key only"


async def test_another_state_or_workflow_under_the_same_key_is_a_409(either: Caller) -> None:
    """O1; nothing is made, and the first flow stays as it was."""
    made = await either.ok("flow.create", ID, graph=GRAPH, state={"n": 1})
    assert await either.code("flow.create", ID, graph=GRAPH, state={"n": 2}) == 409
    assert await either.code("flow.create", ID, graph=GRAPH) == 409
    assert await either.code("flow.run", ID, graph=GRAPH, state={"n": "1"}) == 409
    assert await either.code("flow.create", ID, graph=line("other", "charge"), state={"n": 1}) == 409
    assert await either.code("flow.create_task", ID, task="charge", state={"n": 1}) == 409
    assert (await either.ok("flow.snapshot", **made))["status"] == "created"
    assert len((await either.ok("flow.list"))["flows"]) == 1


async def test_header_and_option_must_agree(caller: Caller) -> None:
    """Wire section 1: both given and different is a 400; a header's percent-encoding is undone."""
    option = {"idempotencyKey": "order-8"}
    for operation, named in (("flow.create", {"graph": GRAPH}), ("flow.create_task", {"task": "charge"})):
        error = await caller.refused(operation, ID, **named, options=option)
        assert error["code"] == 400
        assert "Nats-Msg-Id" in error["message"]
    assert await caller.code("flow.run", ID, graph=GRAPH, options=option) == 400
    first = await caller.ok("flow.create", {"Nats-Msg-Id": "caf%C3%A9"}, graph=GRAPH)
    option = {"idempotencyKey": "café"}
    assert await caller.ok("flow.create", {"Nats-Msg-Id": "caf%C3%A9"}, graph=GRAPH, options=option) == first
    assert await caller.ok("flow.create", graph=GRAPH, options=option) == first
    assert await caller.code("flow.create", ID, graph=GRAPH, options={"threadKey": first["flowKey"]}) == 400


async def test_a_repeated_run_waits_for_the_flow_of_the_first(either: Caller) -> None:
    """O1: one execution, and each caller gets its outcome, whether it asks while the flow runs or after."""
    asked = await either.holds("charge")
    runs = [asyncio.create_task(either.ok("flow.run", ID, graph=GRAPH)) for _ in range(3)]
    call = await take(asked)
    runs.append(asyncio.create_task(either.ok("flow.run", ID, graph=GRAPH)))
    await either.ok("shard.info")
    await either.answer(call, {"changes": {"paid": True}})
    outcomes = await asyncio.wait_for(asyncio.gather(*runs), WAIT)
    outcomes.append(await either.ok("flow.run", ID, graph=GRAPH))
    assert outcomes[0]["state"] == {"paid": True}
    assert all(one == outcomes[0] for one in outcomes)
    assert asked.empty()
    assert len((await either.ok("flow.list"))["flows"]) == 1


async def test_a_run_starts_the_flow_a_create_left_unstarted(either: Caller) -> None:
    """O1: it starts it if need be and waits for it; so does a create that asks for a start."""
    await either.serves("charge", {"changes": {"paid": True}})
    made = await either.ok("flow.create", ID, graph=GRAPH)
    outcome = await either.ok("flow.run", ID, graph=GRAPH)
    assert outcome["flowKey"] == made["flowKey"]
    assert outcome["state"] == {"paid": True}
    header = {"Nats-Msg-Id": "order-9"}
    made = await either.ok("flow.create_task", header, task="charge")
    assert await either.ok("flow.create_task", header, task="charge", start=True) == made
    assert (await either.ok("flow.await", **made))["status"] == "completed"


@pytest.mark.parametrize("how", ["delete", "purge"])
async def test_once_its_flow_is_gone_a_key_makes_a_new_one(either: Caller, how: str) -> None:
    """O1: remembered as long as the flow exists."""
    first = await either.ok("flow.create", ID, graph=GRAPH)
    removal: dict[str, Any] = first if how == "delete" else {"status": "created"}
    await either.ok(f"flow.{how}", **removal)
    second = await either.ok("flow.create", ID, graph=GRAPH, state={"n": 2})
    assert second != first
    assert await either.ok("flow.create", ID, graph=GRAPH, state={"n": 2}) == second


async def test_a_repeat_without_a_reply_subject_starts_nothing_anew(caller: Caller) -> None:
    """Wire section 1: published twice with one `Nats-Msg-Id`, carried out once."""
    asked = await caller.holds("charge")
    body = json.dumps({"task": "charge", "state": {"n": 1}}).encode()
    for _ in range(3):
        await caller.client.publish(f"{caller.prefix}.flow.create_task", body, headers=ID)
    await caller.answer(await take(asked))
    (flow,) = (await caller.ok("flow.list"))["flows"]
    assert (await caller.ok("flow.await", flowKey=flow["flowKey"]))["status"] == "completed"
    assert asked.empty()
