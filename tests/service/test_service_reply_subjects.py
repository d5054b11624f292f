"""The service speaks to nobody on its own subjects, where whoever asks perhaps may not publish (wire sections 1, 4 and 7)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from tests.support.caller import Caller, take


@pytest.mark.parametrize(
    "subject",
    [
        "{}.peer.trip_breaker",
        "{}task.charge",
        "{}graph.bill",
        "{}.flow.start",
        "_INBOX.dwarf_replica_inbox.{}.x",
        "_INBOX.replica.dwarf_replica_inbox.{}.x",
        "$KV.{}.x",
    ],
)
async def test_an_operation_is_no_way_to_speak_in_the_name_of_the_service(caller: Caller, subject: str) -> None:
    """The reply of `task.breaker`, say, would read as the signal that a breaker has tripped."""
    own = subject.format(caller.prefix)
    before = await caller.ok("flow.list")
    heard = await caller.hear(own)
    for operation, body in (("task.breaker", {"task": "charge"}), ("flow.create_task", {"task": "charge"})):
        await caller.client.publish(f"{caller.prefix}.{operation}", json.dumps(body).encode(), reply=own)
    for question in ("$SRV.PING", "$SRV.INFO.dwarf", "$SRV.STATS.dwarf", f"{caller.prefix}.health"):
        await caller.client.publish(question, b"", reply=own)
    # Answered after what came before it, on the same connection of the replica.
    assert await caller.ok("flow.list") == before
    await caller.client.publish(own, b"mine")
    assert (await take(heard)).data == b"mine"


@pytest.mark.parametrize("subject", ["_INBOX.{}.*", "_INBOX.{}.>", "*.{}", "{}..x", "{}.", "_INBOX.{}." + 1100 * "x"])
async def test_a_reply_subject_that_cannot_be_one_stops_the_request(caller: Caller, subject: str) -> None:
    before = await caller.ok("flow.list")
    await caller.client.publish(
        f"{caller.prefix}.flow.create_task", b'{"task":"charge"}', reply=subject.format(caller.prefix)
    )
    assert await caller.ok("flow.list") == before
    (endpoint,) = [
        one
        for one in json.loads((await caller.client.request("$SRV.STATS.dwarf", timeout=30)).data)["endpoints"]
        if one["name"] == "flow-create_task"
    ]
    if endpoint["subject"].startswith(f"{caller.prefix}."):  # else another deployment was faster
        assert "400:the reply subject" in endpoint["last_error"]


async def test_who_knows_the_inbox_of_a_replica_cannot_end_the_steps_of_others(caller: Caller) -> None:
    """Wire section 7: every task service knows it, from the reply subjects of its own requests."""
    private = await caller.hear(f"{caller.prefix}private")
    mine, victims = await caller.holds("mine"), await caller.holds("victim")
    for task in ("mine", "victim"):
        await caller.ok("flow.create_task", task=task, start=True)
    request, victim = await take(mine), await take(victims)
    inbox, token = request.reply.rsplit(".", 1)
    own = [request.reply, *(f"{inbox}.{one}" for one in ("1", "2", "3", token[:-1], f"{token}.x"))]
    for subject in own:
        # As its private subject, and as that of another who asks.
        await caller.answer(request, b"", {"Dwarf-Signal": "accepted", "Dwarf-Worker": subject})
        for question in ("shard.info", "flow.list", "health"):
            await caller.client.publish(f"{caller.prefix}.{question}", b"", reply=subject)
        for question in ("$SRV.PING", "$SRV.INFO.dwarf", "$SRV.STATS"):
            await caller.client.publish(question, b"", reply=subject)
        # And by hand, where no permission keeps it from doing so.
        if subject != request.reply:
            await caller.client.publish(subject, b'{"changes":{"by":"a stranger"}}')
    # Nobody was asked anywhere there, and both steps go on: each is answered by who was asked, and once.
    await caller.answer(request, b"", {"Dwarf-Signal": "accepted", "Dwarf-Worker": f"{caller.prefix}private"})
    call = await take(private)
    await caller.answer(call, {"running": json.loads(call.data)["steps"]})
    states = {}
    for asked, by in ((request, "mine"), (victim, "victim")):
        await caller.answer(asked, {"changes": {"by": by}})
        states[by] = await ended(caller, asked)
    assert states == {"mine": {"by": "mine"}, "victim": {"by": "victim"}}
    assert mine.empty()
    assert victims.empty()


async def ended(caller: Caller, request: Msg) -> Any:
    outcome = await caller.ok("flow.await", flowKey=json.loads(request.data)["flowKey"])
    assert outcome["status"] == "completed", outcome
    return outcome["state"]
