"""Requests and replies over one NATS connection: one inbox for all, and an error for each kind of loss (wire section 2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nats.errors
from nats.aio.client import Client as Nats

from dwarf_nats.errors import TooLarge, Unavailable
from dwarf_nats.nats_client import INBOX_REMEDY, forbidden, watch_refusals
from dwarf_nats.round_trips import RoundTrips
from dwarf_nats.wire.streams import CaptureWarnings, describe_capture, recorded_by
from dwarf_nats.wire.tokens import Tokens
from dwarf_nats.wire.violations import Violation

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

log = logging.getLogger("dwarf_nats.sdk")

# The bytes that nats-py writes around the headers, and between name and value of each.
_HEADER_FRAME = len(b"NATS/1.0\r\n\r\n")
_HEADER_LINE = len(b": \r\n")
LOSS_POLL_SECONDS = 0.05
"""Pause between two looks whether a connection of the user's has been lost."""
# The headers of the server's report that nobody listens.
_SERVERS_OWN = frozenset({"Status", "Description", "Nats-Subject"})


class NoResponders(Exception):
    """Nobody has subscribed to the subject: the request was not delivered."""


class ReplyLost(Exception):
    """The connection was lost, or no reply came in time: whether the request was carried out is unknown."""


class NotSent(Exception):
    """The connection is down: the request was not sent."""


def message_size(payload: bytes, headers: Mapping[str, str] | None) -> int:
    """The bytes of a message that count for the server's `max_payload`: headers and payload."""
    if not headers:
        return len(payload)
    return len(payload) + _HEADER_FRAME + sum(len(k) + len(v.encode()) + _HEADER_LINE for k, v in headers.items())


def check_size(nc: Nats, payload: bytes, headers: Mapping[str, str] | None, what: str) -> None:
    """Raise `TooLarge` for a message because of which the server would close the connection. `what` names it."""
    size, limit = message_size(payload, headers), nc.max_payload
    if limit and size > limit:
        raise TooLarge(
            f"{what} has {size} bytes, the NATS server's max_payload is {limit}: send less, or raise max_payload",
            size=size,
            limit=limit,
        )


@dataclass(slots=True)
class _Waiter:
    """A request that waits for its reply. `stream`: the JetStream stream that has acknowledged it meanwhile."""

    subject: str
    reply: asyncio.Future[Msg]
    stream: str = ""


