"""The worker: Python functions as task services (wire section 2).

worker = Worker()

@worker.task("charge")
async def charge(order_id: str, total: float) -> dict[str, str]:
    return {"receipt": await bank.charge(total, reference=order_id)}

if __name__ == "__main__":
    worker.main()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.subscription import Subscription

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import BadRequest, DwarfError, TooLarge, Unavailable
from dwarf_nats.nats_client import INBOX_REMEDY, Violation, forbidden, watch_refusals
from dwarf_nats.summed import Repeats, Summed
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.connecting import ConnectArguments, ConnectOptions, begin_patiently
from dwarf_nats.wire.subjects import Subjects, is_of_another_account
from dwarf_nats.workflow.answer import Answer
from dwarf_nats.workflow.arguments import bind
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.raised import named

from . import connection, serving
from .discovery import DiscoveryResponder
from .request_reply import check_size, leave, round_trip, wait_connected
from .task_codec import (
    accept_seconds,
    backpressure_answer,
    decode_request,
    decode_roll_call,
    encode_answer,
    encode_running,
    error_answer,
)
from .task_executor import Execution, Handler, TaskExecutor

if TYPE_CHECKING:
    from types import TracebackType

    from nats.aio.msg import Msg

log = logging.getLogger("dwarf_nats.worker")
F = TypeVar("F", bound=Callable[..., Any])
REOPEN_BACKOFF = Backoff(0.1, 2, 5.0)
"""Pauses before a connection that was closed for good is made again."""


def _nothing() -> None:
    """There is nothing to end."""


class Worker:
    """Serves tasks. Coroutine functions run on the loop, plain ones in threads.

    `concurrency`: executions at once; further requests wait here. `queue`: the queue group, the same for all instances
    of a task service, since each group gets every request. `drain_seconds`: how long `stop` waits for what is in hand.
    `how`: who we are, as `ConnectOptions` has it.
    """

    def __init__(
        self,
        url: str = "",
        *,
        nc: Nats | None = None,
        concurrency: int = 64,
        queue: str = "workers",
        task_prefix: str = "task",
        name: str = "dwarf-worker",
        drain_seconds: float = 20.0,
        **how: Unpack[ConnectArguments],
    ) -> None:
        if concurrency < 1:
            raise BadRequest(f"concurrency must be at least 1, got {concurrency}")
        self.options = ConnectOptions(url=url, **how)
        self.concurrency = concurrency
        self.queue = check_subject_name(queue, "queue group")
        self.name = name
        self.drain_seconds = drain_seconds
        self._subjects = Subjects(task_prefix=task_prefix)
        self._given = nc
        self._nc: Nats | None = None
        self._handlers: dict[str, Handler] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._subs: list[Subscription] = []
        self._executor: TaskExecutor | None = None
        self._summed = Summed(log)
        self._announced = DiscoveryResponder(name, queue, {})
        self._private = ""
        self._stopping = False
        self._hurry = asyncio.Event()
        self._reopening: asyncio.Task[None] | None = None
        self._opening = False
        self._served: list[str] = []
        self._refusals = Repeats(log, burst=1)
        self._unwatch: Callable[[], None] = _nothing

    # --- registering ---

    @property
    def tasks(self) -> Mapping[str, Callable[..., Any]]:
        """The functions registered, by url."""
        return dict(self._functions)

    @property
    def served(self) -> list[str]:
        """The tasks that are served, by url: those registered, without those whose subjects permissions refuse."""
        return list(self._served)

    def task(self, url: str) -> Callable[[F], F]:
        """Register the decorated function for the task `url`; the function itself stays as it is."""

        def register(function: F) -> F:
            self.add_task(url, function)
            return function

        return register

    def add_task(self, url: str, function: Callable[..., Any]) -> None:
        """Register a function for the task `url`. Raises `BadRequest` for a bad or taken url."""
        check_subject_name(url, "task url")
        if not callable(function):
            raise BadRequest(f'task {url} needs a function: write @worker.task("{url}") above one')
        if url in self._functions:
            raise BadRequest(f"task {url} is registered twice; one worker serves it with one function")
        if self._executor is not None:
            raise BadRequest(f"task {url} comes too late: register tasks before the worker starts")
        self._functions[url] = function
        self._handlers[url] = Handler.of(url, function)

    # --- life ---

    async def start(self) -> None:
        """Connect and subscribe; returns once the server has the subscriptions, so that requests find this worker.

        Raises `Unavailable` if no NATS server answers, `Forbidden` if permissions let it serve no task, `BadRequest` without
        tasks, `TypeError` for a function whose arguments cannot be filled by name.
        """
        await self._start(retry=False)

    async def start_patiently(self) -> None:
        """As `start`, but seek a NATS server for ever."""
        await self._start(retry=True)

    async def _start(self, retry: bool) -> None:
        if self._executor is not None:
            raise BadRequest("this worker runs already")
        if not self._functions:
            raise BadRequest('this worker has no tasks: register functions with @worker.task("name")')
        for function in self._functions.values():
            bind(function)
        self._stopping = False
        self._private = ""
        self._hurry.clear()
        self._executor = TaskExecutor(self.concurrency, self._answer, self._accept)
        self._announced = DiscoveryResponder(
            self.name, self.queue, {url: self._subjects.task(url) for url in self._handlers}
        )
        try:
            await begin_patiently(lambda: self._open(retry), retry)
        except BaseException:
            self._executor = None
            raise
        log.info("serving %s as queue group %s", ", ".join(self._served), self.queue)

    async def stop(self, drain_seconds: float | None = None) -> bool:
        """Take nothing more, finish what is in hand, send the answers, close. Says whether everything was finished.

        What is not finished after `drain_seconds` is called off and given back to the engine.
        """
        self._stopping = True
        if self._reopening is not None:
            self._reopening.cancel()
        executor, nc = self._executor, self._nc
        if executor is None or nc is None:
            return True
        seconds = self.drain_seconds if drain_seconds is None else drain_seconds
        try:
            await self._unsubscribe(self._subs[1:])
            finished = await self._finished(executor, seconds)
        finally:
            self._executor = None
            self._summed.flush()
            await self._unsubscribe(self._subs[:1])
            await self._close(nc)
            self._unwatch()
            self._unwatch = _nothing
        return finished

    async def _finished(self, executor: TaskExecutor, seconds: float) -> bool:
        """Wait for what is in hand, and call off the rest; whether there was none."""
        idle, hurry = asyncio.ensure_future(executor.wait_idle()), asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({idle, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if idle.done():
                return True
            log.warning("stopping with %d tasks unfinished", executor.running + executor.waiting)
            await self._abandon()
            return False
        finally:
            idle.cancel()
            hurry.cancel()

    async def _abandon(self) -> None:
        """Call off everything and let the answers out; threads are not waited for."""
        if self._executor is None:
            return
        self._executor.cancel_all()
        for _ in range(100):
            if self._executor.running <= self._executor.blocked and not self._executor.waiting:
                break
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def halt(self) -> None:
        """Make a `stop` that is under way hurry: it calls off what is in hand now."""
        self._hurry.set()

    async def serve(self) -> bool:
        """Start, serve until SIGTERM or SIGINT, then `stop`; a second signal stops at once.

        Seeks a NATS server for ever. Gives the loop one thread per concurrent task. Says whether everything in hand
        was finished.
        """
        return await serving.serve(self)

    def main(self) -> None:
        """Serve, as the last line of a script: `if __name__ == "__main__": worker.main()`. Ends the process."""
        serving.main(self)

    # --- connection ---

    async def _open(self, retry: bool) -> None:
        """Connect and subscribe. Raises `Unavailable` if the server goes away before it has the subscriptions."""
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
            nc = await connection.connect(self.options, self.name, closed=self._on_closed, retry=retry)
        self._nc = nc
        refused: list[Violation] = []

        def keep(violation: Violation) -> bool:
            refused.append(violation)
            return any(violation.concerns(one) for one in (self._private, *map(self._subjects.task, self._handlers)))

        unwatch = watch_refusals(nc, keep)
        try:
            await self._subscribed(nc)
            self._check_refused(nc, refused)
        except BaseException as error:
            # Cancelled, too: a connection left behind would get requests that nobody answers.
            await self._abandon_connection(nc)
            if not isinstance(error, nats.errors.Error | OSError):
                raise
            reason = str(error) or type(error).__name__
            message = f"NATS went away before it had the worker's subscriptions: {reason}"
            raise Unavailable(message, refused=nc is self._given) from error  # another is not ours to make
        finally:
            unwatch()
        self._unwatch()
        self._unwatch = watch_refusals(nc, self._on_refused)

    async def _abandon_connection(self, nc: Nats) -> None:
        """Leave nothing of this worker on a connection it does not serve."""
        self._nc = None
        subs, self._subs = self._subs, []
        with contextlib.suppress(nats.errors.Error, OSError):
            if nc is not self._given:
                await nc.close()
            else:
                await asyncio.gather(*(sub.unsubscribe() for sub in subs), return_exceptions=True)

    def _check_refused(self, nc: Nats, refused: list[Violation]) -> None:
        """Serve what permissions let us serve, and say what they do not. Raises `Forbidden` if that is everything."""
        subscriptions = [one for one in refused if not one.publish]
        missing = {
            url: one for url in self._handlers for one in subscriptions if one.concerns(self._subjects.task(url))
        }
        if len(missing) == len(self._handlers):
            remedy = "let this user subscribe to the subjects of its tasks, with this queue group (task-service.conf)"
            raise forbidden(nc, next(iter(missing.values())), remedy)
        self._served = sorted(set(self._handlers) - missing.keys())
        self._announced.leave_out(missing)
        for url, one in missing.items():
            log.error("task %s is not served: %s", url, forbidden(nc, one), extra={"task": url})
        for one in subscriptions:
            if one.concerns(self._private):
                error = forbidden(nc, one, INBOX_REMEDY)
                log.error("this worker is not asked what it runs, so only their deadlines bind its tasks: %s", error)
                self._private = ""
                break

    def _on_refused(self, violation: Violation) -> bool:
        """Later: permissions have changed, or do not let an answer through."""
        if violation.publish:
            text = f"an answer did not reach the engine: permissions do not let us {violation}; see allow_responses"
            self._refusals.say(logging.ERROR, f"{text} in the permissions of a task service")
            return True
        for url in self._handlers:
            if violation.concerns(self._subjects.task(url)):
                text = f"task {url} is not served any more: permissions do not let us {violation}"
                self._refusals.say(logging.ERROR, text)
                return True
        return False

    async def _subscribed(self, nc: Nats) -> None:
        """Make every subscription of the worker; the server has them then."""
        # The engine knows what is in hand by this subject, so it stays the same on another connection. It comes first, so that
        # it is there before and after every task's.
        self._private = self._private or nc.new_inbox()
        # A roll call or a cancellation that was dropped would not be said again: no limit here either.
        self._subs = [
            await nc.subscribe(self._private, cb=self._on_worker_call, pending_msgs_limit=0, pending_bytes_limit=0)
        ]
        for url, handler in self._handlers.items():
            self._subs.append(await self._subscribe(nc, self._subjects.task(url), handler))
        for subject in self._announced.subjects:
            self._subs.append(await nc.subscribe(subject, cb=self._on_discovery))
        await round_trip(nc)

    async def _subscribe(self, nc: Nats, subject: str, handler: Handler) -> Subscription:
        async def on_request(msg: Msg) -> None:
            await self._on_request(handler, msg)

        return await nc.subscribe(subject, queue=self.queue, cb=on_request, pending_msgs_limit=0, pending_bytes_limit=0)

    async def _on_closed(self) -> None:
        """The server closed the connection for good (nats-py takes some errors so): make a new one."""
        if not self._stopping and not self._opening and self._reopening is None:
            log.warning("NATS closed the connection; connecting again")
            self._reopening = asyncio.get_running_loop().create_task(self._reopen())

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
        self._reopening = None

    async def _unsubscribe(self, subs: Iterable[Subscription]) -> None:
        """Stop getting messages; those already sent to us are still handled."""
        nc = self._nc
        if nc is not None and nc.is_connected:
            await asyncio.gather(*(leave(nc, sub) for sub in subs), return_exceptions=True)

    async def _close(self, nc: Nats) -> None:
        with contextlib.suppress(nats.errors.Error):
            if nc.is_connected:
                await nc.flush()
        if self._given is None and not nc.is_closed:
            await nc.close()

    # --- messages ---

    async def _on_request(self, handler: Handler, msg: Msg) -> None:
        executor = self._executor
        if executor is None:  # it came just before the subscription ended
            await self._reply(msg.reply, backpressure_answer("the worker is stopping"))
            return
        try:
            call = decode_request(msg.data, msg.headers)
            accept_after = accept_seconds(msg.headers)
        except Exception as error:  # whoever asked waits for an answer
            self._summed.warning(
                ("request", handler.url), "task %s: %s", handler.url, named(error), extra={"task": handler.url}
            )
            code = error.code if isinstance(error, DwarfError) else 500
            answer = error_answer(code, error.message if isinstance(error, DwarfError) else named(error))
            self._announced.served(handler.url, answer.error, 0)
            await self._reply(msg.reply, answer)
            return
        # Between accounts, NATS lets one answer through unless told otherwise, and *accepted* would be it.
        accept = None if is_of_another_account(msg.reply) else accept_after
        executor.submit(Execution(call, msg.reply, handler, accept))

    async def _answer(self, execution: Execution, answer: Answer) -> None:
        seconds = asyncio.get_running_loop().time() - execution.received
        self._announced.served(execution.handler.url, answer.error, seconds)
        # A lost connection comes back, and with it the engine's inbox: the answer waits as long as it is wanted.
        nc = self._nc
        if nc is not None and not nc.is_connected and not execution.call.cancelled:
            await wait_connected(nc, min(execution.call.budget, 60.0))
        await self._reply(execution.reply, answer)

    async def _reply(self, subject: str, answer: Answer) -> None:
        nc = self._nc
        if not subject or nc is None:
            return
        body, headers = encode_answer(answer)
        try:
            check_size(nc, body, headers, "the task's reply")
        except TooLarge as error:
            body, headers = encode_answer(error_answer(error.code, error.message))
        try:
            await nc.publish(subject, body, headers=headers)
        except nats.errors.Error as error:
            self._summed.warning("answer", "an answer could not be sent: %s", error)

    async def _accept(self, execution: Execution) -> None:
        nc = self._nc
        if nc is not None and not nc.is_connected:
            await wait_connected(nc, min(execution.call.budget, 60.0))
        if self._nc is not None and execution.reply and self._private and not execution.answered:
            with contextlib.suppress(nats.errors.Error):
                await self._nc.publish(execution.reply, headers={h.SIGNAL: h.ACCEPTED, h.WORKER: self._private})

    async def _on_discovery(self, msg: Msg) -> None:
        nc = self._nc
        if nc is None or not msg.reply or self._subjects.refuses_reply(msg.reply.encode()):
            return  # whoever asks may perhaps not publish there, and we may
        told = self._announced.reply(msg.subject, nc.max_payload)
        if told is not None:
            with contextlib.suppress(nats.errors.Error):
                await nc.publish(msg.reply, told)

    async def _on_worker_call(self, msg: Msg) -> None:
        executor = self._executor
        if executor is None:
            return
        try:
            steps, cancel = decode_roll_call(msg.data)
        except BadRequest as error:
            self._summed.warning("roll call", "%s", error)
            return
        executor.cancel(cancel)
        if msg.reply and self._nc is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._nc.publish(msg.reply, encode_running(executor.unanswered(steps)))
