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
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.ports import BusAway, WorkerLost
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


def worker_of(inbox: Inbox) -> str:
    """The private subject of the worker that accepted the step in flight; empty if none did."""
    call = inbox.find(STEP)
    return call.worker if call is not None else ""


@pytest.fixture
def tasks(connection: Connection, inbox: Inbox, unique: str) -> NatsTasks:
    return NatsTasks(connection, inbox, Subjects(task_prefix=unique), roll_call_seconds=0.1)


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
    tasks: NatsTasks, inbox: Inbox, other: Connection, unique: str, connection: Connection
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
    assert worker_of(inbox) == worker
    tasks.cancel(STEP)
    while not (message := msgspec.json.decode(await asyncio.wait_for(told.get(), 10)))["cancel"]:
        pass  # a roll call may come before
    assert message == {"steps": [], "cancel": ["1-43"]}
    await other.publish(asked[0].reply, b'{"changes":{"done":true}}')
    assert bytes((await running).changes["done"]) == b"true"
    assert worker_of(inbox) == ""


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


class Accepting:
    """A service that accepts each request at once and never answers of itself; `calls`: what is asked on its subject."""

    def __init__(self, other: Connection) -> None:
        self.other = other
        self.subject = other.new_inbox()
        self.requests: asyncio.Queue[Msg] = asyncio.Queue()
        self.calls: asyncio.Queue[Msg] = asyncio.Queue()

    async def serve(self, unique: str) -> None:
        async def accept(msg: Msg) -> None:
            await self.accept(msg)
            self.requests.put_nowait(msg)

        await self.other.subscribe(self.subject, cb=self.calls.put)
        await serve(self.other, unique, accept)

    async def accept(self, msg: Msg, **headers: str) -> None:
        told = {"Dwarf-Signal": "accepted", "Dwarf-Worker": self.subject, **headers}
        await self.other.publish(msg.reply, b"", headers=told)

    async def asked(self) -> tuple[Msg, Any]:
        msg = await asyncio.wait_for(self.calls.get(), 10)
        return msg, msgspec.json.decode(msg.data)


async def test_a_worker_in_hand_is_called_until_its_reply_comes(
    tasks: NatsTasks, connection: Connection, other: Connection, unique: str
) -> None:
    """Wire: section 2; a worker that says twice or elsewhere that it accepted is called once."""
    service = Accepting(other)
    await service.serve(unique)
    running = asyncio.create_task(tasks.execute(call()))
    request = await asyncio.wait_for(service.requests.get(), 10)
    await service.accept(request)
    for _ in range(5):
        msg, asked = await service.asked()
        assert asked == {"steps": ["1-43"], "cancel": []}
        await other.publish(msg.reply, b'{"running":["1-43"]}')
    assert tasks.roll_call.workers == 1
    await other.publish(request.reply, b'{"changes":{"done":true}}')
    assert bytes((await running).changes["done"]) == b"true"
    await connection.flush()
    assert (tasks.roll_call.workers, tasks.lost) == (0, 0)


async def test_a_worker_whose_subject_nobody_subscribes_any_more_is_lost_and_its_late_reply_is_dropped(
    tasks: NatsTasks, connection: Connection, other: Connection, nats_server: NatsServer, opened: Any, unique: str
) -> None:
    service = Accepting(await opened(nats_server.url))
    await service.serve(unique)
    running = asyncio.create_task(tasks.execute(call(budget=600)))
    request = await asyncio.wait_for(service.requests.get(), 10)
    msg, _ = await service.asked()
    await service.other.publish(msg.reply, b'{"running":["1-43"]}')
    await service.asked()
    await service.other.close()
    with pytest.raises(WorkerLost) as lost:
        await asyncio.wait_for(running, 20)
    assert lost.value.pause == 0
    late = tasks.late
    await other.publish(request.reply, b'{"changes":{"n":1}}')
    await other.flush()
    await connection.flush()
    assert (tasks.late - late, tasks.lost, tasks.roll_call.workers) == (1, 1, 0)


async def test_a_silent_worker_is_lost(tasks: NatsTasks, other: Connection, unique: str) -> None:
    service = Accepting(other)
    await service.serve(unique)
    running = asyncio.create_task(tasks.execute(call(budget=600)))
    msg, _ = await service.asked()
    await other.publish(msg.reply, b'{"running":["1-43"]}')
    with pytest.raises(WorkerLost, match="unanswered"):
        await asyncio.wait_for(running, 20)


