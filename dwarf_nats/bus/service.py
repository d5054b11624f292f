"""The service `dwarf`: a responder of our own for ADR-32 over plain subscriptions (wire: section 1).

One asyncio task per request, so that nobody waits for another; a bound on how many run at once, beyond which the answer
is 429, with a bound of its own for requests that wait for flows; a drain that answers what was taken; true statistics.
Requests without a reply subject cannot be told 429: they wait for their turn in a queue that is bounded by bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import nats.errors
from nats.aio.subscription import Subscription

from dwarf_nats.errors import BadRequest, DwarfError, TimedOut, TooLarge, TooMany, Unavailable
from dwarf_nats.nats_client import forbidden, send_unsubscribe
from dwarf_nats.ports import BusAway
from dwarf_nats.settings import RequestLimits
from dwarf_nats.summed import Summed
from dwarf_nats.telemetry.context import continued
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire import discovery
from dwarf_nats.wire.refusals import encode_error
from dwarf_nats.wire.subjects import Subjects, is_acknowledgement
from dwarf_nats.wire.times import rfc3339, to_micros
from dwarf_nats.workflow.limits import over
from dwarf_nats.workflow.options import Query

from .backlog import Backlog, may_repeat
from .connection import Connection
from .endpoints import QUEUE, Endpoint, asked_from, endpoints
from .engine_api import EngineApi
from .handlers import Asked, health_of

log = logging.getLogger("dwarf_nats.bus")

NAME = "dwarf"
DESCRIPTION = "Durable workflow orchestration"
MOST_TASKS = 500
RESUBSCRIBED_SECONDS = 0.1
"""So many tasks that are held back are told of."""
_encode = msgspec.json.Encoder().encode


class Service:
    """Answers the operations with an engine.

    A request of more than `max_request_bytes` is a 413. `limits` bounds what is carried out at once; beyond it the answer is
    429.
    """

    def __init__(
        self,
        connection: Connection,
        engine: EngineApi,
        subjects: Subjects | None = None,
        *,
        service_id: str = "",
        max_request_bytes: int = 16 * 1024 * 1024,
        limits: RequestLimits | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._counters = counters if counters is not None else Counters()
        self._connection = connection
        self._engine = engine
        self._subjects = subjects or Subjects()
        self.id = service_id or secrets.token_hex(11)
        limits = limits if limits is not None else RequestLimits()
        self._most_bytes = max_request_bytes
        self._bounds = {False: limits.max_requests, True: limits.max_waiting}
        self._busy: dict[bool, set[asyncio.Task[None]]] = {False: set(), True: set()}
        self._queued_bytes = limits.max_queued_bytes
        self._backlog = Backlog(limits.max_queued_bytes, self._carry_out_unanswered, self._may_begin)
        self._looking: asyncio.Future[bool] | None = None
        self._summed = Summed(log)
        self._default_timeout = limits.default_timeout_ms / 1000
        self._longest_timeout = limits.max_timeout_ms / 1000
        self._stopping = False
        self._started = ""
        self._endpoints: list[Endpoint] = []
        self._subscriptions: list[Subscription] = []
        self._verbs: list[Subscription] = []

    async def start(self) -> None:
        """Subscribe to all operations and then to the discovery subjects; ready when PING is answered.

        Returns once the server has the subscriptions: where it goes away meanwhile they are made again on reconnect, and
        that is waited for. Raises `Unavailable` if the connection is closed for good,
        `Forbidden` if permissions refuse all operations.
        """
        self._started = rfc3339(to_micros(datetime.now(UTC)))
        self._endpoints = endpoints(self._subjects)
        for endpoint in self._endpoints:
            handler = partial(self._receive, endpoint)
            self._subscriptions.append(await self._connection.subscribe_raw(endpoint.subject, handler, QUEUE))
        for verb, reply in (("PING", self._ping), ("INFO", self.info), ("STATS", self.stats)):
            for tail in ("", f".{NAME}", f".{NAME}.{self.id}"):
                handler = partial(self._tell, reply)
                self._verbs.append(await self._connection.subscribe_raw(f"$SRV.{verb}{tail}", handler))
        while True:
            try:
                await self._connection.flush()
                return self._check_refused()
            except nats.errors.ConnectionClosedError:
                raise Unavailable("NATS closed the connection before it had the subscriptions of the service") from None
            except nats.errors.Error as error:
                log.warning("NATS went away before it had the subscriptions of the service (%s): waiting for it", error)
                await asyncio.sleep(RESUBSCRIBED_SECONDS)

    def _check_refused(self) -> None:
        """Raise `Forbidden` if permissions let us answer no operation at all; a few that are refused stand in the log."""
        refused = [self._connection.refused.get((endpoint.subject, QUEUE)) for endpoint in self._endpoints]
        if all(refused) and refused[0] is not None:
            raise forbidden(self._connection, refused[0], "a replica needs the permissions of replica.conf")

    async def drain(self, seconds: float = 30.0) -> None:
        """Take no more requests, answer those taken, within `seconds`; ones that wait for a flow get a 503 at once.

        Requests without a reply subject are carried out within that time; the log says how many could not be.
        """
        self._stopping = True
        if self._connection.is_connected:
            for subscription in (*self._verbs, *self._subscriptions):
                await self._unsubscribe(subscription)
            await self._flush()
        for subscription in (*self._verbs, *self._subscriptions):
            self._connection.remove_subscription(subscription)
        await asyncio.sleep(0)  # so that each request taken has begun: one cancelled before could not be answered
        for task in tuple(self._busy[True]):
            task.cancel()
        draining = asyncio.ensure_future(self._backlog.drain(seconds))
        left = self._busy[True] | self._busy[False]
        if left:
            _, late = await asyncio.wait(left, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        lost = await draining
        for one in lost:
            self._lose(one.endpoint, Unavailable("this replica stopped before its turn"))
        unfinished = set(self._backlog.running)
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
        if lost or unfinished:
            log.error(
                "stopping after %g s: %d requests without a reply subject were lost, and %d may not have been carried out:"
                " nobody could be told; a longer drain (--drain-ms) would have carried them out",
                seconds, len(lost), len(unfinished),
            )  # fmt: skip
        self._summed.flush()
        await self._flush()

    async def _unsubscribe(self, subscription: Subscription) -> None:
        # Requests already on their way must still find their handler, so the interest goes first and the handler stays.
        try:
            await send_unsubscribe(self._connection, subscription)
        except Exception as error:
            log.debug("unsubscribe: %s", error)

    async def _flush(self) -> None:
        try:
            if self._connection.is_connected:
                await self._connection.flush(timeout=5)
        except Exception as error:
            log.debug("flush while draining: %s", error)

    # --- requests ---

    def _receive(self, endpoint: Endpoint, _subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        endpoint.stats.requests += 1
        self._counters.requests.add(endpoint.operation.name)
        if is_acknowledgement(reply):
            reply = b""
        wrong = self._subjects.refuses_reply(reply) if reply else ""
        if wrong:
            self._failed(endpoint, BadRequest(wrong))
            name = endpoint.operation.name
            self._summed.warning(
                (name, "reply"), "%s: not carried out, %s", name, endpoint.stats.last_error, extra=_about(endpoint)
            )
            return
        operation = endpoint.operation
        if len(body) > self._most_bytes:
            remedy = "keep large data elsewhere and send a reference"
            text = over(f"the request is {len(body)} bytes", "max_request_bytes", self._most_bytes, remedy)
            self._refuse(endpoint, reply, TooLarge(text))
            return
        if not reply:
            self._take_unanswered(endpoint, body, block)
            return
        busy = self._busy[operation.waits]
        bound = self._bounds[operation.waits]
        if len(busy) >= bound:
            what, name = ("waiting requests", "max_waiting") if operation.waits else ("requests", "max_requests")
            text = f"this replica carries out {bound} {what} already, its limit ({name}): try again later"
            self._refuse(endpoint, reply, TooMany(text))
            return
        asked = asked_from(body, block, reply, operation.keyed)
        asked.default_timeout, asked.longest_timeout = self._default_timeout, self._longest_timeout
        asked.room = self._room
        task = asyncio.get_running_loop().create_task(self._carry_out(endpoint, asked, reply))
        busy.add(task)
        task.add_done_callback(self._freed_waiting if operation.waits else self._freed)

    def _freed(self, task: asyncio.Task[None]) -> None:
        self._busy[False].discard(task)
        self._backlog.fill()

    def _freed_waiting(self, task: asyncio.Task[None]) -> None:
        self._busy[True].discard(task)

    # --- requests without a reply subject ---

    def _take_unanswered(self, endpoint: Endpoint, body: bytes, block: bytes | None) -> None:
        asked = asked_from(body, block, b"", endpoint.operation.keyed)
        asked.default_timeout = asked.longest_timeout = 0  # nobody is there to wait
        if not self._backlog.take(endpoint, asked):
            self._lose(
                endpoint,
                TooMany(
                    f"requests without a reply subject are lost: those that wait take {self._queued_bytes} bytes already,"
                    " the limit (max_queued_bytes): publish more slowly, give a reply subject, or raise it"
                ),
            )

    def _may_begin(self, running: int) -> bool:
        """Whether one more may be carried out beside `running`: requests that have a reply subject need room as well."""
        bound = self._bounds[False]
        return running < max(1, bound // 2) and running + len(self._busy[False]) < bound

    async def _carry_out_unanswered(self, endpoint: Endpoint, asked: Asked) -> bool:
        """Carry it out; false if a database is away: it is tried again then, for nobody else could do that."""
        for _ in range(2):  # the database may have come back between the failure and the look at it
            try:
                with continued(asked.traceparent, asked.tracestate):
                    await endpoint.answer(self._engine, asked)
            except Unavailable as error:
                if not may_repeat(endpoint, asked, error):
                    self._lose(endpoint, error)
                    return True
                if self._stopping or await self._databases_away():
                    return False
                refused = error
            except TimedOut:
                return True  # it asked to wait for what nobody would hear
            except DwarfError as error:
                self._refuse(endpoint, b"", error)
                return True
            else:
                return True
        self._lose(endpoint, refused)
        return True

    async def _databases_away(self) -> bool:
        """Whether it is a database that is away, not what this one request needs. Asked once for all that want to know."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
        try:
            return await asyncio.shield(self._looking)
        finally:
            if self._looking is not None and self._looking.done():
                self._looking = None

    async def _look(self) -> bool:
        try:
            await self._engine.list(Query(limit=1))
        except Unavailable:
            return True
        except DwarfError:
            return False
        return False

    def _lose(self, endpoint: Endpoint, error: DwarfError) -> None:
        """A request that nobody can be told of is not carried out."""
        self._counters.lost_requests.add(endpoint.operation.name)
        self._refuse(endpoint, b"", error)

    async def _carry_out(self, endpoint: Endpoint, asked: Asked, reply: bytes) -> None:
        try:
            with continued(asked.traceparent, asked.tracestate):
                body = await endpoint.answer(self._engine, asked)
            self._reply(endpoint, reply, body)
        except DwarfError as error:
            self._refuse(endpoint, reply, error)
        except asyncio.CancelledError:
            self._refuse(endpoint, reply, Unavailable("this replica is stopping: ask again, another one will answer"))
            if not self._stopping:
                raise

    def _room(self) -> int:
        return self._connection.max_payload

    def _reply(self, endpoint: Endpoint, reply: bytes, body: bytes) -> None:
        if not self._connection.fits(b"", body):
            limit = self._connection.max_payload
            raise TooLarge(
                f"the reply is {len(body)} bytes, over the NATS server's max_payload of {limit}: ask for less, or raise it"
            )
        self._send(endpoint, reply, b"", body)

    def _failed(self, endpoint: Endpoint, error: DwarfError) -> None:
        endpoint.stats.failed(error)
        self._counters.refused.add(endpoint.operation.name, str(error.code))

    def _refuse(self, endpoint: Endpoint, reply: bytes, error: DwarfError) -> None:
        self._failed(endpoint, error)
        if not reply:
            name = endpoint.operation.name
            self._summed.warning(
                (name, error.code), "%s without a reply subject: %s", name, endpoint.stats.last_error,
                extra=_about(endpoint),
            )  # fmt: skip
            return
        block, body = encode_error(error, self._connection.max_payload)
        self._send(endpoint, reply, block, body)

    def _send(self, endpoint: Endpoint, reply: bytes, block: bytes, body: bytes) -> None:
        try:
            self._connection.send(reply.decode(), "", block, body)
        except BusAway:
            log.debug("%s: the connection was gone when the reply was ready", endpoint.operation.name)

    # --- discovery ---

    def _tell(self, what: Any, _subject: bytes, reply: bytes, _body: bytes, _block: bytes | None) -> None:
        if not reply or self._stopping or self._subjects.refuses_reply(reply):
            return
        told = what()
        body = _encode(told)
        if not self._connection.fits(b"", body):
            body = next(
                (one for one in map(_encode, discovery.shortened(told)) if self._connection.fits(b"", one)), body
            )
        if not self._connection.fits(b"", body):
            log.warning("a discovery reply of %d bytes is over the NATS server's max_payload: not sent", len(body))
            return
        with contextlib.suppress(BusAway):
            self._connection.send(reply.decode(), "", b"", body)

    def _identity(self, kind: str) -> dict[str, Any]:
        return discovery.identity(kind, NAME, self.id, {"prefix": self._subjects.prefix})

    def _ping(self) -> dict[str, Any]:
        return self._identity("ping")

    def info(self) -> dict[str, Any]:
        """The INFO reply: who we are and what we answer."""
        return {
            **self._identity("info"),
            "description": DESCRIPTION,
            "endpoints": [endpoint.info() for endpoint in self._endpoints],
        }

    def stats(self) -> dict[str, Any]:
        """The STATS reply: what was done since the start."""
        return {
            **self._identity("stats"),
            "started": self._started,
            "endpoints": [self._statistics(endpoint) for endpoint in self._endpoints],
        }

    def _statistics(self, endpoint: Endpoint) -> dict[str, Any]:
        told = endpoint.statistics()
        if endpoint.operation.name == "task.breaker":
            told["data"] = {"tasks": [health_of(one) for one in self._engine.task_health()[:MOST_TASKS]]}
        return told


def _about(endpoint: Endpoint) -> dict[str, object]:
    """Fields of a log line (T3)."""
    return {"operation": endpoint.operation.name}
