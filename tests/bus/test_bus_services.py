"""Requests and messages of graphs over a real NATS server (N3, N4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.inbox import Inbox
from dwarf_nats.bus.services import NatsServices
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.ports import BusAway
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.answer import Disposition
from dwarf_nats.workflow.services import ServiceCall, ServiceReply

SOON = 20.0


def call(subject: str, payload: bytes = b"", budget: float = 10.0, message_id: str = "1-42-0") -> ServiceCall:
    return ServiceCall(
        name=subject, subject=subject, payload=payload, headers=[("Shop", "north")], flow_id="1-7", step_id="1-42",
        message_id=message_id, attempt=0, deadline=0, budget=budget,
    )  # fmt: skip


def failed(reply: ServiceReply) -> tuple[int, Disposition, str]:
    assert reply.error is not None
    return reply.error.code, reply.disposition, reply.cause


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


@pytest.fixture
def services(connection: Connection, inbox: Inbox) -> NatsServices:
    return NatsServices(connection, inbox, Subjects())


async def serve(other: Connection, subject: str, answer: Callable[[Msg], Awaitable[None]]) -> None:
    await other.subscribe(subject, cb=answer)
    await other.flush()


async def test_a_plain_service_is_asked_and_its_reply_taken(
    services: NatsServices, other: Connection, unique: str
) -> None:
    """N3: payload as it is, headers, a reply of JSON."""
    asked: list[Msg] = []

    async def answer(msg: Msg) -> None:
        asked.append(msg)
        await msg.respond(b'{"price": 12.50}')

    await serve(other, unique, answer)
    reply = await services.request(call(unique, b"give me a quote"))
    assert reply.value is not None
    assert (reply.error, bytes(reply.value)) == (None, b'{"price": 12.50}')
    (message,) = asked
    assert message.data == b"give me a quote"
    headers = message.headers or {}
    assert (headers["Shop"], headers["Dwarf-Step-Id"], headers["Nats-Msg-Id"]) == ("north", "1-42", "1-42-0")


async def test_nobody_listening_trips_the_breaker(services: NatsServices, unique: str) -> None:
    """N3, V4."""
    reply = await services.request(call(unique))
    assert failed(reply) == (503, Disposition.BREAKER, "no_responders")
    assert reply.error is not None
    assert unique in reply.error.message


async def test_a_services_own_status_header_is_not_the_servers(
    services: NatsServices, other: Connection, unique: str
) -> None:
    async def answer(msg: Msg) -> None:
        await other.publish(msg.reply, b"", headers={"Status": "503"})

    await serve(other, unique, answer)
    assert await services.request(call(unique)) == ServiceReply()


async def test_no_reply_before_the_deadline_is_a_408(services: NatsServices, other: Connection, unique: str) -> None:
    """N3, X3."""

    async def answer(msg: Msg) -> None:
        pass

    await serve(other, unique, answer)
    assert failed(await services.request(call(unique, budget=0.05))) == (408, Disposition.ERROR, "timeout")


async def test_a_message_over_max_payload_is_not_sent(
    services: NatsServices, connection: Connection, unique: str
) -> None:
    """N3: 413 that names both sizes; the server would cut the connection."""
    large = call(unique, b"x" * connection.max_payload)
    for reply in (await services.request(large), await services.publish(large, stream=False)):
        assert failed(reply) == (413, Disposition.ERROR, "too_large")
        assert reply.error is not None
        assert str(connection.max_payload) in reply.error.message
    assert connection.is_connected


@pytest.mark.parametrize("subject", ["dwarf.flow.run", "task.x", "a b", "a.*", "$SYS.x", "a..b", "_INBOX.x"])
async def test_a_subject_no_graph_may_send_to_is_refused(services: NatsServices, subject: str) -> None:
    """N3, N4: nothing is sent."""
    for reply in (
        await services.request(call(subject)),
        await services.publish(call(subject), stream=False),
        await services.publish(call(subject), stream=True),
    ):
        assert failed(reply) == (400, Disposition.ERROR, "not_sent")
        assert reply.error is not None
        assert repr(subject) in reply.error.message


async def test_the_inbox_prefix_of_the_connection_is_refused(
    nats_server: NatsServer, opened: Callable[..., Awaitable[Connection]]
) -> None:
    """N3."""
    connection = await opened(nats_server.url, inbox_prefix="replies.here")
    services = NatsServices(connection, Inbox(connection), Subjects())
    assert "replies" in services.refuses("replies.here.abc.def")
    assert services.refuses("replies.there.abc") == ""


async def test_a_plain_message_reaches_whoever_listens(services: NatsServices, other: Connection, unique: str) -> None:
    """N4: it does not matter whether anybody does."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    assert await services.publish(call(unique, b"1"), stream=False) == ServiceReply()
    await serve(other, unique, heard.put)
    assert await services.publish(call(unique, b"2"), stream=False) == ServiceReply()
    async with asyncio.timeout(SOON):
        message = await heard.get()
    assert (message.data, message.reply, heard.qsize()) == (b"2", "", 0)
    assert "Dwarf-Deadline" not in (message.headers or {})


