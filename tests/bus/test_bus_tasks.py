"""Tasks over a real NATS server (wire: section 2)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.msg import Msg

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.bus.tasks import NatsTasks
from dwarf_nats.embedded import NatsServer
from dwarf_nats.ports import BusAway
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.answer import Answer, Disposition, TaskCall
from dwarf_nats.workflow.state import Raw

FLOW, STEP = "1-42-a1B2c3D4e5F6g7H8", "1-43-h8G7f6E5d4C3b2A1"
Service = Callable[[Msg], Awaitable[None]]


def call(url: str = "charge", budget: float = 10.0, **changes: Any) -> TaskCall:
    values: dict[str, Any] = {
        "flow_key": FLOW, "step_key": STEP, "workflow": "order", "task": "charge", "url": url, "attempt": 0,
        "state": {"a": Raw(b"1")}, "baggage": Raw(b"null"), "flow_created_at": 0, "flow_updated_at": 0,
        "deadline": 0, "budget": budget,
    }  # fmt: skip
    return TaskCall(**{**values, **changes})


@pytest.fixture
def tasks(connection: Connection, inbox: Inbox, unique: str) -> NatsTasks:
    return NatsTasks(connection, inbox, Subjects(task_prefix=unique))


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


async def serve(other: Connection, unique: str, service: Service, url: str = "charge") -> None:
    await other.subscribe(f"{unique}.{url}", cb=service)
    await other.flush()


async def test_a_task_is_asked_and_its_answer_taken(tasks: NatsTasks, other: Connection, unique: str) -> None:
    asked: list[Msg] = []

    async def service(msg: Msg) -> None:
        asked.append(msg)
        await other.publish(msg.reply, b'{"changes":{"paid":true}}')

    await serve(other, unique, service)
    answer = await tasks.execute(call())
    assert {name: bytes(value) for name, value in answer.changes.items()} == {"paid": b"true"}
    assert msgspec.json.decode(asked[0].data)["state"] == {"a": 1}
    assert (asked[0].headers or {})["Dwarf-Step-Key"] == STEP


async def test_nobody_listening_trips_the_breaker(tasks: NatsTasks) -> None:
    answer = await tasks.execute(call("nobody"))
    assert answer.error is not None
    assert (answer.error.code, answer.disposition, answer.cause) == (503, Disposition.BREAKER, "no_responders")


async def test_a_tasks_own_status_header_is_not_the_servers(tasks: NatsTasks, other: Connection, unique: str) -> None:
    async def service(msg: Msg) -> None:
        await other.publish(msg.reply, b"", headers={"Status": "503"})

    await serve(other, unique, service)
    assert await tasks.execute(call()) == Answer()


async def test_an_error_in_the_way_of_nats_services(tasks: NatsTasks, other: Connection, unique: str) -> None:
    async def service(msg: Msg) -> None:
        await other.publish(msg.reply, b"", headers={"Nats-Service-Error-Code": "429", "Nats-Service-Error": "zu viel"})

    await serve(other, unique, service)
    answer = await tasks.execute(call())
    assert answer.error is not None
    assert (answer.error.code, answer.error.message, answer.disposition) == (429, "zu viel", Disposition.BACKPRESSURE)


async def test_no_answer_before_the_deadline_is_a_408_and_a_late_one_is_dropped(
    tasks: NatsTasks, other: Connection, unique: str, connection: Connection, inbox: Inbox
) -> None:
    asked: list[Msg] = []

    async def service(msg: Msg) -> None:
        asked.append(msg)

    await serve(other, unique, service)
    answer = await tasks.execute(call(budget=0.05))
    assert answer.error is not None
    assert (answer.error.code, answer.disposition) == (408, Disposition.ERROR)
    assert len(inbox) == 0
    if not asked:
        await other.flush()
    await other.publish(asked[0].reply, b"{}")
    await other.flush()
    await connection.flush()
    assert tasks.late == 1


async def test_a_doubled_reply_is_dropped(
    tasks: NatsTasks, other: Connection, unique: str, connection: Connection
) -> None:
    async def service(msg: Msg) -> None:
        await other.publish(msg.reply, b'{"changes":{"n":1}}')
        await other.publish(msg.reply, b'{"changes":{"n":2}}')

    await serve(other, unique, service)
    answer = await tasks.execute(call())
    await other.flush()
    await connection.flush()
    assert bytes(answer.changes["n"]) == b"1"
    assert tasks.late == 1


async def test_a_request_over_max_payload_is_not_sent(
    tasks: NatsTasks, other: Connection, unique: str, connection: Connection
) -> None:
    async def service(msg: Msg) -> None:
        await other.publish(msg.reply, b"{}")

    await serve(other, unique, service)
    limit = connection.max_payload
    fitting = call(state={"a": Raw(b'"' + b"x" * (limit - 1_000) + b'"')})
    assert (await tasks.execute(fitting)).error is None
    # The body alone would fit; with its headers it does not.
    answer = await tasks.execute(call(state={"a": Raw(b'"' + b"x" * (limit - 400) + b'"')}))
    assert answer.error is not None
    assert answer.error.code == 413
    assert str(limit) in answer.error.message
    assert connection.is_connected
    assert (await tasks.execute(call())).error is None


async def test_a_step_that_was_accepted_is_cancelled_at_its_worker(
    tasks: NatsTasks, other: Connection, unique: str, connection: Connection
) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    accepted = asyncio.Event()
    asked: list[Msg] = []
    worker = other.new_inbox()

    async def hear(msg: Msg) -> None:
        told.put_nowait(msg.data)

    async def service(msg: Msg) -> None:
        asked.append(msg)
        await other.publish(msg.reply, b"", headers={"Dwarf-Signal": "accepted", "Dwarf-Worker": worker})
        await other.flush()
        accepted.set()

    await other.subscribe(worker, cb=hear)
    await serve(other, unique, service)
    running = asyncio.create_task(tasks.execute(call()))
    await asyncio.wait_for(accepted.wait(), 10)
    await connection.flush()
    assert tasks.worker_of(STEP) == worker
    tasks.cancel(STEP)
    assert msgspec.json.decode(await asyncio.wait_for(told.get(), 10)) == {"steps": [], "cancel": ["1-43"]}
    await other.publish(asked[0].reply, b'{"changes":{"done":true}}')
    assert bytes((await running).changes["done"]) == b"true"
    assert tasks.worker_of(STEP) == ""


async def test_a_worker_that_accepts_after_the_cancellation_is_told_then(
    tasks: NatsTasks, other: Connection, unique: str
) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    asked = asyncio.Event()
    messages: list[Msg] = []
    worker = other.new_inbox()

    async def hear(msg: Msg) -> None:
        told.put_nowait(msg.data)

    async def service(msg: Msg) -> None:
        messages.append(msg)
        asked.set()

    await other.subscribe(worker, cb=hear)
    await serve(other, unique, service)
    running = asyncio.create_task(tasks.execute(call()))
    await asyncio.wait_for(asked.wait(), 10)
    tasks.cancel(STEP)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await other.publish(messages[0].reply, b"", headers={"Dwarf-Signal": "accepted", "Dwarf-Worker": worker})
    assert b'"1-43"' in await asyncio.wait_for(told.get(), 10)


async def test_cancelling_an_unknown_step_does_nothing(tasks: NatsTasks) -> None:
    tasks.cancel("9-9-a1B2c3D4e5F6g7H8")


async def test_many_calls_at_once_get_each_its_own_answer(tasks: NatsTasks, other: Connection, unique: str) -> None:
    async def service(msg: Msg) -> None:
        state = msgspec.json.decode(msg.data)["state"]
        await other.publish(msg.reply, msgspec.json.encode({"changes": {"n": state["n"] * 2}}))

    await serve(other, unique, service)
    calls = [call(state={"n": Raw(b"%d" % n)}, step_key=f"1-{n + 1}-a1B2c3D4e5F6g7H8") for n in range(300)]
    answers = await asyncio.gather(*(tasks.execute(one) for one in calls))
    assert [int(bytes(answer.changes["n"])) for answer in answers] == [n * 2 for n in range(300)]


async def test_a_private_inbox_prefix(nats_server: NatsServer, opened: Any, other: Connection, unique: str) -> None:
    connection = await opened(nats_server.url, inbox_prefix="_INBOX_replica")
    seen: list[str] = []

    async def service(msg: Msg) -> None:
        seen.append(msg.reply)
        await other.publish(msg.reply, b"")

    await serve(other, unique, service)
    inbox = Inbox(connection)
    await inbox.start()
    assert await NatsTasks(connection, inbox, Subjects(task_prefix=unique)).execute(call()) == Answer()
    assert seen[0].startswith("_INBOX_replica.")


async def test_an_answer_that_came_while_the_replica_was_frozen_is_taken_though_its_deadline_has_passed(
    tasks: NatsTasks, connection: Connection, nats_server: NatsServer, unique: str
) -> None:
    serving, answered = threading.Event(), threading.Event()

    async def service() -> None:
        other = await nats.connect(nats_server.url)

        async def answer(msg: Msg) -> None:
            await msg.respond(b'{"changes":{"paid":true}}')
            await other.flush()
            answered.set()

        await other.subscribe(f"{unique}.charge", cb=answer)
        await other.flush()
        serving.set()
        await asyncio.to_thread(answered.wait, 20)
        await other.close()

    elsewhere = threading.Thread(target=asyncio.run, args=[service()], daemon=True)
    elsewhere.start()
    await asyncio.to_thread(serving.wait, 20)
    asking = asyncio.create_task(tasks.execute(call(budget=0.05)))
    await asyncio.sleep(0)  # it has asked
    connection._transport.writelines(connection._pending)  # type: ignore[union-attr]
    connection._pending = []
    assert answered.wait(10)  # and from now on this loop stands still
    time.sleep(0.5)  # noqa: ASYNC251
    answer = await asking
    elsewhere.join()
    assert answer.error is None
    assert {name: bytes(value) for name, value in answer.changes.items()} == {"paid": b"true"}


async def test_calls_in_flight_when_the_bus_goes_away_are_given_back_and_nothing_is_sent_later(
    own_server: NatsServer, opened: Any
) -> None:
    connection, other = await opened(own_server.url), await opened(own_server.url)
    inbox = Inbox(connection)
    await inbox.start()
    tasks = NatsTasks(connection, inbox)
    asked = asyncio.Event()
    count = 0

    async def service(msg: Msg) -> None:
        nonlocal count
        count += 1
        asked.set()
        if count > 1:
            await other.publish(msg.reply, b"")

    await other.subscribe("task.charge", cb=service)
    await other.flush()
    running = asyncio.create_task(tasks.execute(call()))
    await asyncio.wait_for(asked.wait(), 10)
    back = [asyncio.Event(), asyncio.Event()]
    connection.on_reconnect(back[0].set)
    other.on_reconnect(back[1].set)
    await own_server.kill()
    with pytest.raises(BusAway):
        await asyncio.wait_for(running, 10)
    with pytest.raises(BusAway):
        await tasks.execute(call())
    await own_server.start()
    for event in back:
        await asyncio.wait_for(event.wait(), 20)
    await other.flush()
    await connection.flush()
    assert await tasks.execute(call()) == Answer()
    assert count == 2
