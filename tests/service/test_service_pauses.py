"""Flows that wait for a person or for another flow, as callers and task services see it (O11, O12, P1-P3)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dwarf_nats.workflow.names import MAX_SUBJECT
from tests.support.caller import Caller, conforms, line, take

NOWHERE = "1-9999999-aaaaaaaaaaaaaaaa"
EACH = {
    "name": "acme.each",
    "entryPoint": "split",
    "tasks": [{"name": "split"}, {"name": "work"}, {"name": "join", "fanIn": True}],
    "transitions": [
        {"from": "split", "to": "work", "forEach": "items"},
        {"from": "work", "to": "join"},
        {"from": "join", "to": "END"},
    ],
    "reducers": {"done": "append"},
}


def asks(request: dict[str, Any]) -> dict[str, Any]:
    """A task that waits for a person and keeps the answer."""
    if "resumed" not in request:
        return {"interrupt": {"about": request["state"].get("item", "it")}, "changes": {"asked": True}}
    return {"changes": {"done": [request["resumed"]["data"]]}}


def calls(workflow: str, **given: Any) -> Any:
    """A task that runs a workflow and keeps how it ended."""

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        if "subgraph" not in request:
            return {"subgraph": {"workflow": workflow, **({"input": given} if given else {})}}
        return {"changes": {"child": request["subgraph"]}}

    return reply


async def test_an_interrupted_flow_shows_what_it_waits_for_and_goes_on_with_the_answer(either: Caller) -> None:
    """O5, O11, P2, B4: payload and state in outcome, step and announcement; the data goes to the task alone."""
    caller = either
    got = await caller.plays("approve", asks)
    heard = await caller.hear(f"{caller.prefix}.stopped.desk")
    waiting = await caller.ok("flow.run", graph=line("acme.a", "approve"), state={"n": 1}, options={"notify": "desk"})
    flow = {"flowKey": waiting["flowKey"]}
    (step,) = (await caller.ok("flow.history", **flow))["steps"]
    pause = {"stepKey": step["stepKey"], "task": "approve", "kind": "interrupt", "payload": {"about": "it"}}
    expected = {
        **flow, "workflow": "acme.a", "status": "interrupted", "state": {"n": 1, "asked": True},
        "interruptPayload": {"about": "it"}, "pauses": [{**pause, "since": step["updatedAt"]}],
    }  # fmt: skip
    assert waiting == expected
    assert json.loads((await take(heard)).data) == expected
    for operation in ("snapshot", "await", "poll"):
        assert await caller.ok(f"flow.{operation}", **flow) == expected
    (listed,) = (await caller.ok("flow.list", status="interrupted"))["flows"]
    assert (listed["flowKey"], listed["task"]) == (flow["flowKey"], "approve")
    assert (step["status"], "interruptPayload" in step) == ("interrupted", False)
    assert (await caller.ok("step.get", stepKey=step["stepKey"]))["interruptPayload"] == {"about": "it"}

    assert await caller.code("flow.resume_break", **flow) == 409
    assert await caller.code("flow.start", **flow) == 409
    assert await caller.ok("flow.resume", **flow, data={"by": "ada", "n": 2**63 - 1}) == {}
    ended = await caller.ok("flow.await", **flow)
    assert ended["state"] == {"n": 1, "asked": True, "done": [{"by": "ada", "n": 2**63 - 1}]}
    assert json.loads((await take(heard)).data) == ended
    assert await caller.code("flow.resume", **flow) == 409
    assert ["resumed" in one for one in got] == [False, True]
    assert got[0]["stepKey"] == got[1]["stepKey"]
    assert (got[1]["attempt"], got[1]["state"]) == (0, {"n": 1, "asked": True})


@pytest.mark.parametrize("given", [{}, {"data": None}, {"data": False}, {"data": "so be it"}, {"data": [{"a": None}]}])
async def test_any_json_is_an_answer_and_none_is_null(caller: Caller, given: dict[str, Any]) -> None:
    """O11; wire section 1."""
    await caller.plays("approve", asks)
    waiting = await caller.ok("flow.run", graph=line("acme.a", "approve"))
    await caller.ok("flow.resume", flowKey=waiting["flowKey"], **given)
    assert (await caller.ok("flow.await", flowKey=waiting["flowKey"]))["state"]["done"] == [given.get("data")]


async def test_of_several_paused_branches_each_resume_continues_the_oldest(either: Caller) -> None:
    """O11, P3: the flow runs again only when none is left, and one that goes on meanwhile is not held up."""
    caller = either
    heard = await caller.hear(f"{caller.prefix}.event.*.acme.each")
    asked = await caller.holds("work")
    await caller.serves("split")
    await caller.serves("join")
    flow = await caller.ok("flow.create", graph=EACH, state={"items": [0, 1, 2]}, start=True)
    requests = {json.loads(one.data)["state"]["item"]: one for one in [await take(asked) for _ in range(3)]}

    async def paused(count: int) -> None:
        while True:
            steps = (await caller.ok("flow.history", **flow))["steps"]
            if sum(one["status"] == "interrupted" for one in steps) == count:
                return

    for count, item in enumerate((2, 0), start=1):  # the order in which they pause, not their ordinal, decides
        await caller.answer(requests[item], {"interrupt": {"about": item}})
        await paused(count)
    assert (await caller.ok("flow.snapshot", **flow))["interruptPayload"] == {"about": 2}
    await caller.answer(requests[1], {"changes": {"done": ["free"]}})
    await caller.ok("flow.resume", **flow, data="two")
    again = await take(asked)
    assert json.loads(again.data)["resumed"] == {"data": "two"}
    await caller.answer(again, {"changes": {"done": ["two"]}})
    outcome = await caller.ok("flow.snapshot", **flow)
    assert (outcome["status"], outcome["interruptPayload"]) == ("interrupted", {"about": 0})
    await caller.ok("flow.resume", **flow, data="zero")
    again = await take(asked)
    assert (await caller.ok("flow.snapshot", **flow))["status"] == "running"
    await caller.answer(again, {"changes": {"done": ["zero"]}})
    assert (await caller.ok("flow.await", **flow))["state"]["done"] == ["zero", "free", "two"]
    seen = [json.loads((await take(heard)).data)["status"] for _ in range(5)]
    assert seen == ["created", "running", "interrupted", "running", "completed"]


async def test_a_breakpoint_pauses_before_the_task_and_overrides_replace_fields(either: Caller) -> None:
    """O12, O11, O5: no payload; by name or by url; set, cleared, set while it runs; once per step."""
    caller = either
    got = await caller.plays("billing.charge", lambda _: {})
    graph: dict[str, Any] = line("acme.b", "price", "charge", "send")
    graph["tasks"][1]["url"] = "billing.charge"
    held = await caller.holds("price")
    await caller.serves("send")
    flow = await caller.ok("flow.create", graph=graph, state={"n": 1, "card": "x"})
    assert await caller.ok("flow.break_before", **flow, task="send") == {}
    assert await caller.ok("flow.break_before", **flow, task="send", enabled=False) == {}
    assert await caller.ok("flow.break_before", **flow, task="a node of a graph to come") == {}
    await caller.ok("flow.start", **flow)
    request = await take(held)
    assert await caller.ok("flow.break_before", **flow, task="billing.charge", enabled=True) == {}
    await caller.answer(request, {"changes": {"n": 2}})
    paused = await caller.ok("flow.await", **flow)
    (pause,) = paused.pop("pauses")
    assert (pause["kind"], pause["task"], "payload" in pause) == ("breakpoint", "charge", False)
    assert paused == {**flow, "workflow": "acme.b", "status": "interrupted", "state": {"n": 2, "card": "x"}}
    assert got == []
    refused = await caller.refused("flow.resume", **flow, data=1)
    assert refused["code"] == 409
    assert "resume_break" in refused["message"] or "breakpoint" in refused["message"]
    assert await caller.ok("flow.resume_break", **flow, overrides={"card": None, "n": 7}) == {}
    assert (await caller.ok("flow.await", **flow))["state"] == {"n": 7}
    assert [one["state"] for one in got] == [{"n": 7}]
    for operation, fields in (("resume_break", {}), ("break_before", {"task": "send"})):
        assert await caller.code(f"flow.{operation}", **flow, **fields) == 409


async def test_a_child_flow_gets_its_input_and_its_end_comes_back(either: Caller) -> None:
    """P1, O7, wire section 2: nothing else crosses; baggage does; the history nests, with the child's name."""
    caller = either
    parent = await caller.plays("ship", calls("acme.child", city="Oslo", n=2**53 + 1))
    child = await caller.plays("pack", lambda _: {"changes": {"parcels": 2}})
    await caller.serves("send")
    await caller.ok("graph.put", **line("acme.child", "pack", "send"))
    state, options = {"secret": 1}, {"baggage": {"tenant": "acme"}, "priority": 7}
    outcome = await caller.ok("flow.run", graph=line("acme.p", "ship"), state=state, options=options)
    ended = {"city": "Oslo", "n": 2**53 + 1, "parcels": 2}
    assert outcome["state"] == {"secret": 1, "child": {"result": ended}}
    assert [one.get("subgraph") for one in parent] == [None, {"result": ended}]
    assert parent[0]["stepKey"] == parent[1]["stepKey"]
    (asked,) = child
    assert (asked["state"], asked["workflow"]) == ({"city": "Oslo", "n": 2**53 + 1}, "acme.child")
    assert (asked["baggage"], asked["flowKey"] == outcome["flowKey"]) == ({"tenant": "acme"}, False)

    (step,) = (await caller.ok("flow.history", flowKey=outcome["flowKey"]))["steps"]
    assert (step["task"], step["status"], step["subWorkflow"]) == ("ship", "completed", "acme.child")
    below = step["subHistory"]
    assert [(one["task"], one["depth"], one["status"]) for one in below] == [
        ("pack", 1, "completed"), ("send", 2, "completed"),
    ]  # fmt: skip
    assert below == (await caller.ok("flow.history", flowKey=asked["flowKey"]))["steps"]
    assert [one["flowKey"] for one in (await caller.ok("flow.list"))["flows"]] == [outcome["flowKey"]]
    assert (await caller.ok("shard.info"))["shards"][0]["flows"] == 2


