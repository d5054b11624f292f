"""Requests and messages of graphs over NATS: `ports.Services` (N3, N4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import nats.errors

from dwarf_nats.ports import BusAway
from dwarf_nats.wire import services as codec
from dwarf_nats.wire.streams import describe_capture
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.services import ServiceReply

from .reconnects import Reconnects

if TYPE_CHECKING:
    from dwarf_nats.wire.violations import Violation
    from dwarf_nats.workflow.services import ServiceCall

    from .calls import Reply
    from .connection import Connection
    from .inbox import Inbox


class NatsServices:
    """Sends requests to any NATS service, and messages to subscribers or streams.

    `max_depth`: levels of nesting in a state, of which a reply becomes a field.
    """

    def __init__(
        self, connection: Connection, inbox: Inbox, subjects: Subjects | None = None, *, max_depth: int = 64
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._subjects = subjects or Subjects()
        self._max_depth = max_depth - 1  # the state is the first level
        self._reply_subject = connection.new_inbox()
        self._reconnects = Reconnects(connection)
        self._messages = _Messages(connection)

    def refuses(self, subject: str) -> str:
        """Return the reason why no graph may send anything to a subject; empty if it may."""
        return self._subjects.refuses_message(subject, self._reply_subject)

    async def request(self, call: ServiceCall) -> ServiceReply:
        """Send one request and wait for its reply until `call.budget` seconds from now.

        Raises `BusAway` if the connection is down or drops before the reply came, or if it has just come back and nobody
        listens yet.
        """
        subject = call.subject
        block = codec.encode_headers(call, deadline=True)
        if (refusal := self._refusal(call, block)) is not None:
            return refusal
        reply = await self._inbox.ask(subject, block, call.payload, call.budget)
        if reply is None:
            return codec.timed_out(subject, call.budget)
        if reply.stream:
            return codec.recorded(subject, call.budget, describe_capture(reply.stream, subject), reply.body)
        if (held := self._held(subject, reply)) is not None:
            return held
        if reply.nobody:
            return codec.no_responders(subject)
        return codec.decode_reply(subject, reply.block, reply.body, self._max_depth)

    async def publish(self, call: ServiceCall, *, stream: bool) -> ServiceReply:
        """Publish one message. Return once the server has taken it, or with `stream` once a stream has stored it.

        Raises as `request`.
        """
        block = codec.encode_headers(call, deadline=False)
        if (refusal := self._refusal(call, block)) is not None:
            return refusal
        if stream:
            return await self._publish_to_stream(call, block)
        try:
            async with asyncio.timeout(call.budget):
                permitted = await self._messages.publish(call.subject, block, call.payload)
        except TimeoutError:
            raise BusAway(f"the NATS server did not take the message on {call.subject} in {call.budget:g} s") from None
        return ServiceReply() if permitted else codec.not_permitted(call.subject, self._connection.who)

    async def _publish_to_stream(self, call: ServiceCall, block: bytes) -> ServiceReply:
        subject = call.subject
        reply = await self._inbox.ask(subject, block, call.payload, call.budget, to_stream=True)
        if reply is None:
            return codec.unacknowledged(subject, call.budget, None)
        if (held := self._held(subject, reply)) is not None:
            return held
        if reply.nobody:
            return codec.no_stream(subject)
        if not codec.is_acknowledgement(reply.body):
            return codec.unacknowledged(subject, call.budget, reply.body)
        return codec.decode_acknowledgement(subject, reply.body)

    def _refusal(self, call: ServiceCall, block: bytes) -> ServiceReply | None:
        """The reply to a message that is not sent at all."""
        if reason := self.refuses(call.subject):
            return codec.refused_subject(call.subject, reason)
        if not self._connection.fits(block, call.payload):
            return codec.too_large(call.subject, len(block) + len(call.payload), self._connection.max_payload)
        return None

    def _held(self, subject: str, reply: Reply) -> ServiceReply | None:
        """The reply if permissions refused the message. Raises `BusAway` if services have not had the time to come back."""
        if reply.nobody and self._reconnects.just_back:
            raise BusAway(f"nobody serves {subject} yet, the connection has just come back")
        return codec.not_permitted(subject, self._connection.who) if reply.refused else None


class _Message:
    """A message that was sent, until the server has taken it."""

    __slots__ = ("refused", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.refused = False


class _Messages:
    """Publishes messages and waits until the server has taken them: one PING for all that were sent before it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent: set[_Message] = set()
        self._next: asyncio.Future[None] | None = None
        self._current: asyncio.Future[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        connection.on_disconnect(self._disconnected)
        connection.on_refused(self._refused)

    async def publish(self, subject: str, block: bytes, payload: bytes) -> bool:
        """Return once the server has taken the message; false if permissions refuse it. Raises `BusAway`."""
        message = _Message(subject)
        self._sent.add(message)
        try:
            self._connection.send(subject, "", block, payload)
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
            taken = self._next
            if self._flushing is None or self._flushing.done():
                self._flushing = asyncio.create_task(self._flush())
            await asyncio.shield(taken)
        finally:
            self._sent.discard(message)
        return not message.refused

    async def _flush(self) -> None:
        while self._next is not None:
            current, self._next = self._next, None
            self._current = current
            error: Exception | None = None
            try:
                await self._connection.flush()
            except nats.errors.Error as away:
                error = BusAway(f"the NATS server did not take the message: {away}")
            _end(current, error)
        self._current = None

    def _disconnected(self) -> None:
        for waiting in (self._current, self._next):
            if waiting is not None:
                _end(waiting, BusAway("the connection to NATS dropped before the server took the message"))
        self._current = self._next = None
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None

    def _refused(self, violation: Violation) -> bool:
        if not violation.publish or violation.as_reply:
            return False
        refused = [one for one in self._sent if one.subject == violation.subject]
        for one in refused:
            one.refused = True
        return bool(refused)


def _end(waiting: asyncio.Future[None], error: Exception | None) -> None:
    if waiting.done():
        return
    if error is None:
        waiting.set_result(None)
    else:
        waiting.set_exception(error)
        waiting.exception()  # those that wait for it get the error; perhaps nobody does any more
