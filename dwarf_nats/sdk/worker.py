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
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from nats.aio.client import Client as Nats

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.prepared import bind
from dwarf_nats.workflow.task_parameters import note_url

from . import serving
from .codec import SharedArguments, connect_arguments
from .discovery import DiscoveryResponder
from .executions import Handler
from .link import Link
from .task_executor import TaskExecutor
from .task_server import TaskServer
from .task_subscriptions import TaskSubscriptions
from .worker_graphs import WorkerGraphs

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger("dwarf_nats.worker")
F = TypeVar("F", bound=Callable[..., Any])
MOST_QUEUE_SECONDS = 10 * 365 * 86_400
"""Bound of `queue_timeout`; a longer one is taken for a mistake."""
CANCELLED_POLL_SECONDS, CANCELLED_POLLS = 0.01, 100
"""Pause between two looks at the executions that `stop` has cancelled, and how many looks there are."""


class Worker:
    """Serves tasks. Coroutine functions run on the event loop, plain functions in threads.

    `concurrency`: the number of executions at once; further requests wait here, and their time budgets do not count meanwhile.
    `queue_timeout`: the seconds that a request may wait here before the engine runs its step elsewhere, unless the node says
    how long; by default its time budget. `queue`: the queue group, the same for all
    instances of a task service, since each group gets every request. `drain_seconds`: how long `stop` waits for running
    executions. `how`: credentials and TLS, the fields of `ConnectOptions`; and `codec`, which opens sealed fields for the tasks
    and seals those of their answers; and `claim_checks`, which keep large values in the object store.
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
        queue_timeout: float | None = None,
        **how: Unpack[SharedArguments],
    ) -> None:
        if concurrency < 1:
            raise BadRequest(f"concurrency must be at least 1, got {concurrency}")
        if queue_timeout is not None and not 0.001 <= queue_timeout < MOST_QUEUE_SECONDS:
            raise BadRequest(
                f"queue_timeout must be 0.001 seconds or more, and less than ten years, got {queue_timeout}"
            )
        self.codec = how.get("codec")
        self.claim_checks = how.get("claim_checks")
        self._queue_timeout_ms = None if queue_timeout is None else round(queue_timeout * 1000)
        self.options = ConnectOptions(url=url, **connect_arguments(how))
        self.concurrency = concurrency
        self.queue = check_subject_name(queue, "queue group")
        self.name = name
        self.drain_seconds = drain_seconds
        self._subjects = Subjects(task_prefix=task_prefix)
        self._given = nc
        self._handlers: dict[str, Handler] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._hurry = asyncio.Event()
        self._graphs = WorkerGraphs()
        # Those of the last start; the executor of the server says whether the worker is running.
        self._link = Link()
        self._server: TaskServer | None = None
        self._subscriptions: TaskSubscriptions | None = None

    # --- registering ---

    @property
    def tasks(self) -> Mapping[str, Callable[..., Any]]:
        """The registered functions, by url."""
        return dict(self._functions)

    @property
    def served(self) -> list[str]:
        """The urls of the tasks that are served: the registered ones, without those whose subjects permissions refuse."""
        return [] if self._subscriptions is None else list(self._subscriptions.served)

    @property
    def is_running(self) -> bool:
        """True from the beginning of `start` to the end of `stop`."""
        return self._server is not None and self._server.executor is not None

    def task(self, url: str) -> Callable[[F], F]:
        """Register the decorated function for the task `url`; it can be called as before.

        Example: `@worker.task("charge")`
        """

        def register(function: F) -> F:
            self.add_task(url, function)
            return function

        return register

    def add_task(self, url: str, function: Callable[..., Any]) -> None:
        """Register a function for the task `url`. Raises `BadRequest` for a bad or taken url.

        Example: `worker.add_task("charge", charge)`
        """
        check_subject_name(url, "task url")
        if not callable(function):
            raise BadRequest(f'task {url} needs a function: write @worker.task("{url}") above one')
        if url in self._functions:
            raise BadRequest(f"task {url} is registered twice; one worker serves it with one function")
        if self.is_running:
            raise BadRequest(f"task {url} comes too late: register tasks before the worker starts")
        note_url(function, url)
        self._functions[url] = function
        self._handlers[url] = Handler.of(url, function)

    def graphs(self, *given: Graph | str | os.PathLike[str], prefix: str = "dwarf") -> None:
        """Register graphs when the worker starts: folders of graph files, files, `Graph`s and `Workflow`s.

        All are read and checked here. Raises `BadRequest` with all problems, each with file and line. `prefix`: the subject
        prefix of the deployment. A worker that serves waits for a replica to register them; `start` raises `Unavailable`.

        Example: `worker.graphs(graph)`
        """
        if self.is_running:
            raise BadRequest("graphs come too late: name them before the worker starts")
        self._graphs.add(given, prefix)

    @property
    def registered_graphs(self) -> list[Graph]:
        """The graphs that it registers when it starts."""
        return self._graphs.all

    # --- life ---

    async def start(self) -> None:
        """Connect and subscribe; returns once the server has the subscriptions, so that requests find this worker.

        Raises `Unavailable` if no NATS server answers, `Forbidden` if permissions let it serve no task, `BadRequest` without
        tasks, `TypeError` for a function whose arguments cannot be filled by name.

        Example: `await worker.start()`
        """
        await self._start(retry=False)

    async def start_patiently(self) -> None:
        """Start as `start` does, but wait for a NATS server for ever.

        Example: `await worker.start_patiently()`
        """
        await self._start(retry=True)

    async def _start(self, retry: bool) -> None:
        if self.is_running:
            raise BadRequest("this worker runs already")
        if not self._functions:
            raise BadRequest('this worker has no tasks: register functions with @worker.task("name")')
        for function in self._functions.values():
            bind(function)
        self._hurry.clear()
        subjects = {url: self._subjects.task(url) for url in self._handlers}
        self._link = Link()
        self._server = server = TaskServer(
            self._link,
            self._subjects,
            self.concurrency,
            DiscoveryResponder(self.name, self.queue, subjects),
            queue_timeout_ms=self._queue_timeout_ms,
            codec=self.codec,
            claim_checks=self.claim_checks,
        )
        server.batches.take(self._handlers)
        self._subscriptions = subscriptions = TaskSubscriptions(
            self._link,
            server,
            self._handlers,
            options=self.options,
            name=self.name,
            queue=self.queue,
            subjects=self._subjects,
            given=self._given,
        )
        try:
            await subscriptions.start(retry)
        except BaseException:
            self._link.last = True
            server.end()
            raise
        await self._register_graphs(retry)
        log.info("serving %s as queue group %s", ", ".join(subscriptions.served), self.queue)

    async def _register_graphs(self, retry: bool) -> None:
        if not len(self._graphs) or self._link.nc is None:
            return
        try:
            await self._graphs.register(self._link.nc, name=self.name, retry=retry)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, drain_seconds: float | None = None) -> bool:
        """Accept no more requests, finish the running executions, send their answers, close the connection.

        Returns whether everything was finished. Executions that are not after `drain_seconds` are cancelled, and the engine
        runs their steps elsewhere.

        Example: `finished = await worker.stop(drain_seconds=5)`
        """
        server, subscriptions = self._server, self._subscriptions
        if subscriptions is not None:
            await subscriptions.stop_opening()
        if server is None or server.executor is None or subscriptions is None:
            return True
        seconds = self.drain_seconds if drain_seconds is None else drain_seconds
        server.batches.withdraw()
        try:
            await subscriptions.leave_tasks()
            finished = await self._finish(server.executor, seconds)
        finally:
            server.end()
            await subscriptions.close()
        return finished

    async def _finish(self, executor: TaskExecutor, seconds: float) -> bool:
        """Wait for the executions, and cancel those that are left then; returns whether there were none."""
        idle, hurry = asyncio.ensure_future(executor.wait_idle()), asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({idle, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if idle.done():
                return True
            log.warning("stopping with %d tasks unfinished", executor.running + executor.waiting)
            await _cancel_all(executor)
            return False
        finally:
            idle.cancel()
            hurry.cancel()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def halt(self) -> None:
        """Make a `stop` that is under way cancel the executions now instead of waiting for them.

        Example: `worker.halt()`
        """
        self._hurry.set()

    async def serve(self) -> bool:
        """Start, serve until SIGTERM or SIGINT, then `stop`; a second signal stops at once.

        Waits for a NATS server for ever. Gives the event loop one thread per concurrent task. Returns whether every
        execution was finished.

        Example: `finished = await worker.serve()`
        """
        return await serving.serve(self)

    def main(self) -> None:
        """Serve and end the process; the last line of a script: `if __name__ == "__main__": worker.main()`.

        Example: `worker.main()`
        """
        serving.main(self)


async def _cancel_all(executor: TaskExecutor) -> None:
    """Cancel everything and let the answers out. Threads are not waited for."""
    executor.cancel_all()
    for _ in range(CANCELLED_POLLS):
        if executor.running <= executor.blocked and not executor.waiting:
            break
        await asyncio.sleep(CANCELLED_POLL_SECONDS)