async def test_a_child_that_fails_or_cannot_be_loaded_wakes_its_step_with_the_error(either: Caller) -> None:
    """X8, X4: the parent decides; a workflow that is nowhere is an error of the step itself."""
    caller = either
    await caller.plays("ship", calls("acme.child"))
    asked = await caller.plays("bad", lambda _: {"error": {"message": "no such street", "code": 422}})
    await caller.ok("graph.put", **line("acme.child", "bad"))
    outcome = await caller.ok("flow.run", graph=line("acme.p", "ship"))
    assert outcome["status"] == "completed"
    assert outcome["state"] == {"child": {"error": "no such street"}}
    assert asked[0]["state"] == {}
    await caller.plays("call", calls("acme.nowhere"))
    outcome = await caller.ok("flow.run", graph=line("acme.q", "call"))
    assert outcome["status"] == "failed"
    assert "acme.nowhere" in outcome["error"]["message"]


async def test_a_pause_two_levels_down_is_seen_and_continued_at_every_level(either: Caller) -> None:
    """P2, O11: whichever key of the chain is used, it walks to the one paused leaf."""
    caller = either
    await caller.plays("outer", calls("acme.middle"))
    middle = await caller.plays("middle", calls("acme.leaf"))
    leaf = await caller.plays("leaf", asks)
    await caller.ok("graph.put", **line("acme.middle", "middle"))
    await caller.ok("graph.put", **line("acme.leaf", "leaf"))
    for level in range(3):
        root = await caller.ok("flow.run", graph=line("acme.root", "outer"))
        keys = [root["flowKey"], middle[-1]["flowKey"], leaf[-1]["flowKey"]]
        for key in keys:
            outcome = await caller.ok("flow.snapshot", flowKey=key)
            assert (outcome["status"], outcome["interruptPayload"]) == ("interrupted", {"about": "it"})
            assert await caller.code("flow.resume_break", flowKey=key) == 409
        await caller.ok("flow.resume", flowKey=keys[level], data=level)
        outcome = await caller.ok("flow.await", flowKey=root["flowKey"])
        found = outcome["state"]["child"]["result"]["child"]["result"]
        assert found == {"asked": True, "done": [level]}
        for key in keys:
            assert (await caller.ok("flow.snapshot", flowKey=key))["status"] == "completed"


