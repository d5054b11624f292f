"""The inbox of a replica: one unguessable reply subject per call (wire section 7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus import inbox as inbox_module
from dwarf_nats.bus.calls import Call, Reply
from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.wire.tokens import Tokens

WAIT = 20.0


async def asked(
    inbox: Inbox, other: Connection, count: int, unique: str
) -> tuple[list[Msg], list[asyncio.Task[object]]]:
    """So many calls under way, as who was asked sees them."""
    requests: asyncio.Queue[Msg] = asyncio.Queue()
    await other.subscribe(f"{unique}.>", cb=requests.put)
    await other.flush()
    calls: list[asyncio.Task[object]] = [
        asyncio.create_task(inbox.ask(f"{unique}.{n}", b"", b"", 600, step=f"1-{n}-a1B2c3D4e5F6g7H8"))
        for n in range(count)
    ]
    return [await asyncio.wait_for(requests.get(), WAIT) for _ in range(count)], calls


async def test_a_reply_subject_tells_nothing_of_any_other(inbox: Inbox, other: Connection) -> None:
    requests, calls = await asked(inbox, other, 300, "tells")
    bases, tokens = zip(*(one.reply.rsplit(".", 1) for one in requests), strict=True)
    assert len(set(bases)) == 1
    assert len(set(tokens)) == 300
    assert {len(token) for token in tokens} == {22}
    # No two begin or end alike: nothing counts up. (By chance that happens once in 10^11.)
    assert len({token[:11] for token in tokens}) == len({token[11:] for token in tokens}) == 300
    for call in calls:
        call.cancel()


async def test_who_was_asked_can_answer_that_call_and_no_other(
    inbox: Inbox, other: Connection, connection: Connection
) -> None:
    (mine, _), calls = await asked(inbox, other, 2, "answers")
    base, token = mine.reply.rsplit(".", 1)
    late = inbox.late
    for guess in (*map(str, range(1, 20)), token[:-1], token + "x", token.swapcase(), f"{token}.{token}", token[::-1]):
        await other.publish(f"{base}.{guess}", b'{"changes":{"forged":true}}')
    await other.publish(mine.reply, b'{"changes":{"honest":true}}')
    await other.publish(mine.reply, b'{"changes":{"twice":true}}')
    await other.flush()
    await connection.flush()
    done = [call for call in calls if call.done()]
    assert [call.result() for call in done] == [Reply(None, b'{"changes":{"honest":true}}')]
    assert inbox.late - late == 19 + 4 + 1  # a subject of two tokens does not even arrive
    for call in calls:
        call.cancel()


async def test_calls_that_take_long_end_when_they_are_due(
    inbox: Inbox, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call has no timer of its own until it has waited for a while; those begun before and after a look end in time."""
    monkeypatch.setattr(inbox_module, "LOOK_SECONDS", 0.01)
    await other.subscribe("silent", cb=other_does_nothing)
    await other.flush()
    async with asyncio.timeout(WAIT):
        first = asyncio.create_task(inbox.ask("silent", b"", b"", 0.05, step="1-1-a1B2c3D4e5F6g7H8"))
        await asyncio.sleep(0)
        long = asyncio.create_task(inbox.ask("silent", b"", b"", 600, step="1-2-a1B2c3D4e5F6g7H8"))
        assert await first is None
        second = asyncio.create_task(inbox.ask("silent", b"", b"", 0.05, step="1-3-a1B2c3D4e5F6g7H8"))
        assert await second is None
    assert not long.done()
    assert len(inbox) == 1
    long.cancel()


async def other_does_nothing(_: Msg) -> None:
    """Nobody answers."""


