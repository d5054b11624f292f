"""Pulling the messages of a JetStream consumer: raw, in batches, into a bounded buffer (ADR-37's pull requests).

One pull request is under way at a time. It ends when all its messages came, or with a status of the server. Silence longer than
its heartbeats ends it, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import NamedTuple

import msgspec
import nats.errors
from nats.aio.subscription import Subscription

from dwarf_nats.errors import Unavailable
from dwarf_nats.nats_client import INBOX_REMEDY, forbidden, send_unsubscribe
from dwarf_nats.ports import BusAway
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.subjects import replica_inbox
from dwarf_nats.wire.violations import Violation

from .connection import Connection
from .jetstream import API, REMEDY
from .source_consumer import Consumer

log = logging.getLogger("dwarf_nats.bus")

BATCH = 500
"""Messages of one pull request, and of one group that is committed at once."""
MAX_BUFFERED_BYTES = 32 * 1024 * 1024
"""Bytes that the messages of one source may take here; a message may be as large as the server allows."""
EXPIRES_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 12.0
"""Silence after which a pull request is given up: two heartbeats are missing."""
_NANOS = 1_000_000_000
_ACK_PREFIX = b"$JS.ACK."


class Delivery(NamedTuple):
    """A delivered message. `at`: microseconds since the epoch. `deliveries`: how often it was delivered, this time included."""

    subject: bytes
    body: bytes
    block: bytes | None
    reply: str
    sequence: int
    deliveries: int
    at: int


class Lost(Exception):
    """The consumer cannot be pulled from any more; the text says why."""


class Pull:
    """Pulls from one consumer; `take` gives its messages in groups."""

    def __init__(self, connection: Connection, consumer: Consumer) -> None:
        self._connection = connection
        self._next = f"{API}.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}"
        self._inbox = replica_inbox(connection.new_inbox())
        self._subscription: Subscription | None = None
        self._buffer: deque[Delivery] = deque()
        self._buffered_bytes = 0
        self._token = 0
        self._requested = 0
        self._heard = 0.0
        self._arrived = asyncio.Event()
        self._lost = ""
        self._refused: Violation | None = None
        self._closing = False
        self._unlisten = connection.on_refused(self._on_refused)

    async def open(self) -> None:
        """Subscribe. Raises `Forbidden`, `Unavailable`."""
        subject = f"{self._inbox}.*"
        try:
            self._subscription = await self._connection.subscribe_raw(subject, self._receive)
            await self._connection.flush()
        except nats.errors.Error as error:
            raise Unavailable(f"the connection to NATS is down: {error}") from None
        if (violation := self._connection.refused.get((subject, ""))) is not None:
            raise forbidden(self._connection, violation, INBOX_REMEDY)

    async def close(self) -> None:
        """Pull no more, and give back what was not taken."""
        self._closing = True
        self._unlisten()
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                if self._connection.is_connected:
                    await send_unsubscribe(self._connection, self._subscription)
                    await self._connection.flush(timeout=2)
            self._connection.remove_subscription(self._subscription)
        for one in self._buffer:
            answer(self._connection, one, b"-NAK")
        self._buffer.clear()

    async def take(self) -> list[Delivery]:
        """Return the next messages as soon as there is one. Raises `Lost`, `Forbidden`."""
        while not self._buffer:
            self._raise_if_lost()
            self._ask()
            self._arrived.clear()
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                if not self._buffer and asyncio.get_running_loop().time() - self._heard >= SILENCE_SECONDS:
                    raise Lost("the server is silent") from None
        group = [self._buffer.popleft() for _ in range(min(BATCH, len(self._buffer)))]
        self._buffered_bytes -= sum(len(one.body) for one in group)
        self._ask()
        return group

    def _raise_if_lost(self) -> None:
        if self._refused is not None:
            violation, self._refused = self._refused, None
            raise forbidden(self._connection, violation, REMEDY)
        if self._lost:
            raise Lost(self._lost)

    def _ask(self) -> None:
        """Send the next pull request, if none is under way and there is room."""
        if self._requested or self._closing or self._lost or len(self._buffer) > BATCH:
            return
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            return
        self._token += 1
        request = {
            "batch": BATCH,
            "max_bytes": max(MAX_BUFFERED_BYTES, 2 * self._connection.max_payload),
            "expires": int(EXPIRES_SECONDS * _NANOS),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANOS),
        }
        try:
            self._connection.send(self._next, f"{self._inbox}.{self._token}", b"", msgspec.json.encode(request))
        except BusAway:
            self._lose("the connection to NATS is down")
            return
        self._requested = BATCH
        self._heard = asyncio.get_running_loop().time()

    # -- what the server sends

    def _receive(self, subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        self._heard = asyncio.get_running_loop().time()
        status = h.inline_status(block)
        if status is not None:
            self._on_status(subject, status, block or b"")
            return
        delivery = delivery_of(subject, reply, body, block)
        if delivery is None:
            return
        if self._closing:
            answer(self._connection, delivery, b"-NAK")
            return
        self._requested = max(0, self._requested - 1)
        self._buffer.append(delivery)
        self._buffered_bytes += len(body)
        self._arrived.set()

    def _on_status(self, subject: bytes, status: int, block: bytes) -> None:
        if status == 100 or subject.rpartition(b".")[2] != str(self._token).encode():
            return  # a heartbeat, or the end of an earlier request
        words = block.split(b"\r\n", 1)[0].partition(b" ")[2][4:].decode("utf-8", "replace")
        self._requested = 0
        if status == 503:
            self._lose("its consumer is gone, or JetStream has no leader now")
        elif status == 409 and not any(word in words for word in ("MaxBytes", "Batch Completed", "MaxAckPending")):
            self._lose(words)
        elif status not in (404, 408, 409):
            self._lose(words or f"status {status}")
        self._arrived.set()

    def _on_refused(self, violation: Violation) -> bool:
        if violation.publish and violation.concerns(self._next):
            self._refused = violation
            self._arrived.set()
            return True
        return False

    def disconnected(self) -> None:
        """Forget what was delivered and not taken: it comes again."""
        self._buffer.clear()
        self._buffered_bytes = 0
        self._lose("the connection to NATS was lost")

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why
        self._arrived.set()


def delivery_of(subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> Delivery | None:
    """Read a delivered message; `None` for what has no reply subject of JetStream.

    The reply subject is `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer's>.<nanoseconds>.<pending>`, with domain
    and account before the stream if it has more tokens.
    """
    if not reply.startswith(_ACK_PREFIX):
        return None
    tokens = reply.split(b".")
    if len(tokens) >= 11:
        tokens = tokens[2:]
    try:
        deliveries, sequence, nanos = int(tokens[4]), int(tokens[5]), int(tokens[7])
    except (IndexError, ValueError):
        return None
    return Delivery(
        subject=subject,
        body=body,
        block=block,
        reply=reply.decode("ascii", "replace"),
        sequence=sequence,
        deliveries=deliveries,
        at=nanos // 1000,
    )


def answer(connection: Connection, delivery: Delivery, word: bytes) -> None:
    """Acknowledge or refuse a message. If that does not reach the server, the message comes again."""
    with contextlib.suppress(BusAway):
        connection.send(delivery.reply, "", b"", word)


def later(seconds: float) -> bytes:
    """The word that lets a message come again after some time."""
    return b'-NAK {"delay": %d}' % int(seconds * _NANOS)