class RequestChannel:
    """Sends requests and gives each its reply."""

    def __init__(self, nc: Nats) -> None:
        self._nc = nc
        self._pending: dict[str, _Waiter] = {}
        self._streams = CaptureWarnings(log)
        self._refused: Violation | None = None
        self._known: asyncio.Future[None] | None = None
        self._unwatch = watch_refusals(nc, self._on_refused)
        self._sub: Subscription | None = None
        self._prefix = ""
        self._tokens = Tokens()
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Subscribe to the inbox unless that has been done; the server has the subscription when this returns.

        Raises `Forbidden` if permissions refuse it, `NotSent` if the connection goes away.
        """
        async with self._opening:
            if self._sub is not None and self._refused is not None:  # permissions may have been changed since
                old, self._sub = self._sub, None
                await old.unsubscribe()
            if self._sub is None:
                self._refused = None
                prefix = self._nc.new_inbox()
                self._prefix = f"{prefix}."
                self._sub = await self._nc.subscribe(
                    f"{prefix}.*", cb=self._on_reply, pending_msgs_limit=0, pending_bytes_limit=0
                )
                await self._until_known()
            if self._refused is not None:
                raise forbidden(self._nc, self._refused, INBOX_REMEDY)

    async def _until_known(self) -> None:
        """Wait until the server has the inbox: otherwise a request could be carried out, and its reply be lost."""
        known = self._known = asyncio.ensure_future(round_trip(self._nc))
        try:
            await asyncio.wait({known})
            if known.cancelled() or known.exception() is not None:
                raise NotSent("the connection to NATS went away")
        finally:
            known.cancel()
            self._known = None

    async def close(self) -> None:
        """Unsubscribe from the inbox; requests that still wait raise `ReplyLost`."""
        self._unwatch()
        self.lose_all()
        sub, self._sub = self._sub, None
        if sub is not None and not (self._nc.is_closed or self._nc.is_draining):
            await sub.unsubscribe()

    def lose_all(self) -> None:
        """Make all requests under way raise `ReplyLost`, because the connection was lost."""
        if self._known is not None:
            self._known.cancel()
        for one in self._pending.values():
            if not one.reply.done():
                one.reply.set_exception(ReplyLost("the connection to NATS went away before the reply came"))

    def _on_refused(self, violation: Violation) -> bool:
        """Make the request fail that permissions refused, or all requests if the inbox was refused.

        Of several requests to one subject, the last one without a reply is meant: the others were sent before the permissions
        changed.
        """
        if not violation.publish:
            if self._prefix and violation.concerns(f"{self._prefix}*"):
                self._refused = violation
                for one in self._pending.values():
                    if not one.reply.done():
                        one.reply.set_exception(ReplyLost(str(forbidden(self._nc, violation, INBOX_REMEDY))))
                return True
            return False
        for inbox, one in reversed(self._pending.items()):
            if violation.concerns(inbox if violation.as_reply else one.subject) and not one.reply.done():
                one.reply.set_exception(forbidden(self._nc, violation))
                return True
        return False

    async def ask(self, subject: str, payload: bytes, headers: dict[str, str] | None, seconds: float) -> Msg:
        """Send a request and return its reply, a refusal included. `seconds`: the longest wait for it.

        Raises `NoResponders`, `NotSent`, `ReplyLost`, `TooLarge` for a message beyond the server's limit, and `Forbidden` if
        permissions refuse it.
        """
        check_size(self._nc, payload, headers, f"the request to {subject}")
        if not self._nc.is_connected:
            raise NotSent
        try:
            if self._sub is None or self._refused is not None:
                await self.open()
            inbox = f"{self._prefix}{self._tokens.next()}"
            waiter = self._pending[inbox] = _Waiter(subject, asyncio.get_running_loop().create_future())
            try:
                await self._nc.publish(subject, payload, reply=inbox, headers=headers)
                async with asyncio.timeout(seconds):
                    reply = await waiter.reply
            except TimeoutError:
                why = f"; {describe_capture(waiter.stream, _all_of(subject))}" if waiter.stream else ""
                raise ReplyLost(f"no reply within {seconds:.3g} s{why}") from None
            finally:
                del self._pending[inbox]
        except (nats.errors.OutboundBufferLimitError, nats.errors.ConnectionClosedError) as error:
            raise NotSent(str(error)) from None
        except nats.errors.ConnectionDrainingError:
            raise Unavailable("this connection to NATS is being closed") from None
        if is_no_responders(reply):
            raise NoResponders(subject)
        return reply

    async def _on_reply(self, msg: Msg) -> None:
        waiter = self._pending.get(msg.subject)
        if waiter is None or waiter.reply.done():
            return
        stream = "" if msg.headers else recorded_by(None, msg.data)
        if not stream:
            waiter.reply.set_result(msg)
            return
        waiter.stream = stream
        self._streams.warn(stream, _all_of(waiter.subject))


def _all_of(subject: str) -> str:
    """The subject and its neighbours, as a wildcard."""
    return f"{subject.rpartition('.')[0] or subject}.>"


def is_no_responders(msg: Msg) -> bool:
    """True for the server's own 503, which has nothing but a status; services use `Nats-Service-Error-Code`."""
    headers = msg.headers
    return not msg.data and headers is not None and headers.get("Status") == "503" and headers.keys() <= _SERVERS_OWN


async def wait_connected(nc: Nats, seconds: float, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> bool:
    """Wait at most `seconds` for a lost connection to come back; returns whether it did."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not nc.is_connected:
        if nc.is_closed or loop.time() >= end:
            return False
        await pause(0.02)
    return True


async def round_trip(nc: Nats) -> None:
    """Return when the server has read everything sent before. Raises `nats.errors.Error`, at once if the connection is lost.

    nats-py's `flush` writes its PING before data that still waits to be written (measured with 2.16: a subscription made
    just before is unknown to the server when `flush` returns). The second PING comes after all of it.
    """
    if isinstance(nc, RoundTrips):
        await nc.flush()
        return
    for _ in range(2):
        await _flush_or_lose(nc)


async def _flush_or_lose(nc: Nats) -> None:
    """Flush a connection that nats-py made. It would wait ten seconds for a PONG that was lost with the connection."""
    reconnects = nc.stats["reconnects"]
    flushing = asyncio.ensure_future(nc.flush())
    try:
        while not flushing.done():
            await asyncio.wait({flushing}, timeout=LOSS_POLL_SECONDS)
            if not flushing.done() and (nc.stats["reconnects"] != reconnects or not nc.is_connected):
                raise nats.errors.ConnectionReconnectingError
        flushing.result()
    finally:
        flushing.cancel()