async def test_only_a_task_can_be_accepted(inbox: Inbox, other: Connection, connection: Connection) -> None:
    """A roll call or a request for a graph belongs to no step; who is asked cannot make it one."""
    accepted: list[tuple[Call, str]] = []
    inbox.on_accepted = lambda call, worker: accepted.append((call, worker))
    requests: asyncio.Queue[Msg] = asyncio.Queue()
    await other.subscribe("only.graph", cb=requests.put)
    await other.flush()
    asking = asyncio.create_task(inbox.ask("only.graph", b"", b"", 600))
    request = await asyncio.wait_for(requests.get(), WAIT)
    await other.publish(request.reply, b"", headers={"Dwarf-Signal": "accepted", "Dwarf-Worker": "workers.mine"})
    await other.publish(request.reply, b"{}")
    reply = await asyncio.wait_for(asking, WAIT)
    assert (accepted, reply and reply.body) == ([], b"{}")
    await connection.flush()


def test_tokens_never_come_again_and_are_subject_tokens() -> None:
    tokens = Tokens()
    drawn = [tokens.next() for _ in range(5_000)]
    assert len(set(drawn)) == 5_000
    assert {len(one) for one in drawn} == {22}
    assert set("".join(drawn)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize("prefix", ["", "_INBOX.replica", "_INBOX_replica"])
async def test_the_inbox_of_a_replica_is_known_for_one(
    nats_server: NatsServer, opened: Any, other: Connection, prefix: str
) -> None:
    """By everybody, whatever inbox prefix either has: no other replica publishes there."""
    inbox = Inbox(await opened(nats_server.url, inbox_prefix=prefix))
    await inbox.start()
    (request,), (call,) = await asked(inbox, other, 1, "known")
    assert request.reply.startswith(prefix or "_INBOX.")
    for subjects in (Subjects(), Subjects("other", "deployment", "altogether")):
        assert subjects.refuses_reply(request.reply.encode())
        assert not subjects.is_private(request.reply)
        assert not subjects.is_private(request.reply.rpartition(".")[0] + ".1")
    call.cancel()


async def test_a_call_that_could_not_be_sent_is_over(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever went wrong: the step is executed in another way, and has no second answer when this call would have ended."""
    told: list[object] = []

    def broken(*_: object) -> None:
        raise ValueError("cannot be sent")

    monkeypatch.setattr(inbox._connection, "send", broken)
    call = inbox.begin("anywhere", 600, told.append, step="1-1-a1B2c3D4e5F6g7H8")
    with pytest.raises(ValueError, match="cannot be sent"):
        inbox.send(call, b"", b"")
    assert (len(inbox), inbox.find(call.step), told) == (0, None, [])


async def test_a_defect_in_one_listener_keeps_no_reply_from_the_others(
    inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    """All of one message are told in one turn."""
    told: list[Reply | Exception | None] = []

    def broken(_: object) -> None:
        raise KeyError("oops")

    first = inbox.begin("silent", 600, broken, step="1-1-a1B2c3D4e5F6g7H8")
    second = inbox.begin("silent", 600, told.append, step="1-2-a1B2c3D4e5F6g7H8")
    for call in (first, second):
        inbox.answer(call, Reply(None, b"{}"))
    assert told == [Reply(None, b"{}")]
    assert "a defect after the reply to 1-1" in caplog.text
    assert len(inbox) == 0


async def test_a_call_that_is_dropped_is_told_nothing_any_more(inbox: Inbox) -> None:
    told: list[object] = []
    call = inbox.begin("silent", 600, told.append, step="1-1-a1B2c3D4e5F6g7H8")
    late = inbox.late
    inbox.drop(call)
    assert (len(inbox), inbox.find(call.step)) == (0, None)
    kept = inbox.begin("silent", 600, told.append, step="1-2-a1B2c3D4e5F6g7H8")
    kept.cancelled = True  # until its deadline, so that a service that accepts it late learns of that
    inbox.drop(kept)
    assert inbox.find(kept.step) is kept
    assert not inbox.in_flight(kept)
    inbox.answer(kept, Reply(None, b"{}"))
    assert (told, inbox.late) == ([], late + 1)