async def test_the_key_of_a_child_reads_and_steers_but_does_not_own(either: Caller) -> None:
    """Semantics: keys-of-child-flows; delete, restart, continue and joining are a 400 that names the root; start is a 409."""
    caller = either
    await caller.plays("ship", calls("acme.child"))
    child = await caller.plays("approve", asks)
    await caller.ok("graph.put", **line("acme.child", "approve"))
    root = await caller.ok("flow.run", graph=line("acme.p", "ship"))
    flow, shown = {"flowKey": child[0]["flowKey"]}, root["flowKey"].rsplit("-", 1)[0]
    for operation, fields in (
        ("flow.delete", flow),
        ("flow.restart", flow),
        ("flow.continue", {"threadKey": flow["flowKey"]}),
        ("flow.create", {"graph": line("acme.x", "ship"), "options": {"threadKey": flow["flowKey"]}}),
    ):
        refused = await caller.refused(operation, **fields)
        assert (operation, refused["code"]) == (operation, 400)
        assert shown in refused["message"], operation
        assert root["flowKey"] not in refused["message"], "the root's key is not for whoever has a child's"
    assert await caller.code("flow.start", **flow) == 409
    assert (await caller.ok("flow.fingerprint", **flow))["status"] == "interrupted"
    assert await caller.ok("flow.break_before", **flow, task="approve") == {}
    assert await caller.ok("flow.cancel", **flow, reason="no more") == {}
    assert (await caller.ok("flow.await", flowKey=root["flowKey"]))["cancelReason"] == "no more"