async def test_a_worker_that_never_answered_a_roll_call_is_not_lost(
    tasks: NatsTasks, other: Connection, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wire section 2: with a subject that nobody subscribes, and with one that nobody answers on."""
    silent, absent = Accepting(other), Accepting(other)
    absent.subject = "nobody.subscribes.this"
    for service, url in ((silent, "silent"), (absent, "absent")):
        if service is silent:
            await other.subscribe(silent.subject, cb=silent.calls.put)

        async def accept(msg: Msg, service: Accepting = service) -> None:
            await service.accept(msg)
            service.requests.put_nowait(msg)

        await serve(other, unique, accept, url)
    running = [
        asyncio.create_task(tasks.execute(call(url, budget=600, step_key=f"1-{n}-h8G7f6E5d4C3b2A1")))
        for n, url in enumerate(("silent", "absent"), 43)
    ]
    async with asyncio.timeout(20):
        while caplog.text.count("only their deadlines bound its steps") < 2:
            await asyncio.sleep(0.01)
    for service in (silent, absent):
        await other.publish((await service.requests.get()).reply, b"")
    assert await asyncio.wait_for(asyncio.gather(*running), 20) == [Answer(), Answer()]
    assert tasks.lost == 0


async def test_a_forgetful_worker_is_lost_and_its_answer_to_a_cancellation_is_nothing_but_that(
    tasks: NatsTasks, other: Connection, unique: str
) -> None:
    service = Accepting(other)
    await service.serve(unique)
    running = asyncio.create_task(tasks.execute(call(budget=600)))
    for _ in range(2):
        msg, _ = await service.asked()
        await other.publish(msg.reply, b'{"running":[]}')
    with pytest.raises(WorkerLost, match="does not know"):
        await asyncio.wait_for(running, 20)


async def test_an_accepted_that_names_no_ordinary_subject_is_ignored(
    tasks: NatsTasks, inbox: Inbox, connection: Connection, other: Connection, unique: str
) -> None:
    """A service must not make the replica publish where it may not itself."""
    asked: asyncio.Queue[Msg] = asyncio.Queue()
    await serve(other, unique, asked.put)
    running = asyncio.create_task(tasks.execute(call()))
    request = await asyncio.wait_for(asked.get(), 10)
    own = ("dwarf.peer.trip_breaker", f"{unique}.charge", "graph.bill")
    for subject in ("", "$JS.API.STREAM.PURGE.events", "a.>", "a b", "a..b", "x" * 300, *own):
        headers = {"Dwarf-Signal": "accepted", **({"Dwarf-Worker": subject} if subject else {})}
        await other.publish(request.reply, b"", headers=headers)
    await other.flush()
    await connection.flush()
    assert (tasks.accepted, tasks.roll_call.workers, worker_of(inbox)) == (9, 0, "")
    await other.publish(request.reply, b"")
    assert await running == Answer()


async def test_a_worker_that_accepts_what_another_had_accepted_is_called_instead(
    tasks: NatsTasks, inbox: Inbox, other: Connection, unique: str
) -> None:
    service = Accepting(other)
    await service.serve(unique)
    running = asyncio.create_task(tasks.execute(call(budget=600)))
    request = await asyncio.wait_for(service.requests.get(), 10)
    second = Accepting(other)
    await other.subscribe(second.subject, cb=second.calls.put)
    await other.flush()
    await second.accept(request)
    _, asked = await second.asked()
    assert asked == {"steps": ["1-43"], "cancel": []}
    assert (worker_of(inbox), tasks.roll_call.workers) == (second.subject, 1)
    await other.publish(request.reply, b"")
    assert await asyncio.wait_for(running, 20) == Answer()


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


async def test_a_bus_outage_loses_no_worker(own_server: NatsServer, opened: Any) -> None:
    """V4, B6: what was accepted is held like everything else, and called again once it is accepted again."""
    connection, other = await opened(own_server.url), await opened(own_server.url)
    inbox = Inbox(connection)
    await inbox.start()
    tasks = NatsTasks(connection, inbox, roll_call_seconds=0.1)
    service = Accepting(other)
    await service.serve("task")
    running = asyncio.create_task(tasks.execute(call(budget=600)))
    msg, _ = await service.asked()
    await other.publish(msg.reply, b'{"running":["1-43"]}')
    back = [asyncio.Event(), asyncio.Event()]
    connection.on_reconnect(back[0].set)
    other.on_reconnect(back[1].set)
    await own_server.kill()
    with pytest.raises(BusAway):
        await asyncio.wait_for(running, 10)
    assert (tasks.lost, tasks.roll_call.workers) == (0, 0)
    await own_server.start()
    for event in back:
        await asyncio.wait_for(event.wait(), 20)
    await other.flush()
    while not service.requests.empty():
        service.requests.get_nowait()
    running = asyncio.create_task(tasks.execute(call(budget=600)))
    request = await asyncio.wait_for(service.requests.get(), 10)
    await other.publish(request.reply, b"")
    assert await asyncio.wait_for(running, 10) == Answer()


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
