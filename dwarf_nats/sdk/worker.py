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
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeVar

import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.subscription import Subscription

from dwarf_nats.errors import BadRequest, DwarfError, TooLarge, Unavailable
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.answer import Answer
from dwarf_nats.workflow.arguments import bind
from dwarf_nats.workflow.names import check_subject_name

from . import connection
from .calls import accept_seconds, decode_request, decode_roll_call, encode_answer, encode_running, failed
from .connection import ConnectOptions
from .jobs import Handler, Job, Jobs
from .requests import check_size, until_connected

if TYPE_CHECKING:
    from types import TracebackType

    from nats.aio.msg import Msg

log = logging.getLogger("dwarf_nats.worker")
F = TypeVar("F", bound=Callable[..., Any])
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """Serves tasks. Coroutine functions run on the loop, plain ones in threads.

    `concurrency`: executions at once; further requests wait here. `queue`: the queue group, the same for all instances
    of a task service, since each group gets every request. `drain_seconds`: how long `stop` waits for what is in hand.
    The other arguments are those of `Client`.
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
        context: str = "",
        creds: str | os.PathLike[str] = "",
        nkey: str | os.PathLike[str] = "",
        user: str = "",
        password: str = "",
        token: str = "",
        tls_ca: str | os.PathLike[str] = "",
        tls_cert: str | os.PathLike[str] = "",
        tls_key: str | os.PathLike[str] = "",
        inbox_prefix: str = "",
    ) -> None:
        if concurrency < 1:
            raise BadRequest(f"concurrency must be at least 1, got {concurrency}")
        self.options = ConnectOptions(
            url=url,
            context=context,
            creds=creds,
            nkey=nkey,
            user=user,
            password=password,
            token=token,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
            inbox_prefix=inbox_prefix,
        )
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
        self._jobs: Jobs | None = None
        self._private = ""
        self._stopping = False
        self._reopening: asyncio.Task[None] | None = None

    # --- registering ---

    @property
    def tasks(self) -> Mapping[str, Callable[..., Any]]:
        """The functions registered, by url."""
        return dict(self._functions)

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
        if self._jobs is not None:
            raise BadRequest(f"task {url} comes too late: register tasks before the worker starts")
        self._functions[url] = function
        self._handlers[url] = Handler.of(url, function)

    # --- life ---

    async def start(self) -> None:
        """Connect and subscribe; returns once the server has the subscriptions, so that requests find this worker.

        Raises `Unavailable` if no NATS server answers, `BadRequest` without tasks, `TypeError` for a function whose
        arguments cannot be filled by name.
        """
        await self._start(wait_for_ever=False)

    async def _start(self, wait_for_ever: bool) -> None:
        if self._jobs is not None:
            raise BadRequest("this worker runs already")
        if not self._functions:
            raise BadRequest('this worker has no tasks: register functions with @worker.task("name")')
        for function in self._functions.values():
            bind(function)
        self._stopping = False
        self._jobs = Jobs(self.concurrency, self._answer, self._accept)
        try:
            await self._open(wait_for_ever)
        except BaseException:
            self._jobs = None
            raise
        log.info("serving %s as queue group %s", ", ".join(sorted(self._functions)), self.queue)

    async def stop(self, drain_seconds: float | None = None) -> bool:
        """Take nothing more, finish what is in hand, send the answers, close. Says whether everything was finished.

        What is not finished after `drain_seconds` is called off and given back to the engine.
        """
        self._stopping = True
        if self._reopening is not None:
            self._reopening.cancel()
        jobs, nc = self._jobs, self._nc
        if jobs is None or nc is None:
            return True
        finished = True
        try:
            await self._unsubscribe(nc, self._subs[1:])
            async with asyncio.timeout(self.drain_seconds if drain_seconds is None else drain_seconds):
                await jobs.idle()
        except TimeoutError:
            finished = False
            log.warning("stopping with %d tasks unfinished", jobs.running + jobs.waiting)
            await self._abandon()
        finally:
            await self._unsubscribe(nc, self._subs[:1])
            await self._close(nc)
            self._jobs = None
        return finished

    async def _abandon(self) -> None:
        """Call off everything and let the answers out; threads are not waited for."""
        if self._jobs is None:
            return
        self._jobs.abandon()
        for _ in range(100):
            if self._jobs.running <= self._jobs.blocked and not self._jobs.waiting:
                break
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def serve(self) -> bool:
        """Start, serve until SIGTERM or SIGINT, then `stop`; a second signal stops at once.

        Seeks a NATS server for ever. Gives the loop one thread per concurrent task. Says whether everything in hand
        was finished.
        """
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(self.concurrency, thread_name_prefix="dwarf-task"))
        first, second = asyncio.Event(), asyncio.Event()

        def on_signal() -> None:
            (second if first.is_set() else first).set()

        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal)
        try:
            if not await _unless(first, self._start(wait_for_ever=True)):
                return True
            await first.wait()
            log.info("draining")
            if not await _unless(second, self.stop()):
                await self.stop(0)
                return False
            return True
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def main(self) -> None:
        """Serve, as the last line of a script: `if __name__ == "__main__": worker.main()`. Ends the process."""
        main(self)

    # --- connection ---

    async def _open(self, wait_for_ever: bool) -> None:
        if self._given is not None:
            if self._given.is_closed:
                raise Unavailable("the NATS connection this worker was given is closed")
            nc = self._given
        else:
            nc = await connection.connect(self.options, self.name, closed=self._on_closed, wait_for_ever=wait_for_ever)
        self._nc = nc
        self._private = nc.new_inbox()
        # The private subject comes first, so that it is there before and after every task's.
        subs = [await nc.subscribe(self._private, cb=self._on_worker_call)]
        for url, handler in self._handlers.items():
            subs.append(await self._subscribe(nc, self._subjects.task(url), handler))
        await nc.flush()
        self._subs = subs

    async def _subscribe(self, nc: Nats, subject: str, handler: Handler) -> Subscription:
        async def on_request(msg: Msg) -> None:
            await self._on_request(handler, msg)

        return await nc.subscribe(
            subject, queue=self.queue, cb=on_request, pending_msgs_limit=1_000_000, pending_bytes_limit=0
        )

    async def _on_closed(self) -> None:
        """The server closed the connection for good (nats-py takes some errors so): make a new one."""
        if not self._stopping and self._reopening is None:
            log.warning("NATS closed the connection; connecting again")
            self._reopening = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        pause = 0.1
        while not self._stopping:
            try:
                await self._open(wait_for_ever=True)
                break
            except (DwarfError, nats.errors.Error) as error:
                log.warning("%s; trying again", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
        self._reopening = None

    async def _unsubscribe(self, nc: Nats, subs: Iterable[Subscription]) -> None:
        """Stop getting messages; those already sent to us are still handled."""
        for sub in subs:
            with contextlib.suppress(nats.errors.Error):
                await sub.drain()

    async def _close(self, nc: Nats) -> None:
        with contextlib.suppress(nats.errors.Error):
            if nc.is_connected:
                await nc.flush()
        if self._given is None and not nc.is_closed:
            await nc.close()

    # --- messages ---

    async def _on_request(self, handler: Handler, msg: Msg) -> None:
        jobs = self._jobs
        if jobs is None:
            return
        try:
            call = decode_request(msg.data)
        except BadRequest as error:
            log.warning("task %s: %s", handler.url, error)
            await self._reply(msg.reply, failed(error.code, error.message))
            return
        jobs.take(Job(call, msg.reply, handler, accept_seconds(msg.headers)))

    async def _answer(self, job: Job, answer: Answer) -> None:
        # A lost connection comes back, and with it the engine's inbox: the answer waits as long as it is wanted.
        nc = self._nc
        if nc is not None and not nc.is_connected and not job.call.cancelled:
            await until_connected(nc, min(job.call.budget, 60.0))
        await self._reply(job.reply, answer)

    async def _reply(self, subject: str, answer: Answer) -> None:
        nc = self._nc
        if not subject or nc is None:
            return
        body, headers = encode_answer(answer)
        try:
            check_size(nc, body, headers, "the task's reply")
        except TooLarge as error:
            body, headers = encode_answer(failed(error.code, error.message))
        try:
            await nc.publish(subject, body, headers=headers)
        except nats.errors.Error as error:
            log.warning("an answer could not be sent: %s", error)

    async def _accept(self, job: Job) -> None:
        if self._nc is not None and job.reply and not job.said:
            with contextlib.suppress(nats.errors.Error):
                await self._nc.publish(job.reply, headers={h.SIGNAL: h.ACCEPTED, h.WORKER: self._private})

    async def _on_worker_call(self, msg: Msg) -> None:
        jobs = self._jobs
        if jobs is None:
            return
        try:
            steps, cancel = decode_roll_call(msg.data)
        except BadRequest as error:
            log.warning("%s", error)
            return
        jobs.cancel(cancel)
        if msg.reply and self._nc is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._nc.publish(msg.reply, encode_running(jobs.roll_call(steps)))


async def _unless(event: asyncio.Event, coroutine: Any) -> bool:
    """Await the coroutine unless the event comes first, which cancels it. Says whether it came to its end."""
    work = asyncio.ensure_future(coroutine)
    stop = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return False
        work.result()
        return True
    finally:
        for one in (work, stop):
            one.cancel()
        await asyncio.gather(work, stop, return_exceptions=True)


def main(*workers: Worker) -> None:
    """Serve with these workers (one connection each) until SIGTERM or SIGINT, and end the process.

    Exit code 0 if everything in hand was finished, 1 if not or if the worker could not start.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def serve() -> int:
        try:
            finished = await asyncio.gather(*(worker.serve() for worker in workers))
        except (DwarfError, TypeError) as error:
            log.error("%s", error)
            return 1
        if not all(finished):
            # Threads cannot be ended, and leaving in order would wait for them.
            logging.shutdown()
            sys.stdout.flush()
            os._exit(1)
        return 0

    try:
        import uvloop

        code = uvloop.run(serve())
    except ImportError:
        code = asyncio.run(serve())
    raise SystemExit(code)
