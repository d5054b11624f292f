"""The subscriptions of a worker: made at the start and on every new connection, checked against the permissions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import nats.errors

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.nats_client import INBOX_REMEDY, drain_subscription, forbidden, watch_refusals
from dwarf_nats.raw_messages import RawMessages
from dwarf_nats.summed import Repeats
from dwarf_nats.wire.connecting import retry_while_unavailable
from dwarf_nats.wire.violations import Violation

from . import connection
from .request_intake import raw_received
from .request_reply import round_trip

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from dwarf_nats.wire.connect_options import ConnectOptions
    from dwarf_nats.wire.subjects import Subjects

    from .executions import Handler
    from .link import Link
    from .task_server import TaskServer

log = logging.getLogger("dwarf_nats.worker")
REOPEN_BACKOFF = Backoff(0.1, 2, 5.0)
"""Pauses before a connection that was closed for good is made again."""

LEAVE_SECONDS = 2.0
"""Longest wait for the server to end the subscriptions of a connection that is given up."""


def _nothing() -> None:
    """There is nothing to end."""


class TaskSubscriptions:
    """Opens the connection of a worker and subscribes to its tasks, its private subject and the discovery subjects.

    `handlers`: the tasks by url. `given`: a connection of the caller to use instead of an own one; it is never closed.
    """

    def __init__(
        self,
        link: Link,
        server: TaskServer,
        handlers: Mapping[str, Handler],
        *,
        options: ConnectOptions,
        name: str,
        queue: str,
        subjects: Subjects,
        given: Nats | None,
    ) -> None:
        self._link = link
        link.last = given is not None
        self._server = server
        self._handlers = handlers
        self._options = options
        self._name = name
        self._queue = queue
        self._subjects = subjects
        self._given = given
        self.served: list[str] = []
        """The tasks whose subscriptions the server accepted, by url."""
        self.reopening: asyncio.Task[None] | None = None
        """The attempt to make a new connection, while there is one."""
        self._starting: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []
        self._stopping = False
        self._opening = False
        self._refusals = Repeats(log, burst=1)
        self._unwatch: Callable[[], None] = _nothing

    async def start(self, retry: bool) -> None:
        """Connect and subscribe; the server has the subscriptions then. `retry`: wait for a NATS server for ever.

        Raises `Unavailable` if the server goes away before it has them or if `stop_opening` comes first, `Forbidden` if
        permissions refuse all tasks.
        """
        attempts = retry_while_unavailable(lambda: self._open(retry), retry)
        self._starting = asyncio.get_running_loop().create_task(attempts)
        try:
            await asyncio.wait({self._starting})
        finally:
            await _end(self._starting)
        if self._starting.cancelled():
            raise Unavailable("the worker was stopped before it had started", refused=True)
        self._starting.result()

    async def _open(self, retry: bool) -> None:
        self._opening = True
        try:
            await self._connect(retry)
        finally:
            self._opening = False

    async def _connect(self, retry: bool) -> None:
        if self._given is not None:
            if self._given.is_closed:
                raise Unavailable("the NATS connection this worker was given is closed", refused=True)
            nc = self._given
        else:
            nc = await connection.connect(self._options, self._name, closed=self._on_closed, retry=retry)
        self._link.nc = nc
        refused: list[Violation] = []

        def keep(violation: Violation) -> bool:
            refused.append(violation)
            own = (self._link.private, *map(self._subjects.task, self._handlers))
            return any(violation.concerns(one) for one in own)

        unwatch = watch_refusals(nc, keep)
        try:
            await self._subscribe_all(nc)
            self._check_refused(nc, refused)
        except BaseException as error:
            # Also if cancelled: a connection left behind would get requests that nobody answers.
            lost = isinstance(error, nats.errors.Error | OSError)
            await _to_the_end(self._abandon_connection(nc, lost))
            if not lost:
                raise
            reason = str(error) or type(error).__name__
            message = f"NATS went away before it had the worker's subscriptions: {reason}"
            raise Unavailable(message, refused=nc is self._given) from error  # a given connection cannot be made anew
        finally:
            unwatch()
        self._unwatch()
        self._unwatch = watch_refusals(nc, self._on_refused)

    async def _abandon_connection(self, nc: Nats, lost: bool) -> None:
        """Leave no subscription of this worker on a connection that it does not serve. `lost`: nothing can be said over it.

        What it took by them goes on; answers that are not ready wait for the next connection.
        """
        subscriptions, self._subscriptions = self._subscriptions, []
        with contextlib.suppress(nats.errors.Error, OSError):
            if not lost:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await self._leave(subscriptions)  # else requests on their way would be delivered, and get lost
            elif nc is self._given:
                await asyncio.gather(*(one.unsubscribe() for one in subscriptions), return_exceptions=True)
            if nc is not self._given:
                self._link.nc = None
                await nc.close()

    def _check_refused(self, nc: Nats, refused: list[Violation]) -> None:
        """Serve the tasks that permissions allow, and log the others. Raises `Forbidden` if there is none to serve."""
        subscriptions = [one for one in refused if not one.publish]
        missing = {
            url: one for url in self._handlers for one in subscriptions if one.concerns(self._subjects.task(url))
        }
        if len(missing) == len(self._handlers):
            remedy = "let this user subscribe to the subjects of its tasks, with this queue group (task-service.conf)"
            raise forbidden(nc, next(iter(missing.values())), remedy)
        self.served = sorted(set(self._handlers) - missing.keys())
        self._server.discovery.exclude(missing)
        for url, one in missing.items():
            log.error("task %s is not served: %s", url, forbidden(nc, one), extra={"task": url})
        for one in subscriptions:
            if one.concerns(self._link.private):
                error = forbidden(nc, one, INBOX_REMEDY)
                log.error("this worker is not asked what it runs, so only their deadlines bind its tasks: %s", error)
                self._link.private = ""
                break

    def _on_refused(self, violation: Violation) -> bool:
        """Log a refusal that comes later: permissions have changed, or do not let an answer through."""
        if self._server.outputs.refused(violation):
            return True
        if violation.publish:
            text = f"an answer did not reach the engine: permissions do not let us {violation}; see allow_responses"
            self._refusals.say(logging.ERROR, f"{text} in the permissions of a task service")
            self._server.batches.withdraw()  # a batch needs several answers
            return True
        for url in self._handlers:
            if violation.concerns(self._subjects.task(url)):
                text = f"task {url} is not served any more: permissions do not let us {violation}"
                self._refusals.say(logging.ERROR, text)
                return True
        return False

    async def _subscribe_all(self, nc: Nats) -> None:
        """Make every subscription of the worker; the server has them when this returns."""
        # The engine knows the worker by its private subject, so it stays the same on another connection. It comes first, so
        # that it is there before and after every task's.
        self._link.private = self._link.private or nc.new_inbox()
        # A roll call or a cancellation that was dropped would not be sent again: no limit here either.
        self._subscriptions = [await self._subscribe_private(nc)]
        for url, handler in self._handlers.items():
            self._subscriptions.append(await self._subscribe(nc, self._subjects.task(url), handler))
        for subject in self._server.discovery.subjects:
            self._subscriptions.append(await nc.subscribe(subject, cb=self._server.on_discovery))
        await round_trip(nc)

    async def _subscribe_private(self, nc: Nats) -> Subscription:
        if isinstance(nc, RawMessages):
            return await nc.subscribe_raw(self._link.private, self._server.on_raw_roll_call)
        return await nc.subscribe(
            self._link.private, cb=self._server.on_roll_call, pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def _subscribe(self, nc: Nats, subject: str, handler: Handler) -> Subscription:
        take = self._server.requests.take

        def on_raw_request(_subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
            take(handler, raw_received(reply, data, block))

        async def on_request(msg: Msg) -> None:
            take(handler, msg)

        if isinstance(nc, RawMessages):
            return await nc.subscribe_raw(subject, on_raw_request, self._queue)
        return await nc.subscribe(
            subject, queue=self._queue, cb=on_request, pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def _on_closed(self) -> None:
        """Make a new connection: the server closed this one for good (nats-py treats some errors so)."""
        if not self._stopping and not self._opening and self.reopening is None:
            log.warning("NATS closed the connection; connecting again")
            self.reopening = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                await self._open(retry=True)
                break
            except (DwarfError, nats.errors.Error) as error:
                log.warning("%s; trying again", error)
                await asyncio.sleep(REOPEN_BACKOFF.delay(failures))
                failures += 1
        self.reopening = None

    async def stop_opening(self) -> None:
        """Make no connection any more, and end the attempt that is under way."""
        self._stopping = True
        self._link.last = True
        await _end(self._starting)
        await _end(self.reopening)

    async def leave_tasks(self) -> None:
        """Receive no more requests. Requests already sent to this worker are still handled, and so are roll calls."""
        await self._leave(self._subscriptions[1:])

    async def close(self) -> None:
        """Leave the private subject, send what is left, and close the connection, if there is one, unless it was given."""
        await self._leave(self._subscriptions[:1])
        await self._server.requests.finish()
        nc = self._link.nc
        if nc is not None:
            with contextlib.suppress(nats.errors.Error):
                if nc.is_connected:
                    await nc.flush()
            if self._given is None and not nc.is_closed:
                await nc.close()
        self._unwatch()
        self._unwatch = _nothing

    async def _leave(self, subscriptions: Iterable[Subscription]) -> None:
        nc = self._link.nc
        if nc is not None and nc.is_connected:
            await asyncio.gather(*(drain_subscription(nc, one) for one in subscriptions), return_exceptions=True)


async def _end(attempt: asyncio.Task[None] | None) -> None:
    """Cancel an attempt to connect, and wait until it has left no connection behind."""
    if attempt is not None and not attempt.done():
        attempt.cancel()
        await asyncio.wait({attempt})


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` completely, also if this task is cancelled meanwhile."""
    doing = asyncio.ensure_future(work)
    try:
        await asyncio.shield(doing)
    finally:
        await asyncio.wait({doing})
