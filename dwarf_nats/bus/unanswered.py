"""Requests without a reply subject, carried out in turn: a refusal would reach nobody (wire: section 1)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dwarf_nats.errors import DwarfError, TimedOut, TooMany, Unavailable
from dwarf_nats.settings import RequestLimits
from dwarf_nats.telemetry.context import continued
from dwarf_nats.workflow.options import Query

from .auditing import carried_out
from .backlog import Backlog, Queued, may_repeat
from .endpoints import Endpoint, RawRequest
from .engine_api import EngineApi
from .handlers import RequestContext
from .responder import Responder

log = logging.getLogger("dwarf_nats.bus")


class UnansweredRequests:
    """The requests without a reply subject of one replica. `answered` returns the number of requests
    in progress that have one.

    They take at most half of `limits.max_requests`, so that requests that have a reply subject find room.
    """

    def __init__(
        self, engine: EngineApi, responder: Responder, limits: RequestLimits, answered: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._responder = responder
        self._limits = limits
        self._answered = answered
        self._backlog = Backlog(limits.max_queued_bytes, self._carry_out, self._may_begin)
        self._checking: asyncio.Future[bool] | None = None
        self._stopping = False

    def take(self, endpoint: Endpoint, request: RawRequest) -> None:
        """Carry out a request when its turn comes. If too much waits already it is lost, counted and logged."""
        context = endpoint.context(request)
        context.default_timeout_seconds = context.max_timeout_seconds = 0  # nobody is there to wait
        if not self._backlog.take(endpoint, context):
            self._responder.lose(
                endpoint,
                TooMany(
                    f"requests without a reply subject are lost: those that wait take {self._limits.max_queued_bytes} bytes"
                    " already, the limit (max_queued_bytes): publish more slowly, give a reply subject, or raise it"
                ),
            )

    def fill(self) -> None:
        """Start waiting requests while there is room."""
        self._backlog.fill()

    def stop(self) -> None:
        """Stop waiting for databases that are away."""
        self._stopping = True

    async def drain(self, seconds: float) -> list[Queued]:
        """Wait until all are carried out, at most `seconds`. Returns those left over."""
        return await self._backlog.drain(seconds)

    async def give_up(self, left: list[Queued], seconds: float) -> None:
        """Cancel those in progress; count and log those that are lost, after `seconds` of draining."""
        for one in left:
            self._responder.lose(one.endpoint, Unavailable("this replica stopped before its turn"))
        unfinished = set(self._backlog.running)
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
        if left or unfinished:
            log.error(
                "stopping after %g s: %d requests without a reply subject were lost, and %d may not have been carried out:"
                " nobody could be told; a longer drain (--drain-ms) would have carried them out",
                seconds,
                len(left),
                len(unfinished),
            )

    def _may_begin(self, running: int) -> bool:
        """True if one more may be carried out beside `running`."""
        bound = self._limits.max_requests
        return running < max(1, bound // 2) and running + self._answered() < bound

    async def _carry_out(self, endpoint: Endpoint, context: RequestContext) -> bool:
        """Carry out a request. Returns false if a database is away: it is tried again, as nobody else could do that."""
        for _ in range(2):  # the database may have come back between the failure and the check
            try:
                with continued(context.traceparent, context.tracestate):
                    await carried_out(endpoint, self._engine, context, tried_again=True)
            except Unavailable as error:
                if not may_repeat(endpoint, context, error):
                    self._responder.lose(endpoint, error)
                    return True
                if self._stopping or await self._databases_away():
                    return False
                refused = error
            except TimedOut:
                return True  # it asked to wait for an answer that nobody would get
            except DwarfError as error:
                self._responder.refuse(endpoint, b"", error)
                return True
            else:
                return True
        self._responder.lose(endpoint, refused)
        return True

    async def _databases_away(self) -> bool:
        """True if a database is away, not only what this one request needs. One check serves all that wait for one."""
        if self._checking is None:
            self._checking = asyncio.ensure_future(self._check())
        try:
            return await asyncio.shield(self._checking)
        finally:
            if self._checking is not None and self._checking.done():
                self._checking = None

    async def _check(self) -> bool:
        try:
            await self._engine.list(Query(limit=1))
        except Unavailable:
            return True
        except DwarfError:
            return False
        return False
