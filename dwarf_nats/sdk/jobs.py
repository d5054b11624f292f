"""The executions a worker has in hand: never more than so many at once, the others wait their turn."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.errors import DwarfError
from dwarf_nats.telemetry.context import continued
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.arguments import TaskFunction, run_task
from dwarf_nats.workflow.flow import Parked
from dwarf_nats.workflow.keys import without_tokens
from dwarf_nats.workflow.raised import called_off, closes_coroutine, ends_process, named, text_of
from dwarf_nats.workflow.task_error import TaskError

from .calls import CANCELLED, bounced, failed

log = logging.getLogger("dwarf_nats.worker")
_step: ContextVar[str] = ContextVar("dwarf_nats_step", default="-")

_DEADLINE_GRACE = 1.0
"""Seconds after the deadline at which an execution is ended: room for clocks that differ a little."""


@dataclass(slots=True, eq=False)
class Job:
    """One request in hand. `reply` is the raw reply subject, empty if nobody wants an answer."""

    call: TaskCall
    reply: str
    handler: Handler
    accept_after: float | None = None
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    begun: bool = False
    """Its execution has begun; before that, an asyncio task that is cancelled would never run, nor tidy up."""
    ended: Answer | None = None
    """What is answered instead, once the execution was called off."""
    said: bool = False
    received: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def public_id(self) -> str:
        """The token-free id of the step."""
        return self.call.step_key.rpartition("-")[0]

    @property
    def log_fields(self) -> dict[str, object]:
        """Fields of a log line about it, token-free (T3)."""
        flow = self.call.flow_key.rpartition("-")[0]
        return {"flow_id": flow, "step_id": self.public_id, "workflow": self.call.workflow, "task": self.handler.url}


@dataclass(slots=True, frozen=True)
class Handler:
    """A task function. `blocking`: it runs in a thread, which nothing can end from outside."""

    url: str
    function: TaskFunction
    blocking: bool

    @classmethod
    def of(cls, url: str, function: TaskFunction) -> Handler:
        """Wrap a function so that what it raises is logged here with its traceback, which never travels."""
        plain: Any = function
        while isinstance(plain, functools.partial):
            plain = plain.func
        coroutine = inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(type(plain).__call__)
        # What is no function keeps its annotations where a wrapper would hide them.
        return cls(url, _logged(url, function, coroutine) if inspect.isroutine(function) else function, not coroutine)


def _logged(url: str, function: TaskFunction, coroutine: bool) -> TaskFunction:
    @functools.wraps(function)
    async def waited(**arguments: Any) -> Any:
        try:
            return await function(**arguments)
        except (Parked, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            _log(url, error)
            raise

    @functools.wraps(function)
    def called(**arguments: Any) -> Any:
        try:
            return function(**arguments)
        except Parked:
            raise
        except BaseException as error:
            _log(url, error)
            raise

    return waited if coroutine else called


def _log(url: str, error: BaseException) -> None:
    step = _step.get()
    log_fields = {"task": url, "step_id": step}
    if isinstance(error, TaskError | DwarfError):
        log.info("task %s, step %s: %s", url, step, without_tokens(text_of(error)), extra=log_fields)
    else:
        log.error("task %s, step %s raised %s", url, step, type(error).__name__, exc_info=error, extra=log_fields)


class Jobs:
    """Runs jobs, `limit` at once. `answer` sends the answer of a job, `accept` the signal *accepted*."""

    def __init__(
        self, limit: int, answer: Callable[[Job, Answer], Awaitable[None]], accept: Callable[[Job], Awaitable[None]]
    ) -> None:
        self._limit = limit
        self._answer = answer
        self._accept = accept
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()
        self._by_step: dict[str, list[Job]] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Executions going on."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @property
    def blocked(self) -> int:
        """Executions in threads, which only end by themselves."""
        return sum(job.handler.blocking for job in self._running)

    def take(self, job: Job) -> None:
        """Take a request in hand."""
        self._idle.clear()
        self._by_step.setdefault(job.public_id, []).append(job)
        self._waiting.append(job)
        self._wind(job)
        self._fill()

    def roll_call(self, steps: Iterable[str]) -> list[str]:
        """Those of the steps whose answer is still to come; a thread that was called off goes on without being counted."""
        return [step for step in steps if any(not job.said for job in self._by_step.get(step, ()))]

    def cancel(self, steps: Iterable[str]) -> None:
        """Call off the executions of these steps. Saying so again does not disturb one that is tidying up."""
        for step in steps:
            for job in [job for job in self._by_step.get(step, ()) if not job.call.cancelled]:
                log.info("step %s: cancelled", step, extra=job.log_fields)
                self._call_off(job, failed(CANCELLED, "the flow was cancelled while the task ran"))

    async def idle(self) -> None:
        """Wait until nothing is in hand and everything is said."""
        await self._idle.wait()
        while self._errands:
            await asyncio.gather(*self._errands, return_exceptions=True)

    def abandon(self) -> None:
        """Call off everything, so that the engine gives it to somebody else."""
        for job in [*self._waiting, *self._running]:
            self._call_off(job, bounced("the worker is stopping"))

    # --- inside ---

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._limit:
            job = self._waiting.popleft()
            self._running.add(job)
            job.task = asyncio.get_running_loop().create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        _step.set(job.public_id)
        job.begun = True
        try:
            try:
                answer = await self._executed(job) if job.ended is None else job.ended
            except KeyboardInterrupt:  # Ctrl-C: the process ends, the step goes elsewhere
                await self._say(job, bounced("the worker is stopping"))
                raise
            await self._say(job, answer)
        finally:
            self._running.discard(job)
            self._forget(job)
            self._fill()

    async def _executed(self, job: Job) -> Answer:
        """The answer of the task function, whatever becomes of it."""
        running = asyncio.current_task()
        try:
            with continued(job.call.traceparent, job.call.tracestate):
                return await run_task(job.handler.function, job.call)
        except asyncio.CancelledError:
            if called_off(running):
                return job.ended or bounced("the worker is stopping")
            return failed(500, "the task was cancelled from inside")
        except BaseException as error:
            if ends_process(error) or closes_coroutine(error, running):
                raise
            log.exception("task %s, step %s: the worker failed", job.handler.url, job.public_id, extra=job.log_fields)
            return failed(500, f"the worker failed: {named(error)}")

    async def _say(self, job: Job, answer: Answer) -> None:
        if job.said:
            return
        job.said = True
        try:
            await self._answer(job, answer)
        except Exception:
            log.exception(
                "task %s, step %s: its answer could not be sent", job.handler.url, job.public_id, extra=job.log_fields
            )

    def _call_off(self, job: Job, answer: Answer) -> None:
        job.call.cancelled = True
        job.ended = answer
        if job.task is None:
            self._waiting.remove(job)
            self._forget(job)
            self._errand(self._say(job, answer))
        elif job.handler.blocking:
            # The thread goes on and keeps its place, but nobody need wait for it.
            self._errand(self._say(job, answer))
        elif job.begun and not job.said:
            job.task.cancel()

    def _forget(self, job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
        same = self._by_step.get(job.public_id, [])
        if job in same:
            same.remove(job)
        if not same:
            self._by_step.pop(job.public_id, None)
        if not self._by_step:
            self._idle.set()

    def _errand(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _wind(self, job: Job) -> None:
        """One timer per job: first for *accepted*, then for the deadline. Short executions pay for no second one."""
        loop = asyncio.get_running_loop()
        deadline = job.received + job.call.budget + _DEADLINE_GRACE
        accept = None if job.accept_after is None or not job.reply else job.received + job.accept_after
        if accept is not None and accept < deadline:
            job.timer = loop.call_at(accept, self._due_accept, job)
        elif deadline != float("inf"):
            job.timer = loop.call_at(deadline, self._due_deadline, job)

    def _due_accept(self, job: Job) -> None:
        self._errand(self._accept(job))
        job.accept_after = None
        self._wind(job)

    def _due_deadline(self, job: Job) -> None:
        log.warning("task %s, step %s: not done by its deadline", job.handler.url, job.public_id, extra=job.log_fields)
        self._call_off(job, failed(408, f"task {job.handler.url} was not done by its deadline"))
