"""Flows that run again, are copied or go on, as callers see it (O13-O15; wire section 1)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.support.caller import WAIT, Caller, line, take

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
NO = {"error": {"message": "no", "code": 402}}


def fails_without(field: str) -> Any:
    """A task that needs a field of the state."""
    return lambda request: {"changes": {"ok": True}} if field in request["state"] else NO


def events_of(flow: dict[str, str], heard: list[dict[str, Any]]) -> list[str]:
    shown = flow["flowKey"].rsplit("-", 1)[0]
    return [one["status"] for one in heard if one["flowId"] == shown]


async def steps_of(caller: Caller, flow: dict[str, str]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = (await caller.ok("flow.history", **flow))["steps"]
    return steps


async def test_a_stopped_flow_restarts_in_place(either: Caller) -> None:
    """O13: from the entry step, under its old key; overrides replace and null removes; notify holds (B4)."""
    caller = either
    events = await caller.hear(f"{caller.prefix}.event.*.acme.r")
    heard = await caller.hear(f"{caller.prefix}.stopped.desk")
    await caller.serves("price", {"changes": {"priced": True}})
    got = await caller.plays("charge", fails_without("card"))
    request = {"graph": line("acme.r", "price", "charge"), "state": {"a": 1, "b": 2}, "options": {"notify": "desk"}}
    failed = await caller.ok("flow.run", **request)
    flow = {"flowKey": failed["flowKey"]}
    before = await steps_of(caller, flow)
    assert (failed["status"], json.loads((await take(heard)).data)) == ("failed", failed)
    assert await caller.ok("flow.restart", **flow, overrides={"card": "4242", "b": None}) == {}
    outcome = await caller.ok("flow.await", **flow)
    assert outcome["state"] == {"a": 1, "card": "4242", "priced": True, "ok": True}
    assert json.loads((await take(heard)).data) == outcome
    assert got[-1]["state"] == {"a": 1, "card": "4242", "priced": True}
    after = await steps_of(caller, flow)
    assert [(one["task"], one["status"]) for one in after] == [("price", "completed"), ("charge", "completed")]
    assert after[0]["stepKey"] == before[0]["stepKey"], "the entry step is run again in place"
    assert after[0]["createdAt"] >= before[1]["updatedAt"], "its times are reset"
    assert await caller.code("step.get", stepKey=before[1]["stepKey"]) == 404, "later steps are removed"
    seen = [json.loads((await take(events)).data) for _ in range(5)]
    assert events_of(flow, seen) == ["created", "running", "failed", "running", "completed"]


async def test_what_runs_cannot_be_restarted_and_what_was_cancelled_can(either: Caller) -> None:
    """O13: 409 unless stopped; restart_from refuses a cancelled flow."""
    caller = either
    held = await caller.holds("slow")
    flow = await caller.ok("flow.create_task", task="slow", state={"n": 1})
    assert await caller.code("flow.restart", **flow) == 409
    await caller.ok("flow.start", **flow)
    await take(held)
    (step,) = await steps_of(caller, flow)
    assert await caller.code("flow.restart", **flow) == 409
    assert await caller.code("flow.restart_from", stepKey=step["stepKey"]) == 409
    assert await caller.code("flow.fork", stepKey=step["stepKey"]) == 409
    await caller.ok("flow.cancel", **flow)
    assert await caller.code("flow.restart_from", stepKey=step["stepKey"]) == 409
    await caller.ok("flow.restart", **flow)
    await caller.answer(await take(held), {"changes": {"n": 2}})
    assert (await caller.ok("flow.await", **flow))["state"] == {"n": 2}


async def test_a_failed_branch_runs_again_and_its_siblings_do_not(either: Caller) -> None:
    """O13: exactly what the step led to; the fan-in runs once all have arrived."""
    caller = either
    await caller.serves("split")
    await caller.serves("join", {"changes": {"joined": True}})
    good = {0, 2}
    got = await caller.plays(
        "work",
        lambda one: {"changes": {"done": [one["state"]["item"]]}} if one["state"]["item"] in good else NO,
    )
    failed = await caller.ok("flow.run", graph=EACH, state={"items": [0, 1, 2]})
    flow = {"flowKey": failed["flowKey"]}
    assert failed["error"] == {"message": "no", "code": 402}
    (broken,) = [one for one in await steps_of(caller, flow) if one["status"] == "failed"]
    await caller.ok("flow.restart_from", stepKey=broken["stepKey"], overrides={"item": 2, "note": "by hand"})
    outcome = await caller.ok("flow.await", **flow)
    assert outcome["status"] == "completed"
    assert outcome["state"] == {"items": [0, 1, 2], "done": [0, 2, 2], "joined": True}
    assert sorted(one["state"]["item"] for one in got) == [0, 1, 2, 2]
    assert got[-1]["stepKey"] == broken["stepKey"]
    assert got[-1]["state"]["note"] == "by hand"


async def test_a_step_of_a_child_runs_again_and_its_callers_wait_again(either: Caller) -> None:
    """O13: the tree up to the root is running once more, and ends as if nothing had been."""
    caller = either

    def ship(request: dict[str, Any]) -> dict[str, Any]:
        if "subgraph" not in request:
            return {"subgraph": {"workflow": "acme.child", "input": {"n": 1}}}
        if "error" in request["subgraph"]:
            return {"error": {"message": f"not shipped: {request['subgraph']['error']}", "code": 502}}
        return {"changes": {"child": request["subgraph"]["result"]}}

    parent = await caller.plays("ship", ship)
    await caller.serves("pack", {"changes": {"packed": True}})
    await caller.plays("label", fails_without("printer"))
    await caller.ok("graph.put", **line("acme.child", "pack", "label"))
    failed = await caller.ok("flow.run", graph=line("acme.p", "ship"))
    flow = {"flowKey": failed["flowKey"]}
    assert failed["error"] == {"message": "not shipped: no", "code": 502}
    (ship_step,) = await steps_of(caller, flow)
    pack, label = ship_step["subHistory"]
    await caller.ok("flow.restart_from", stepKey=label["stepKey"], overrides={"printer": 2})
    outcome = await caller.ok("flow.await", **flow)
    assert outcome["state"] == {"child": {"n": 1, "packed": True, "printer": 2, "ok": True}}
    assert [one.get("subgraph", {}).keys() for one in parent] == [set(), {"error"}, {"result"}]
    (again,) = await steps_of(caller, flow)
    assert [one["stepKey"] for one in again["subHistory"]] == [pack["stepKey"], label["stepKey"]]


async def test_a_fork_runs_a_copy_on_from_a_step_and_leaves_the_original(either: Caller) -> None:
    """O14: running at once, another key and thread, the steps before it as they were, overrides for the one it starts at."""
    caller = either
    options = {"baggage": {"tenant": "acme"}, "priority": 3, "fairnessKey": "k"}
    first = await caller.plays("first", lambda _: {"changes": {"first": 1}})
    second = await caller.plays("second", lambda one: {"changes": {"n": one["state"]["n"] * 2}})
    original = await caller.ok("flow.run", graph=line("acme.f", "first", "second"), state={"n": 4}, options=options)
    flow = {"flowKey": original["flowKey"]}
    before = await steps_of(caller, flow)
    copy = await caller.ok("flow.fork", stepKey=before[1]["stepKey"], overrides={"n": 10, "first": None})
    outcome = await caller.ok("flow.await", **copy)
    assert (outcome["workflow"], outcome["state"]) == ("acme.f", {"n": 20})
    assert (len(first), len(second)) == (1, 2)
    assert (second[1]["baggage"], second[1]["flowKey"]) == ({"tenant": "acme"}, copy["flowKey"])
    assert await caller.ok("flow.snapshot", **flow) == original
    assert await steps_of(caller, flow) == before
    mine = await steps_of(caller, copy)
    assert [(one["task"], one["status"]) for one in mine] == [("first", "completed"), ("second", "completed")]
    assert not {one["stepKey"] for one in mine} & {one["stepKey"] for one in before}
    (listed,) = (await caller.ok("flow.list", threadKey=copy["flowKey"]))["flows"]
    assert (listed["threadKey"], listed["priority"], listed["fairnessKey"]) == (copy["flowKey"], 3, "k")


async def test_step_keys_are_checked_like_everywhere(caller: Caller) -> None:
    """Semantics: refusals; malformed 400, unknown or with a wrong token 404."""
    await caller.serves("a")
    done = await caller.ok("flow.run", graph=line("acme.a", "a"))
    (step,) = await steps_of(caller, {"flowKey": done["flowKey"]})
    key = step["stepKey"]
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    for operation in ("restart_from", "fork"):
        for bad, code in (("", 400), ("1-2", 400), (NOWHERE, 404), (wrong, 404), ("9" + key[1:], 404)):
            assert await caller.code(f"flow.{operation}", stepKey=bad) == code, (operation, bad)
    for bad, code in (("nonsense", 400), (NOWHERE, 404)):
        assert await caller.code("flow.continue", threadKey=bad) == code


async def test_a_thread_goes_on_from_the_state_it_ended_with(either: Caller) -> None:
    """O15: the same graph; merged through its reducers; any key of the thread; created until started; baggage inherited."""
    caller = either
    graph = {**line("acme.c", "count"), "reducers": {"words": "append", "n": "add"}}
    got = await caller.plays("count", lambda one: {"changes": {"seen": len(one["state"]["words"])}})
    state, options = {"words": ["a"], "n": 1, "gone": 1}, {"baggage": {"tenant": "acme"}, "priority": 7}
    first = await caller.ok("flow.run", graph=graph, state=state, options=options)
    thread = first["flowKey"]
    second = await caller.ok("flow.continue", threadKey=thread, state={"words": ["b", "c"], "n": 2, "gone": None})
    assert (await caller.ok("flow.snapshot", **second))["status"] == "created"
    assert await caller.code("flow.continue", threadKey=thread) == 409, "the latest flow is not completed"
    await caller.ok("flow.start", **second)
    assert (await caller.ok("flow.await", **second))["state"] == {"words": ["a", "b", "c"], "n": 3, "seen": 3}
    third = await caller.ok(
        "flow.continue", threadKey=thread, state={"n": -3}, start=True, options={"baggage": [1], "priority": 2}
    )
    outcome = await caller.ok("flow.await", **third)
    assert (outcome["workflow"], outcome["state"]) == ("acme.c", {"words": ["a", "b", "c"], "n": 0, "seen": 3})
    assert [one["baggage"] for one in got] == [{"tenant": "acme"}, {"tenant": "acme"}, [1]]
    listed = (await caller.ok("flow.list", threadKey=second["flowKey"]))["flows"]
    assert [one["flowKey"] for one in listed] == [third["flowKey"], second["flowKey"], thread]
    assert {one["threadKey"] for one in listed} == {thread}
    assert [one["priority"] for one in listed] == [2, 100, 7]


async def test_what_the_reducers_cannot_merge_makes_no_flow(either: Caller) -> None:
    """O15; a thread key among the options is a 400 as well."""
    caller = either
    await caller.serves("a")
    graph = {**line("acme.c", "a"), "reducers": {"n": "add"}}
    thread = {"threadKey": (await caller.ok("flow.run", graph=graph, state={"n": 1}))["flowKey"]}
    refused = await caller.refused("flow.continue", **thread, state={"n": "two"})
    assert refused["code"] == 400
    assert "`n`" in refused["message"]
    assert await caller.code("flow.continue", **thread, options=thread) == 400
    assert len((await caller.ok("flow.list"))["flows"]) == 1
    await caller.serves("bad", NO)
    failed = await caller.ok("flow.run", graph=line("acme.d", "bad"))
    assert await caller.code("flow.continue", threadKey=failed["flowKey"]) == 409


async def test_a_repeated_continue_makes_one_flow(either: Caller) -> None:
    """O15, O1: its `Nats-Msg-Id` is its idempotency key, compared by thread and state."""
    caller = either
    await caller.serves("a")
    flows = [{"threadKey": (await caller.ok("flow.run", graph=line("acme.c", "a")))["flowKey"]} for _ in range(2)]
    header = {"Nats-Msg-Id": "next-7"}
    made = await asyncio.gather(*(caller.ok("flow.continue", header, **flows[0], state={"n": 1}) for _ in range(10)))
    assert len({one["flowKey"] for one in made}) == 1
    option = {"idempotencyKey": "next-7"}
    assert await caller.ok("flow.continue", **flows[0], state={"n": 1}, options=option, start=True) == made[0]
    assert (await caller.ok("flow.await", **made[0]))["status"] == "completed"
    again = {"threadKey": made[0]["flowKey"]}
    assert await caller.ok("flow.continue", header, **again, state={"n": 1}) == made[0], "any key names the thread"
    assert await caller.code("flow.continue", header, **flows[0], state={"n": 2}) == 409
    assert await caller.code("flow.continue", header, **flows[1], state={"n": 1}) == 409
    assert await caller.code("flow.continue", header, **flows[0], options={"idempotencyKey": "other"}) == 400
    assert len((await caller.ok("flow.list"))["flows"]) == 3


async def test_a_continue_without_a_reply_subject_is_started(caller: Caller) -> None:
    """Wire section 1: as a create of that kind, for nobody learns the key of what it makes."""
    await caller.serves("a", {"changes": {"done": True}})
    first = await caller.ok("flow.run", graph=line("acme.c", "a"))
    heard = await caller.hear(f"{caller.prefix}.stopped.desk")
    request = {"threadKey": first["flowKey"], "state": {"n": 1}, "options": {"notify": "desk"}}
    await caller.client.publish(f"{caller.prefix}.flow.continue", json.dumps(request).encode())
    outcome = json.loads((await take(heard)).data)
    assert outcome["state"] == {"done": True, "n": 1}
    listed = (await caller.ok("flow.list", threadKey=first["flowKey"]))["flows"]
    assert [one["flowKey"] for one in listed] == [outcome["flowKey"], first["flowKey"]]


async def test_of_many_restarts_at_once_one_is_carried_out(either: Caller) -> None:
    """O13: the others find the flow running; the same goes for resumes of one pause (O11)."""
    caller = either
    asked = await caller.holds("a")
    for reply, operation in ((NO, "flow.restart"), ({"interrupt": "?"}, "flow.resume")):
        flow = await caller.ok("flow.create", graph=line("acme.r", "a"), start=True)
        await caller.answer(await take(asked), reply)
        await caller.ok("flow.await", **flow)
        replies = await asyncio.wait_for(asyncio.gather(*(caller.raw(operation, flow) for _ in range(10))), WAIT)
        refused = [one.headers["Nats-Service-Error-Code"] for one in replies if one.headers]
        assert refused == ["409"] * 9, operation
        await caller.answer(await take(asked))
        assert (await caller.ok("flow.await", **flow))["status"] == "completed"
        assert asked.empty()