@pytest.mark.parametrize("operation", ["resume", "resume_break", "break_before", "restart"])
async def test_keys_are_checked_like_everywhere(caller: Caller, operation: str) -> None:
    """Semantics: refusals; malformed is a 400, unknown or with a wrong token a 404; the status comes after that."""
    more = {"task": "a"} if operation == "break_before" else {}
    flow = await caller.ok("flow.create_task", task="a")
    wrong = flow["flowKey"][:-1] + ("a" if flow["flowKey"][-1] != "a" else "b")
    assert await caller.code(f"flow.{operation}", flowKey="1-2", **more) == 400
    assert await caller.code(f"flow.{operation}", flowKey=NOWHERE, **more) == 404
    assert await caller.code(f"flow.{operation}", flowKey=wrong, **more) == 404
    assert await caller.code(f"flow.{operation}", flowKey="7" + NOWHERE[1:], **more) == 404
    if operation == "break_before":
        for task in ("", "x" * (MAX_SUBJECT + 1)):
            assert await caller.code("flow.break_before", **flow, task=task) == 400, task
    else:
        assert await caller.code(f"flow.{operation}", **flow) == 409
    assert conforms("outcome", await caller.ok("flow.snapshot", **flow))["status"] == "created"


async def test_bad_data_and_overrides_are_refused_and_the_pause_stays(caller: Caller) -> None:
    """S1: what could not be stored is a 400 at the door."""
    await caller.plays("approve", asks)
    waiting = await caller.ok("flow.run", graph=line("acme.a", "approve"))
    key = waiting["flowKey"]
    deep = "[" * 70 + "]" * 70
    for operation, field, text in (
        ("resume", "data", "99999999999999999999"),
        ("resume", "data", deep),
        ("resume", "data", '"\\ud800"'),
        ("resume_break", "overrides", f'{{"a": {deep}}}'),
        ("resume_break", "overrides", "[]"),
        ("restart", "overrides", '{"a": 1e999}'),
        ("restart", "overrides", "7"),
    ):
        message = await caller.raw(f"flow.{operation}", f'{{"flowKey": "{key}", "{field}": {text}}}'.encode())
        assert message.headers is not None, (operation, text)
        assert message.headers["Nats-Service-Error-Code"] == "400", (operation, text)
    assert await caller.ok("flow.snapshot", flowKey=key) == waiting
