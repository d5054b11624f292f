"""Replies and refusals by themselves, without a server (wire: section 1)."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.endpoints import Endpoint, endpoints
from dwarf_nats.bus.responder import Responder
from dwarf_nats.errors import BadRequest, TooLarge, TooMany
from dwarf_nats.ports import BusAway
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire.subjects import Subjects


class Wire:
    """In place of a connection: keeps what is sent."""

    def __init__(self, max_payload: int = 1_000) -> None:
        self.max_payload = max_payload
        self.away = False
        self.sent: list[tuple[str, bytes, bytes]] = []

    def fits(self, block: bytes, body: bytes) -> bool:
        return len(block) + len(body) <= self.max_payload

    def send(self, subject: str, reply: str, block: bytes, body: bytes) -> None:
        if self.away:
            raise BusAway("gone")
        assert not reply
        self.sent.append((subject, block, body))


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def responder(wire: Wire, counters: Counters) -> Responder:
    return Responder(cast("Connection", wire), counters)


@pytest.fixture
def endpoint() -> Endpoint:
    return next(one for one in endpoints(Subjects()) if one.operation.name == "flow.start")


def test_a_reply_is_sent_if_the_server_takes_it(responder: Responder, wire: Wire, endpoint: Endpoint) -> None:
    responder.reply(endpoint, b"_INBOX.a", b"{}")
    with pytest.raises(TooLarge, match="over the NATS server's max_payload of 1000"):
        responder.reply(endpoint, b"_INBOX.a", b"x" * (responder.max_reply_bytes() + 1))
    assert wire.sent == [("_INBOX.a", b"", b"{}")]
    assert endpoint.stats.errors == 0


def test_a_refusal_is_sent_and_counted(
    responder: Responder, wire: Wire, counters: Counters, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    responder.refuse(endpoint, b"_INBOX.a", TooMany("later"))
    ((subject, block, body),) = wire.sent
    assert (subject, b"429" in block, b"later" in body) == ("_INBOX.a", True, True)
    assert counters.refused[("flow.start", "429")] == endpoint.stats.errors == 1
    assert caplog.messages == []


async def test_refusals_without_a_reply_subject_are_logged_as_one_line(
    responder: Responder, wire: Wire, counters: Counters, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            responder.refuse(endpoint, b"", BadRequest("no"))
        responder.flush_log()
    assert caplog.messages[0] == "flow.start without a reply subject: 400:no"
    assert "and 1 more like it" in caplog.messages[1]
    assert len(caplog.messages) == 2
    assert (wire.sent, counters.refused[("flow.start", "400")]) == ([], 3)


async def test_a_lost_request_counts_as_lost_and_as_refused(
    responder: Responder, counters: Counters, endpoint: Endpoint
) -> None:
    responder.lose(endpoint, TooMany("full"))
    responder.flush_log()
    assert counters.lost_requests[("flow.start",)] == counters.refused[("flow.start", "429")] == 1


async def test_a_reply_subject_that_must_not_be_used_gets_nothing(
    responder: Responder, wire: Wire, endpoint: Endpoint
) -> None:
    responder.refuse_reply_subject(endpoint, "it is a subject of the service")
    responder.flush_log()
    assert (wire.sent, endpoint.stats.last_error) == ([], "400:it is a subject of the service")


def test_a_connection_that_is_gone_is_no_error(responder: Responder, wire: Wire, endpoint: Endpoint) -> None:
    wire.away = True
    responder.reply(endpoint, b"_INBOX.a", b"{}")
    responder.refuse(endpoint, b"_INBOX.a", TooMany("later"))
    assert wire.sent == []
