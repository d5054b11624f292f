"""Asking the service: sending, sending again where that is safe, and telling one kind of silence from another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING, Self

import msgspec
from nats.aio.client import Client as Nats

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import DwarfError, TimedOut, Unavailable
from dwarf_nats.telemetry.context import carried
from dwarf_nats.wire.codec import encode
from dwarf_nats.wire.connecting import ConnectOptions
from dwarf_nats.wire.headers import percent_encode
from dwarf_nats.wire.subjects import Subjects

from . import connection
from .replies import refusal
from .request_reply import NoResponders, NotSent, ReplyLost, RequestChannel, wait_connected

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger("dwarf_nats.sdk")

WAIT_SLICE = 10.0
"""Seconds of waiting asked for in one request: a replica that was killed in the middle costs no more than this."""
RETRY_BACKOFF = Backoff(0.05, 2, 1.0)
"""Pauses before a request is sent again, and before the next request of a wait while the service is away."""


class Requester:
    """A connection and the manners of asking over it. Base of `Client`."""

    def __init__(
        self, nc: Nats | None, options: ConnectOptions, prefix: str, name: str, timeout: float, patience: float
    ) -> None:
        self.subjects = Subjects(prefix=prefix)
        self._given = nc
        self._nc: Nats | None = nc
        self._options = options
        self._name = name
        self._timeout = timeout
        self._patience = patience
        self._requests: RequestChannel | None = None if nc is None else RequestChannel(nc)
        self._opening = asyncio.Lock()
        self._done = False

    async def connect(self) -> Self:
        """Connect now instead of at the first request. Raises `Unavailable` if no NATS server answers."""
        await self._ready()
        return self

    async def close(self) -> None:
        """Close the connection, if it is ours. Requests under way raise `Unavailable`."""
        self._done = True
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

    async def _ready(self) -> RequestChannel:
        if self._requests is not None and not self.nc.is_closed:
            return self._requests
        async with self._opening:
            if self._done:
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

    async def _ask(
        self,
        operation: str,
        message: msgspec.Struct | bytes,
        *,
        wait: float = 0.0,
        again: bool = False,
        patient: bool = False,
        key: str = "",
    ) -> bytes:
        """The body of the reply.

        `wait`: seconds the service may take on purpose. `again`: asking twice does no harm, so a lost reply is asked
        for again. `patient`: so is a 503. `key`: goes into `Nats-Msg-Id`. The current span, if there is one, goes along (T2).
        Raises the refusal of the service.
        """
        payload = message if isinstance(message, bytes) else encode(message)
        headers = {name: percent_encode(value) for name, value in carried().items()}
        if key:
            headers["Nats-Msg-Id"] = percent_encode(key)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._patience
        failures, delivered = 0, False
        while True:
            try:
                return await self._ask_once(operation, payload, headers or None, wait, end)
            except ReplyLost as error:
                failure = Unavailable(
                    f"{operation}: {error}; it may or may not have been carried out", cause="reply_lost"
                )
                if not again or loop.time() >= end:
                    raise failure from None
                delivered = True
            except Unavailable as error:
                # Nobody there is told at once, unless somebody was there a moment ago.
                worth = delivered if error.details.get("cause") == "no_responders" else patient
                if not worth or loop.time() + RETRY_BACKOFF.delay(failures) >= end:
                    raise
                delivered = True
            await asyncio.sleep(RETRY_BACKOFF.delay(failures))
            failures += 1

    async def _ask_once(
        self, operation: str, payload: bytes, headers: dict[str, str] | None, wait: float, end: float
    ) -> bytes:
        subject = self.subjects.operation(operation)
        loop = asyncio.get_running_loop()
        while True:
            requests = await self._ready()
            try:
                reply = await requests.ask(subject, payload, headers, wait + self._timeout)
            except NoResponders:
                raise Unavailable(self._nobody(), cause="no_responders") from None
            except NotSent:
                left = end - loop.time()
                if left <= 0 or not (await wait_connected(self.nc, left) or self.nc.is_closed):
                    raise Unavailable("the connection to NATS is down; it comes back by itself") from None
                continue
            refused = refusal(reply)
            if refused is not None:
                raise refused
            return reply.data

    def _nobody(self) -> str:
        prefix = self.subjects.prefix
        return f"no dwarf-nats replica answers on {prefix}.>; start one with `dwarf-nats serve`"


class WaitDeadline:
    """How long a wait may still take, and what to do about a service that is away meanwhile."""

    def __init__(self, timeout: float | None, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = math.inf if timeout is None else self._loop.time() + max(0.0, timeout)
        self._patience = patience
        self._asked = False
        self._away_since: float | None = None
        self._failures = 0

    @property
    def left(self) -> float:
        """Seconds, infinite for a wait without end."""
        return max(0.0, self._end - self._loop.time())

    @property
    def slice(self) -> float:
        """Seconds to ask for in the next request."""
        return min(self.left, WAIT_SLICE)

    @property
    def over(self) -> bool:
        # A millisecond is what the wire can say; less is over.
        return self.left < 0.001

    def answered(self) -> None:
        """The service is there."""
        self._asked, self._away_since, self._failures = True, None, 0

    async def away(self, error: DwarfError) -> None:
        """The service was away: pause, or raise the error again if that has lasted too long.

        Nobody there at the very first request is told at once, since nothing may ever have been there.
        """
        now = self._loop.time()
        if self._away_since is None:
            self._away_since = now
        first = not self._asked and error.details.get("cause") == "no_responders"
        if first or self.over or now - self._away_since > self._patience:
            raise error
        self._asked = True
        log.debug("still waiting: %s", error)
        await asyncio.sleep(min(RETRY_BACKOFF.delay(self._failures), self.left))
        self._failures += 1


def timed_out(flow_key: str, timeout: float | None) -> TimedOut:
    """The 408 of a wait."""
    after = "" if timeout is None else f" after {timeout:g} s"
    return TimedOut(
        f"the flow is still going{after}; wait again with its key, or use a longer timeout", flow_key=flow_key
    )