async def test_many_messages_at_once_all_arrive(services: NatsServices, other: Connection, unique: str) -> None:
    """N4: they share their confirmations."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await serve(other, unique, heard.put)
    replies = await asyncio.gather(*(services.publish(call(unique, b"%d" % n), stream=False) for n in range(500)))
    assert replies == [ServiceReply()] * 500
    async with asyncio.timeout(SOON):
        assert {(await heard.get()).data for _ in range(500)} == {b"%d" % n for n in range(500)}


async def test_nothing_is_sent_or_kept_while_the_connection_is_down(
    own_server: NatsServer, opened: Callable[..., Awaitable[Connection]]
) -> None:
    """N3, N4, B6: the step is held, and the message does not go out later by itself."""
    connection = await opened(own_server.url)
    inbox = Inbox(connection)
    await inbox.start()
    services = NatsServices(connection, inbox, Subjects())
    gone, back = asyncio.Event(), asyncio.Event()
    connection.on_disconnect(gone.set)
    connection.on_reconnect(back.set)
    await own_server.stop()
    async with asyncio.timeout(SOON):
        await gone.wait()
    for attempt in (
        services.request(call("a")),
        services.publish(call("a"), stream=False),
        services.publish(call("a"), stream=True),
    ):
        with pytest.raises(BusAway):
            await attempt
    await own_server.start()
    async with asyncio.timeout(SOON):
        await back.wait()
    with pytest.raises(BusAway, match="just come back"):
        await services.request(call("a"))
    assert await services.publish(call("a"), stream=False) == ServiceReply()


async def test_a_message_under_way_when_the_connection_drops_is_in_doubt(
    own_server: NatsServer, opened: Callable[..., Awaitable[Connection]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """N4: the server has not confirmed it, so it is sent again."""
    connection = await opened(own_server.url)
    inbox = Inbox(connection)
    await inbox.start()
    services = NatsServices(connection, inbox, Subjects())
    flushing = asyncio.Event()

    async def never() -> None:
        flushing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(connection, "flush", never)
    under_way = [asyncio.create_task(services.publish(call("a"), stream=False)) for _ in range(2)]
    await flushing.wait()
    under_way.append(asyncio.create_task(services.publish(call("b"), stream=False)))
    await asyncio.sleep(0)
    await own_server.stop()
    async with asyncio.timeout(SOON):
        ended = await asyncio.gather(*under_way, return_exceptions=True)
    assert [type(one) for one in ended] == [BusAway] * 3


# --- streams ---


@pytest.fixture
async def jetstream() -> AsyncIterator[NatsServer]:
    async with NatsServer(jetstream=True) as server:
        yield server


@pytest.fixture
async def stored(
    jetstream: NatsServer, opened: Callable[..., Awaitable[Connection]]
) -> tuple[NatsServices, Connection]:
    """Services on a server with the stream ORDERS on `orders.>`, and another connection."""
    connection, other = await opened(jetstream.url), await opened(jetstream.url)
    inbox = Inbox(connection)
    await inbox.start()
    await other.jetstream().add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"], max_msg_size=1000))
    return NatsServices(connection, inbox, Subjects()), other


async def test_a_stream_stores_a_message_once_however_often_it_is_sent(
    stored: tuple[NatsServices, Connection],
) -> None:
    """N4: the acknowledgement of a duplicate counts."""
    services, other = stored
    for _ in range(3):
        assert await services.publish(call("orders.shipped", b"o-1"), stream=True) == ServiceReply()
    info = await other.jetstream().stream_info("ORDERS")
    assert info.state.messages == 1
    assert await services.publish(call("orders.shipped", b"o-1", message_id="1-42-1"), stream=True) == ServiceReply()
    assert (await other.jetstream().stream_info("ORDERS")).state.messages == 2


async def test_no_stream_for_the_subject_is_as_no_responders(stored: tuple[NatsServices, Connection]) -> None:
    """N4."""
    services, _ = stored
    reply = await services.publish(call("elsewhere", b"o-1"), stream=True)
    assert failed(reply) == (503, Disposition.BREAKER, "no_responders")
    assert reply.error is not None
    assert "no JetStream stream captures elsewhere" in reply.error.message


async def test_a_stream_that_refuses_is_an_error_with_its_code(stored: tuple[NatsServices, Connection]) -> None:
    """N4."""
    services, _ = stored
    reply = await services.publish(call("orders.shipped", b"x" * 2000), stream=True)
    assert failed(reply) == (400, Disposition.ERROR, "")
    assert reply.error is not None
    assert "message size exceeds" in reply.error.message
    assert reply.error.extra == {"errCode": 10054}


async def test_a_subscriber_that_answers_first_is_not_the_stream(stored: tuple[NatsServices, Connection]) -> None:
    """N4: only the stream's acknowledgement counts."""
    services, other = stored

    async def answer(msg: Msg) -> None:
        await msg.respond(b"thank you")

    await serve(other, "orders.>", answer)
    await serve(other, "elsewhere", answer)
    assert await services.publish(call("orders.shipped", b"o-1"), stream=True) == ServiceReply()
    reply = await services.publish(call("elsewhere", b"o-1", budget=0.2), stream=True)
    assert failed(reply) == (502, Disposition.ERROR, "timeout")
    assert reply.error is not None
    assert "thank you" in reply.error.message


async def test_a_request_whose_subject_a_stream_captures_waits_for_the_service(
    stored: tuple[NatsServices, Connection],
) -> None:
    """N3: the stream's acknowledgement is no reply; the error at the deadline tells the remedy."""
    services, other = stored
    reply = await services.request(call("orders.quote", budget=0.2))
    assert failed(reply) == (408, Disposition.ERROR, "timeout")
    assert reply.error is not None
    for word in ("'ORDERS'", "orders.quote", "stream: true"):
        assert word in reply.error.message

    async def answer(msg: Msg) -> None:
        await msg.respond(b"7")

    await serve(other, "orders.quote", answer)
    reply = await services.request(call("orders.quote"))
    assert reply.value is not None
    assert bytes(reply.value) == b"7"
