"""Requests to the service: connect when needed, send, and send again where that is safe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import msgspec
from nats.aio.client import Client as Nats

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import DwarfError, TimedOut, Unavailable
from dwarf_nats.telemetry.context import carried
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.codec import encode
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.headers import percent_encode
from dwarf_nats.wire.refusals import decode_error
from dwarf_nats.wire.subjects import Subjects

from . import connection
from .codec_messages import sealed_request
from .request_reply import NoResponders, NotSent, ReplyLost, RequestChannel, wait_connected

if TYPE_CHECKING:
    from types import TracebackType

    from .claim_checks import ClaimChecks
    from .codec import Codec

log = logging.getLogger("dwarf_nats.sdk")

WAIT_SLICE_SECONDS = 10.0
"""Time of waiting asked for in one request, so that a replica that is killed in the middle costs no more than this."""
RETRY_BACKOFF = Backoff(0.05, 2, 1.0)
"""Pauses before a request is sent again, and between the requests of a wait while the service is unavailable."""


class Requester:
    """Sends requests over a connection that it opens when needed. Base of `Client`."""

    def __init__(
        self,
        nc: Nats | None,
        *,
        options: ConnectOptions,
        prefix: str,
        name: str,
        timeout: float,
        patience: float,
        actor: str = "",
        codec: Codec | None = None,
    ) -> None:
        self.subjects = Subjects(prefix=prefix)
        self._given = nc
        self._nc: Nats | None = nc
        self._options = options
        self._name = name
        self._actor = actor
        self._codec = codec
        self._claim_checks: ClaimChecks | None = None
        self._timeout = timeout
        self._patience = patience
        self._requests: RequestChannel | None = None if nc is None else RequestChannel(nc)
        self._opening = asyncio.Lock()
        self._closed = False

    async def connect(self) -> Self:
        """Connect now instead of at the first request. Raises `Unavailable` if no NATS server answers.

        Example: `client = await Client(url).connect()`
        """
        await self._channel()
        return self

    async def close(self) -> None:
        """Close the connection, unless it was given to this client. Requests under way raise `Unavailable`.

        Example: `await client.close()`
        """
        self._closed = True
        requests, self._requests = self._requests, None
        if requests is not None:
            with contextlib.suppress(Exception):
                await requests.close()
        if self._given is None and self._nc is not None and not self._nc.is_closed:
            await self._nc.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def nc(self) -> Nats:
        """The NATS connection. Raises `Unavailable` before `connect`."""
        if self._nc is None:
            raise Unavailable("not connected yet: use `async with Client(…)` or await client.connect()")
        return self._nc

    async def _channel(self) -> RequestChannel:
        """The channel to send requests over; connects if there is no open connection."""
        if self._requests is not None and not self.nc.is_closed:
            return self._requests
        async with self._opening:
            if self._closed:
                raise Unavailable("this client is closed")
            if self._requests is not None and not self.nc.is_closed:
                return self._requests
            if self._given is not None:
                raise Unavailable("the NATS connection this client was given is closed")
            self._nc = await connection.connect(self._options, self._name, disconnected=self._on_disconnect)
            self._requests = RequestChannel(self._nc)
            return self._requests

    async def _on_disconnect(self) -> None:
        if self._requests is not None:
            self._requests.lose_all()

    async def request(
        self,
        operation: str,
        body: bytes = b"{}",
        *,
        actor: str = "",
        idempotency_key: str = "",
        wait_seconds: float = 0.0,
    ) -> bytes:
        """Send a request of the wire as it is, `flow.cancel` for example, and return the JSON text of the reply as it is.

        `actor` goes into `Dwarf-Actor`, in place of the client's. `wait_seconds`: time the service may take on purpose. Raises
        the refusal of the service.

        Example: `body = await client.request("flow.list", b'{"limit": 5}')`
        """
        from dwarf_nats.wire.operations import REPEATABLE

        headers = {h.ACTOR: percent_encode(actor)} if actor else {}
        return await self._send(
            operation,
            body,
            wait_seconds=wait_seconds,
            repeatable=operation in REPEATABLE,
            idempotency_key=idempotency_key,
            headers=headers,
        )

    async def _read(self, operation: str, message: msgspec.Struct | bytes) -> bytes:
        """Return the body of the reply to a request that may be repeated without harm."""
        return await self._request(operation, message, repeatable=True)

    async def _request(
        self,
        operation: str,
        message: msgspec.Struct | bytes,
        *,
        wait_seconds: float = 0.0,
        repeatable: bool = False,
        retry_unavailable: bool = False,
        idempotency_key: str = "",
    ) -> bytes:
        """Return the body of the reply to a request, as `_send` does.

        With a codec it is sealed on the way and opened here; with claim checks, large values go by the object store (B9, B10).
        """
        if not isinstance(message, bytes):
            if self._codec is not None:
                message = sealed_request(self._codec, message)
            if self._claim_checks is not None:
                await self._channel()
                message = await self._claim_checks.claimed_request(self.nc, message)
        payload = message if isinstance(message, bytes) else encode(message)
        reply = await self._send(
            operation,
            payload,
            wait_seconds=wait_seconds,
            repeatable=repeatable,
            retry_unavailable=retry_unavailable,
            idempotency_key=idempotency_key,
        )
        if self._claim_checks is not None:
            reply = await self._claim_checks.resolved(self.nc, reply)
        return reply if self._codec is None else self._codec.open_all(reply)

    async def _send(
        self,
        operation: str,
        payload: bytes,
        *,
        wait_seconds: float = 0.0,
        repeatable: bool = False,
        retry_unavailable: bool = False,
        idempotency_key: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the body of the reply to a request. The current span, if there is one, is its parent (T2).

        `wait_seconds`: time the service may take on purpose. `repeatable`: repeating the request does no harm, so it is
        sent again if its reply was lost. `retry_unavailable`: it is sent again after a 503, too. `idempotency_key` goes
        into `Nats-Msg-Id`. Raises the refusal of the service.
        """
        headers = {name: percent_encode(value) for name, value in carried().items()} | dict(headers or {})
        if self._actor:
            headers.setdefault(h.ACTOR, percent_encode(self._actor))
        if idempotency_key:
            headers["Nats-Msg-Id"] = percent_encode(idempotency_key)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._patience
        failures, delivered = 0, False
        while True:
            try:
                return await self._request_once(operation, payload, headers or None, wait_seconds=wait_seconds, end=end)
            except ReplyLost as error:
                failure = Unavailable(
                    f"{operation}: {error}; it may or may not have been carried out", cause="reply_lost"
                )
                if not repeatable or loop.time() >= end:
                    raise failure from None
                delivered = True
            except Unavailable as error:
                # If nobody answers, raise at once, unless somebody was there a moment ago.
                retry = delivered if error.details.get("cause") == "no_responders" else retry_unavailable
                if not retry or loop.time() + RETRY_BACKOFF.delay(failures) >= end:
                    raise
                delivered = True
            await asyncio.sleep(RETRY_BACKOFF.delay(failures))
            failures += 1

    async def _request_once(
        self, operation: str, payload: bytes, headers: dict[str, str] | None, *, wait_seconds: float, end: float
    ) -> bytes:
        """Send a request and return the body of its reply; wait until the loop time `end` for a lost connection."""
        subject = self.subjects.operation(operation)
        loop = asyncio.get_running_loop()
        while True:
            requests = await self._channel()
            try:
                reply = await requests.ask(subject, payload, headers, wait_seconds + self._timeout)
            except NoResponders:
                raise Unavailable(self._nobody_answers(), cause="no_responders") from None
            except NotSent:
                left = end - loop.time()
                if left <= 0 or not (await wait_connected(self.nc, left) or self.nc.is_closed):
                    raise Unavailable("the connection to NATS is down; it comes back by itself") from None
                continue
            refusal = decode_error(reply.headers, reply.data)
            if refusal is not None:
                raise refusal
            return reply.data

    def _nobody_answers(self) -> str:
        prefix = self.subjects.prefix
        return f"no dwarf-nats replica answers on {prefix}.>; start one with `dwarf-nats serve`"


