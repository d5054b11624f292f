"""The service `dwarf`: ADR-32 over plain subscriptions, without the micro framework of nats-py (wire: section 1).

Each request has an asyncio task of its own, so that none waits for another. One bound limits the requests at once, a second one
those that wait for a flow; beyond them the answer is 429. A drain answers the requests taken. Requests without a reply subject
cannot be answered with 429: they wait for their turn in a queue that is bounded by bytes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from functools import partial
from typing import Any

import nats.errors
from nats.aio.subscription import Subscription

from dwarf_nats.errors import DwarfError, TooLarge, TooMany, Unavailable
from dwarf_nats.nats_client import forbidden, send_unsubscribe
from dwarf_nats.settings import RequestLimits
from dwarf_nats.telemetry.context import continued
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.wire.subjects import Subjects, is_acknowledgement
from dwarf_nats.workflow.limits import over

from .auditing import carried_out
from .connection import Connection
from .discovery import Discovery
from .endpoints import QUEUE, Endpoint, RawRequest, endpoints
from .engine_api import EngineApi
from .handlers import RequestContext
from .responder import Responder
from .unanswered import UnansweredRequests

log = logging.getLogger("dwarf_nats.bus")

RESUBSCRIBE_SECONDS = 0.1
"""Pause before the next check that the subscriptions are made, if NATS went away meanwhile."""


class Service:
    """Answers the operations with an engine.

    A request of more than `max_request_bytes` is a 413. `limits` bounds what is carried out at once; beyond it the answer is
    429. `service_id`: the id in discovery replies; a random one by default.
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
        self._max_request_bytes = max_request_bytes
        self._limits = limits if limits is not None else RequestLimits()
        self._default_timeout_seconds = self._limits.default_timeout_ms / 1000
        self._max_timeout_seconds = self._limits.max_timeout_ms / 1000
        self._bounds = {False: self._limits.max_requests, True: self._limits.max_waiting}
        self._running: dict[bool, set[asyncio.Task[None]]] = {False: set(), True: set()}
        """The requests under way: under `True` those that wait for a flow, under `False` all others."""
        self.responder = Responder(connection, self._counters)
        self._unanswered = UnansweredRequests(engine, self.responder, self._limits, self._answered)
        self._endpoints = endpoints(self._subjects)
        self._discovery = Discovery(connection, engine, self._subjects, service_id=self.id, endpoints=self._endpoints)
        self._stopping = False
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Subscribe to all operations and then to the discovery subjects; ready when PING is answered.

        Returns once the server has the subscriptions: where it goes away meanwhile they are made again on reconnect, and
        that is waited for. Raises `Unavailable` if the connection is closed for good,
        `Forbidden` if permissions refuse all operations.
        """
        for endpoint in self._endpoints:
            handler = partial(self._receive, endpoint)
            self._subscriptions.append(await self._connection.subscribe_raw(endpoint.subject, handler, QUEUE))
        await self._discovery.start()
        while True:
            try:
                await self._connection.flush()
                return self._check_refused()
            except nats.errors.ConnectionClosedError:
                raise Unavailable("NATS closed the connection before it had the subscriptions of the service") from None
            except nats.errors.Error as error:
                log.warning("NATS went away before it had the subscriptions of the service (%s): waiting for it", error)
                await asyncio.sleep(RESUBSCRIBE_SECONDS)

    def _check_refused(self) -> None:
        """Raise `Forbidden` if permissions refuse all operations; if they refuse a few, the log says so."""
        refused = [self._connection.refused.get((endpoint.subject, QUEUE)) for endpoint in self._endpoints]
        if all(refused) and refused[0] is not None:
            raise forbidden(self._connection, refused[0], "a replica needs the permissions of replica.conf")

    async def drain(self, seconds: float = 30.0) -> None:
        """Take no more requests, answer those taken, within `seconds`; ones that wait for a flow get a 503 at once.

        Requests without a reply subject are carried out within that time; the log says how many could not be.
        """
        self._stopping = True
        self._unanswered.stop()
        self._discovery.stop()
        await self._unsubscribe()
        await asyncio.sleep(0)  # so that each request taken has begun: one cancelled before could not be answered
        for task in tuple(self._running[True]):
            task.cancel()
        draining = asyncio.ensure_future(self._unanswered.drain(seconds))
        left = self._running[True] | self._running[False]
        if left:
            _, late = await asyncio.wait(left, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        await self._unanswered.give_up(await draining, seconds)
        self.responder.flush_log()
        await self._flush()

    async def _unsubscribe(self) -> None:
        """Tell the server to send no more requests; those on their way are still handled."""
        subscriptions = (*self._discovery.subscriptions, *self._subscriptions)
        if self._connection.is_connected:
            for subscription in subscriptions:
                try:
                    await send_unsubscribe(self._connection, subscription)
                except Exception as error:
                    log.debug("unsubscribe: %s", error)
            await self._flush()
        for subscription in subscriptions:
            self._connection.remove_subscription(subscription)

    async def _flush(self) -> None:
        try:
            if self._connection.is_connected:
                await self._connection.flush(timeout=5)
        except Exception as error:
            log.debug("flush while draining: %s", error)

    def info(self) -> dict[str, Any]:
        """The INFO reply."""
        return self._discovery.info()

    def stats(self) -> dict[str, Any]:
        """The STATS reply."""
        return self._discovery.stats()

    # --- requests ---

    def _receive(self, endpoint: Endpoint, subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        endpoint.stats.requests += 1
        operation = endpoint.operation
        self._counters.requests.add(operation.name)
        if is_acknowledgement(reply):
            reply = b""
        wrong = self._subjects.refuses_reply(reply) if reply else ""
        if wrong:
            self.responder.refuse_reply_subject(endpoint, wrong)
        elif len(body) > self._max_request_bytes:
            remedy = "keep large data elsewhere and send a reference"
            text = over(f"the request is {len(body)} bytes", "max_request_bytes", self._max_request_bytes, remedy)
            self.responder.refuse(endpoint, reply, TooLarge(text))
        elif not reply:
            self._unanswered.take(endpoint, RawRequest(subject, reply, body, block))
        elif len(self._running[operation.waits]) >= self._bounds[operation.waits]:
            self.responder.refuse(endpoint, reply, self._too_many(operation.waits))
        else:
            self._begin(endpoint, RawRequest(subject, reply, body, block))

    def _too_many(self, waits: bool) -> TooMany:
        what, name = ("waiting requests", "max_waiting") if waits else ("requests", "max_requests")
        bound = self._bounds[waits]
        return TooMany(f"this replica carries out {bound} {what} already, its limit ({name}): try again later")

    def _begin(self, endpoint: Endpoint, request: RawRequest) -> None:
        """Carry out a request in a task of its own."""
        operation = endpoint.operation
        context = endpoint.context(request)
        context.default_timeout_seconds = self._default_timeout_seconds
        context.max_timeout_seconds = self._max_timeout_seconds
        context.max_reply_bytes = self.responder.max_reply_bytes
        task = asyncio.get_running_loop().create_task(self._carry_out(endpoint, context, request.reply))
        self._running[operation.waits].add(task)
        task.add_done_callback(self._waiting_done if operation.waits else self._done)

    def _answered(self) -> int:
        """The number of requests under way that do not wait for a flow."""
        return len(self._running[False])

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running[False].discard(task)
        self._unanswered.fill()

    def _waiting_done(self, task: asyncio.Task[None]) -> None:
        self._running[True].discard(task)

    async def _carry_out(self, endpoint: Endpoint, context: RequestContext, reply: bytes) -> None:
        try:
            with continued(context.traceparent, context.tracestate):
                body = await carried_out(endpoint, self._engine, context)
            self.responder.reply(endpoint, reply, body)
        except DwarfError as error:
            self.responder.refuse(endpoint, reply, error)
        except asyncio.CancelledError:
            stopping = Unavailable("this replica is stopping: ask again, another one will answer")
            self.responder.refuse(endpoint, reply, stopping)
            if not self._stopping:
                raise
