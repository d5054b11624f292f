"""What a task service is asked, and what each of its answers means to the flow (wire section 2; X4-X6, X11)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.server import replica
from tests.support.caller import WAIT, Caller, conforms, connected, line, settings, take


async def outcome_of(caller: Caller, task: str, **more: Any) -> dict[str, Any]:
    outcome: dict[str, Any] = await caller.ok("flow.run", graph=line("acme.one", task), **more)
    return outcome


# --- the request ---


async def test_a_task_is_told_what_it_needs_to_know(caller: Caller) -> None:
    """Wire section 2: headers and body agree; baggage as given; the deadline follows from the flow's time budget."""
    asked = await caller.holds("billing.charge")
    graph: dict[str, Any] = line("acme.order", "opłata 100%")
    graph["tasks"][0]["url"] = "billing.charge"
    baggage = {"tenant": "ącme", "roles": [1, None]}
    flow = await caller.ok(
        "flow.create", graph=graph, state={"n": 2**63 - 1}, start=True,
        options={"baggage": baggage, "timeBudgetMs": 90_000},
    )  # fmt: skip
    message = await take(asked)
    body = conforms("task_request", json.loads(message.data))
    (step,) = (await caller.ok("flow.history", **flow))["steps"]
    assert body["flowKey"] == flow["flowKey"]
    assert body["stepKey"] == step["stepKey"]
    assert (body["workflow"], body["task"], body["url"], body["attempt"]) == (
        "acme.order", "opłata 100%", "billing.charge", 0,
    )  # fmt: skip
    assert (body["state"], body["baggage"]) == ({"n": 2**63 - 1}, baggage)
    assert "resumed" not in body
    assert "subgraph" not in body
    created = datetime.fromisoformat(body["flowCreatedAt"])
    deadline = datetime.fromisoformat(body["deadline"])
    assert 85 < (deadline - created).total_seconds() < 120, "created now, due 90 s from the dispatch"
    headers = message.headers
    assert headers is not None
    assert {name: headers[name] for name in headers if name not in ("traceparent", "tracestate")} == {
        "Dwarf-Flow-Key": body["flowKey"], "Dwarf-Step-Key": body["stepKey"], "Dwarf-Workflow": "acme.order",
        "Dwarf-Task": "op%C5%82ata 100%25", "Dwarf-Attempt": "0", "Dwarf-Deadline": body["deadline"],
        "Dwarf-Accept-Ms": headers["Dwarf-Accept-Ms"], "Dwarf-Queue": "1",
        "Dwarf-Stream": f"{caller.prefix}.stream.{body['flowKey'].rsplit('-', 1)[0]}.{body['stepKey'].rsplit('-', 1)[0]}",
    }  # fmt: skip
    assert int(headers["Dwarf-Accept-Ms"]) > 0
    await caller.answer(message)
    assert (await caller.ok("flow.await", **flow))["status"] == "completed"


async def test_each_step_sees_the_changes_of_those_before_it(caller: Caller) -> None:
    """S2, S3: merged over the state, null deletes; one url may serve two nodes."""
    asked = await caller.holds("work")
    graph: dict[str, Any] = line("acme.two", "first", "second")
    for one in graph["tasks"]:
        one["url"] = "work"
    flow = await caller.ok("flow.create", graph=graph, state={"a": 1, "b": 2}, start=True)
    first = await take(asked)
    await caller.answer(first, {"changes": {"a": None, "c": {"d": [0.10]}}})
    second = await take(asked)
    bodies = [json.loads(one.data) for one in (first, second)]
    assert [(one["task"], one["url"], one["state"]) for one in bodies] == [
        ("first", "work", {"a": 1, "b": 2}),
        ("second", "work", {"b": 2, "c": {"d": [0.10]}}),
    ]
    await caller.answer(second)
    assert (await caller.ok("flow.await", **flow))["state"] == {"b": 2, "c": {"d": [0.10]}}


# --- the table: what a failure means ---