class WaitDeadline:
    """The time left of a wait for a flow, and the time during which it tolerates that the service is unavailable.

    `timeout`: seconds of the wait, `None` for no limit. `patience`: seconds in a row without the service.
    """

    def __init__(self, timeout: float | None, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = math.inf if timeout is None else self._loop.time() + max(0.0, timeout)
        self._patience = patience
        self._was_reached = False
        self._away_since: float | None = None
        self._failures = 0

    @property
    def seconds_left(self) -> float:
        """Seconds until the end of the wait; infinite without a limit."""
        return max(0.0, self._end - self._loop.time())

    @property
    def slice_seconds(self) -> float:
        """Seconds to ask for in the next request."""
        return min(self.seconds_left, WAIT_SLICE_SECONDS)

    @property
    def is_over(self) -> bool:
        """True when less than a millisecond is left, the smallest time the wire can say."""
        return self.seconds_left < 0.001

    def service_answered(self) -> None:
        """Note that the service is available."""
        self._was_reached, self._away_since, self._failures = True, None, 0

    async def pause_or_raise(self, error: DwarfError) -> None:
        """Pause because the service is unavailable, or raise `error` if it has been for too long.

        If nobody answers the very first request, the error is raised at once, since there may never have been a service.
        """
        now = self._loop.time()
        if self._away_since is None:
            self._away_since = now
        first = not self._was_reached and error.details.get("cause") == "no_responders"
        if first or self.is_over or now - self._away_since > self._patience:
            raise error
        self._was_reached = True
        log.debug("still waiting: %s", error)
        await asyncio.sleep(min(RETRY_BACKOFF.delay(self._failures), self.seconds_left))
        self._failures += 1


def wait_timed_out(flow_key: str, timeout: float | None) -> TimedOut:
    """The 408 of a wait. `timeout` in seconds."""
    after = "" if timeout is None else f" after {timeout:g} s"
    return TimedOut(
        f"the flow is still going{after}; wait again with its key, or use a longer timeout", flow_key=flow_key
    )