@dataclass
class Row:
    """A reply and the error it makes: its code and words of its message."""

    code: int
    words: tuple[str, ...]
    reply: Any = b""
    headers: dict[str, str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def refusal(code: int, text: str, **more: str) -> dict[str, str]:
    return {"Nats-Service-Error-Code": str(code), "Nats-Service-Error": text, **more}


ROWS = {
    "any other code": Row(402, ("card declined",), headers=refusal(402, "card declined")),
    "a text without a code": Row(500, ("oops",), headers={"Nats-Service-Error": "oops"}),
    "a code without a text": Row(418, ("418",), headers={"Nats-Service-Error-Code": "418"}),
    "a code that is none": Row(500, ("odd",), headers={"Nats-Service-Error-Code": "x", "Nats-Service-Error": "odd"}),
    "a text in any script": Row(400, ("żółć 100%",), headers=refusal(400, "%C5%BC%C3%B3%C5%82%C4%87 100%25")),
    "header and body": Row(
        402, ("said here",), {"error": {"message": "in body", "code": 1, "bank": "B"}}, refusal(402, "said here"),
        {"bank": "B"},
    ),
    "an error object": Row(
        402, ("declined",), {"error": {"message": "declined", "code": 402, "retryable": False}},
        extra={"retryable": False},
    ),
    "an error without a code": Row(500, ("declined",), {"error": {"message": "declined"}}),
    "an error of text": Row(500, ("declined",), {"error": "declined"}),
    "an error with changes": Row(402, ("declined",), {"error": {"message": "declined", "code": 402}, "changes": {"a": 9}}),
    "no object": Row(502, ("object", "it began: [1]"), [1]),
    "no JSON": Row(502, ("JSON", "<html>"), b"<html>not found</html>"),
    "no UTF-8": Row(502, ("malformed",), b'{"changes": {"a": "\xff"}}'),
    "state instead of changes": Row(502, ("`paid`", "changes"), {"paid": True}),
    "an unknown field beside changes": Row(502, ("`chnages`", "changes"), {"chnages": {}}),
    "a negative sleep": Row(502, ("sleepMs",), {"sleepMs": -1}),
    "disposition error over code 503": Row(
        503, ("closed",), headers=refusal(503, "closed", **{"Dwarf-Disposition": "error"})
    ),
    "disposition error over code 429": Row(
        429, ("slow down",), headers=refusal(429, "slow down", **{"Dwarf-Disposition": "error"})
    ),
    "a goto without an edge": Row(500, ("goto",), {"goto": "nowhere"}),
    "two signals": Row(500, ("interrupt and goto",), {"interrupt": 1, "goto": "a"}),
}  # fmt: skip


async def test_every_failure_of_the_table_fails_the_step_and_its_flow_with_its_code(either: Caller) -> None:
    """X4, X8, S6: no changes of a failed answer are kept; the step, the outcome and the summary tell the same error."""
    wrong = {}
    for number, (what, row) in enumerate(ROWS.items()):
        await either.serves(f"t{number}", row.reply, row.headers)
        outcome = await outcome_of(either, f"t{number}", state={"a": 1})
        error = outcome.get("error", {})
        said = all(word in error.get("message", "") for word in row.words)
        kept = {name: error.get(name) for name in row.extra} == row.extra
        if (outcome["status"], outcome["state"], error.get("code")) != ("failed", {"a": 1}, row.code) or not (
            said and kept
        ):
            wrong[what] = outcome
        (step,) = (await either.ok("flow.history", flowKey=outcome["flowKey"]))["steps"]
        assert (step["status"], step["error"]) == ("failed", error)
    assert wrong == {}
    rows = (await either.ok("flow.list", status="failed"))["flows"]
    assert len(rows) == len(ROWS)


TRIPS: dict[str, tuple[Any, dict[str, str] | None]] = {
    "code 503": (b"", refusal(503, "closed")),
    "code 529": (b"", refusal(529, "overloaded")),
    "a code 503 in the body": ({"error": {"message": "closed", "code": 503}}, None),
    "disposition breaker over code 402": (b"", refusal(402, "declined", **{"Dwarf-Disposition": "breaker"})),
    "disposition breaker in a success": ({"changes": {"a": 9}}, {"Dwarf-Disposition": "breaker"}),
}
BUSY: dict[str, tuple[Any, dict[str, str] | None]] = {
    "code 429": (b"", refusal(429, "slow down")),
    "a code 429 in the body": ({"error": {"message": "slow down", "code": 429}, "retry": {"maxAttempts": 1}}, None),
    "disposition backpressure in a success": ({"changes": {"a": 9}}, {"Dwarf-Disposition": "backpressure"}),
}


@pytest.mark.parametrize("what", [*TRIPS, *BUSY])
async def test_a_task_that_is_busy_or_cannot_serve_gets_its_step_again(caller: Caller, what: str) -> None:
    """Wire section 2, V1, V4: the step is neither failed nor counted as an attempt."""
    asked = await caller.holds("work")
    flow = await caller.ok("flow.create_task", task="work", state={"a": 1}, start=True)
    refused = await take(asked)
    await caller.answer(refused, *{**TRIPS, **BUSY}[what])
    again = await take(asked)
    assert await caller.ok("task.breaker", task="work") == {"task": "work", "tripped": what in TRIPS}
    first, second = (json.loads(one.data) for one in (refused, again))
    assert (first["stepKey"], first["attempt"], first["state"]) == (second["stepKey"], 0, second["state"])
    await caller.answer(again, {"changes": {"b": 2}})
    outcome = await caller.ok("flow.await", **flow)
    assert (outcome["status"], outcome["state"]) == ("completed", {"a": 1, "b": 2})
    async with asyncio.timeout(WAIT):
        while (await caller.ok("task.breaker", task="work"))["tripped"]:
            pass


async def test_a_task_nobody_serves_is_held_and_one_probe_after_a_service_appears_it_runs(either: Caller) -> None:
    """Wire section 2, first row; V4, V5: nobody listening trips at once, and nothing fails."""
    flows = [await either.ok("flow.create_task", task="nobody.home", state={"n": n}, start=True) for n in range(5)]
    async with asyncio.timeout(WAIT):
        while not (await either.ok("task.breaker", task="nobody.home"))["tripped"]:
            pass
    for flow in flows:
        assert (await either.ok("flow.snapshot", **flow))["status"] == "running"
    asked = await either.holds("nobody.home")
    probe = await take(asked)
    assert asked.empty()
    await either.answer(probe, {"changes": {"home": True}})
    for _ in flows[1:]:
        await either.answer(await take(asked), {"changes": {"home": True}})
    for n, flow in enumerate(flows):
        assert (await either.ok("flow.await", **flow))["state"] == {"n": n, "home": True}
    assert await either.ok("task.breaker", task="nobody.home") == {"task": "nobody.home", "tripped": False}
    for flow in flows:
        (step,) = (await either.ok("flow.history", **flow))["steps"]
        assert (step["status"], step["attempt"]) == ("completed", 0)


@pytest.mark.slow
async def test_a_bus_that_goes_away_trips_nothing(sqlite_dsn: str, prefix: str) -> None:
    """Wire section 2: steps in hand are held and asked again, also before their service is back."""
    async with NatsServer() as server:
        options = settings(server.url, sqlite_dsn, prefix)
        async with replica(options) as engine, connected(server.url) as client:
            caller = Caller(client, prefix)
            asked = await caller.holds("work")
            flow = await caller.ok("flow.create_task", task="work", start=True)
            await take(asked)
            await server.kill()
            await server.restart()
            await caller.answer(await take(asked), {"changes": {"n": 1}})
            assert (await engine.await_(flow["flowKey"], WAIT)).status.value == "completed"
            assert dict(engine.replica.counters.trips) == {}
            assert not await engine.breaker_tripped("work")
            assert engine.task_health() == []


async def test_a_task_that_does_not_answer_in_time_is_a_408(either: Caller) -> None:
    """Wire section 2, X3: the budget of the flow is the deadline; the late answer changes nothing."""
    asked = await either.holds("slow")
    outcome = await outcome_of(either, "slow", state={"a": 1}, options={"timeBudgetMs": 30})
    assert (outcome["status"], outcome["error"]["code"]) == ("failed", 408)
    assert "slow" in outcome["error"]["message"]
    flow = {"flowKey": outcome["flowKey"]}
    before = await either.ok("flow.fingerprint", **flow)
    await either.answer(await take(asked), {"changes": {"a": 2}})
    assert await either.ok("flow.fingerprint", **flow) == before
    assert await either.ok("flow.snapshot", **flow) == outcome


async def test_success_with_a_header_of_its_own_is_a_success(caller: Caller) -> None:
    """Wire section 2: a task's header `Status` is not the server's 503; an empty reply is success without changes."""
    await caller.serves("a", b"", {"Status": "503", "Description": "No Responders"})
    await caller.serves("b", {"changes": {"paid": True}}, {"Status": "503", "Trace": "x"})
    await caller.serves("c", b"")
    await caller.serves("d", {})
    outcome = await caller.ok("flow.run", graph=line("acme.all", "a", "b", "c", "d"))
    assert (outcome["status"], outcome["state"]) == ("completed", {"paid": True})


# --- late, doubled, repeated ---


async def test_only_the_first_of_several_replies_counts(either: Caller) -> None:
    """X11: also when the second comes while the next step is in hand, or says the opposite."""
    asked = {name: await either.holds(name) for name in ("one", "two")}
    flow = await either.ok("flow.create", graph=line("acme.l", "one", "two"), start=True)
    first = await take(asked["one"])
    await either.answer(first, {"changes": {"n": 1}})
    await either.answer(first, {"changes": {"n": 2}})
    await either.answer(first, b"", refusal(402, "declined"))
    second = await take(asked["two"])
    assert json.loads(second.data)["state"] == {"n": 1}
    await either.answer(first, {"changes": {"n": 3}})
    await either.answer(second, {"changes": {"m": 1}})
    outcome = await either.ok("flow.await", **flow)
    assert outcome["state"] == {"n": 1, "m": 1}
    await either.answer(second, {"error": "no"})
    assert await either.ok("flow.snapshot", **flow) == outcome
    steps = (await either.ok("flow.history", **flow))["steps"]
    assert [one["status"] for one in steps] == ["completed", "completed"]
    assert asked["one"].empty()
    assert asked["two"].empty()


async def test_a_late_reply_to_an_earlier_attempt_is_not_the_answer_of_the_later_one(either: Caller) -> None:
    """X5, X11: the step key is the same, the reply subject is not."""
    asked = await either.holds("work")
    flow = await either.ok("flow.create_task", task="work", start=True)
    first = await take(asked)
    await either.answer(first, {"retry": {"maxAttempts": 2}, "changes": {"seen": 1}})
    second = await take(asked)
    bodies = [json.loads(one.data) for one in (first, second)]
    assert bodies[0]["stepKey"] == bodies[1]["stepKey"]
    assert [one["attempt"] for one in bodies] == [0, 1]
    assert (second.headers or {})["Dwarf-Attempt"] == "1"
    assert bodies[1]["state"] == {"seen": 1}, "what an attempt contributed is kept"
    assert first.reply != second.reply
    await either.answer(first, {"changes": {"n": 1}})
    assert (await either.ok("flow.snapshot", **flow))["status"] == "running"
    await either.answer(second, {"changes": {"n": 2}})
    assert (await either.ok("flow.await", **flow))["state"] == {"seen": 1, "n": 2}


async def test_an_accepted_signal_is_no_answer(caller: Caller) -> None:
    """Wire section 2: the reply comes after it, and a cancellation reaches the worker's private subject, token-free."""
    asked = await caller.holds("work")
    private = await caller.hear(f"{caller.prefix}private.worker")
    accepted = {"Dwarf-Signal": "accepted", "Dwarf-Worker": f"{caller.prefix}private.worker"}
    one = await caller.ok("flow.create_task", task="work", start=True)
    call = await take(asked)
    await caller.answer(call, b"", accepted)
    assert (await caller.ok("flow.snapshot", **one))["status"] == "running"
    await caller.answer(call, {"changes": {"n": 1}})
    assert (await caller.ok("flow.await", **one))["state"] == {"n": 1}
    other = await caller.ok("flow.create_task", task="work", start=True)
    call = await take(asked)
    await caller.answer(call, b"", accepted)
    await caller.ok("shard.info")
    await caller.ok("flow.cancel", **other)
    while not (told := conforms("worker_call", json.loads((await take(private)).data)))["cancel"]:
        pass  # roll calls may come before
    step = json.loads(call.data)["stepKey"].rsplit("-", 1)[0]
    assert told["cancel"] == [step]


# --- retry and sleep ---


async def test_a_retry_runs_the_step_again_until_it_is_exhausted(either: Caller) -> None:
    """X5: maxAttempts counts executions; the error that came with the retry stands at the end."""
    failing = await either.serves(
        "flaky", {"retry": {"maxAttempts": 3, "initialDelayMs": 1}, "error": {"message": "no luck", "code": 402}}
    )
    outcome = await outcome_of(either, "flaky")
    assert (outcome["status"], outcome["error"]["code"], outcome["error"]["message"]) == ("failed", 402, "no luck")
    assert [json.loads(one.data)["attempt"] for one in failing] == [0, 1, 2]
    assert len({json.loads(one.data)["stepKey"] for one in failing}) == 1
    silent = await either.serves("silent", {"retry": {"maxAttempts": 2}})
    outcome = await outcome_of(either, "silent")
    assert outcome["status"] == "failed"
    assert "2 times" in outcome["error"]["message"]
    assert len(silent) == 2
    hurried = await either.serves(
        "hurried", {"retry": {"initialDelayMs": 60_000, "giveUpAfterMs": 1000}, "error": "late"}
    )
    assert (await outcome_of(either, "hurried"))["error"]["message"] == "late"
    assert len(hurried) == 1, "the next attempt would be due after giveUpAfterMs"


async def test_a_retry_that_succeeds_completes_the_flow(caller: Caller) -> None:
    """X5: with a code as NATS services say it, too; the step says how often it was retried."""
    asked = await caller.holds("flaky")
    flow = await caller.ok("flow.create_task", task="flaky", start=True)
    await caller.answer(await take(asked), {"retry": {"maxAttempts": 5}, "error": "no"})
    await caller.answer(await take(asked), {"retry": {"maxAttempts": 5}}, refusal(402, "no"))
    await caller.answer(await take(asked), {"changes": {"ok": True}})
    assert (await caller.ok("flow.await", **flow))["state"] == {"ok": True}
    (step,) = (await caller.ok("flow.history", **flow))["steps"]
    assert (step["attempt"], step["status"]) == (2, "completed")
    assert "error" not in step


async def test_a_sleep_delays_the_next_step_and_a_retry_with_a_sleep_waits_for_both(either: Caller) -> None:
    """X6: the step that comes next is not dispatched before its time."""
    asked = {name: await either.holds(name) for name in ("first", "second")}
    flow = await either.ok("flow.create", graph=line("acme.l", "first", "second"), start=True)
    await either.answer(await take(asked["first"]), {"sleepMs": 150, "changes": {"n": 1}})
    call = await take(asked["second"])
    first, second = (await either.ok("flow.history", **flow))["steps"]
    ended, started = (datetime.fromisoformat(one) for one in (first["updatedAt"], second["startedAt"]))
    assert (started - ended).total_seconds() >= 0.15
    await either.answer(call, {"sleepMs": 100, "retry": {"initialDelayMs": 100}})
    again = await take(asked["second"])
    assert json.loads(again.data)["attempt"] == 1
    await either.answer(again, {"sleepMs": 10**12})
    assert (await either.ok("flow.await", **flow))["state"] == {"n": 1}, "a sleep at the end delays nothing"


async def test_a_flow_that_sleeps_can_be_cancelled(either: Caller) -> None:
    """O10, X6: and its next step is never run."""
    await either.serves("first", {"sleepMs": 86_400_000})
    second = await either.serves("second")
    flow = await either.ok("flow.create", graph=line("acme.l", "first", "second"), start=True)
    while len(steps := (await either.ok("flow.history", **flow))["steps"]) < 2:
        pass
    assert steps[1]["status"] == "pending"
    await either.ok("flow.cancel", **flow)
    assert (await either.ok("flow.await", **flow))["status"] == "cancelled"
    assert [one["status"] for one in (await either.ok("flow.history", **flow))["steps"]] == ["completed", "cancelled"]
    assert second == []


@pytest.mark.parametrize("flows", [60])
async def test_many_flows_at_once_run_each_step_once_with_its_own_state(either: Caller, flows: int) -> None:
    """X1, X11: in calm weather each step is asked for exactly once."""
    seen: list[str] = []

    async def add(message: Any) -> None:
        body = json.loads(message.data)
        seen.append(body["stepKey"])
        await either.answer(message, {"changes": {"n": body["state"]["n"] + 1}})

    await either.client.subscribe(f"{either.prefix}task.add.*", cb=add)
    graph = line("acme.l", "add.a", "add.b", "add.c")
    runs = [either.ok("flow.run", graph=graph, state={"n": 10 * number}) for number in range(flows)]
    outcomes = await asyncio.gather(*runs)
    assert [one["state"]["n"] for one in outcomes] == [10 * number + 3 for number in range(flows)]
    assert len(seen) == len(set(seen)) == 3 * flows
