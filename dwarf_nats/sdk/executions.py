"""The executions of a worker: a request with its task function, and what it sends while it runs."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from dwarf_nats.errors import DwarfError
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.keys import without_tokens
from dwarf_nats.workflow.prepared import Prepared, prepare
from dwarf_nats.workflow.task_error import TaskError
from dwarf_nats.workflow.task_exceptions import error_text
from dwarf_nats.workflow.task_parameters import TaskFunction

from .batch_answers import BatchAnswers
from .progress import ProgressSender

if TYPE_CHECKING:
    from dwarf_nats.workflow.output import Output
    from dwarf_nats.workflow.progress import Progress

    from .output import ExecutionOutput, OutputPublisher

log = logging.getLogger("dwarf_nats.worker")
current_step: ContextVar[str] = ContextVar("dwarf_nats_step", default="-")
"""The token-free id of the step whose execution runs here."""


def _now() -> float:
    return asyncio.get_running_loop().time()


class Execution(msgspec.Struct, eq=False):
    """One request that was accepted. `reply` is its reply subject, empty if nobody wants an answer."""

    call: TaskCall
    reply: str
    handler: Handler
    accept_after: float | None = None
    takes_queued: bool = False
    """The engine understands *queued* and *started* (K3)."""
    send_progress: SendProgress | None = None
    progress: ProgressSender | None = None
    """Made with the first progress that the task reports."""
    batch: BatchAnswers | None = None
    """Takes the answer and the signals, if the request came with others in one message."""
    opened: frozenset[str] = frozenset()
    """The fields that came sealed: they are sealed in the answer, too (B9)."""
    publisher: OutputPublisher | None = None
    output: ExecutionOutput | None = None
    """Made with the first piece that the task emits."""
    task: asyncio.Task[None] | None = None
    """The asyncio task that runs it once it has a slot; several may share one (`SharedTask`)."""
    timer: asyncio.TimerHandle | None = None
    """A timer of its own. Most executions end before they need one, see `ExecutionTimers`."""
    has_started: bool = False
    """True once its asyncio task runs. A task that is cancelled before would never run, and so not clean up."""
    replacement: Answer | None = None
    """The answer to send instead of the task's own, set when the execution is cancelled."""
    answered: bool = False
    storing: bool = False
    """Its answer is there, but not sent: large values of it are being stored (B10)."""
    queued: bool = False
    """It was announced that it waits: then its budget counts from its start."""
    asked_at: float | None = None
    """When the engine last asked after it, while it waits."""
    received: float = msgspec.field(default_factory=_now)
    public_id: str = ""
    """The token-free id of the step."""

    def __post_init__(self) -> None:
        self.public_id = self.call.step_key.rpartition("-")[0]
        if self.handler.takes_flow:  # no other function can report or emit
            if self.send_progress is not None:
                self.call.report = self.report
            if self.publisher is not None:
                self.call.emit = self.emit

    def release(self) -> None:
        """Take back what was lent to the call: the two hold each other, and only Python's collector would free them."""
        if self.handler.takes_flow:
            self.call.report = self.call.emit = None

    def report(self, step_key: str, progress: Progress) -> None:
        """Send a progress of the task."""
        if self.progress is None and self.send_progress is not None:
            self.progress = ProgressSender(functools.partial(self.send_progress, self))
        if self.progress is not None:
            self.progress.report(step_key, progress)

    def emit(self, output: Output) -> None:
        """Publish a piece of output of the task."""
        if self.output is None and self.publisher is not None:
            self.output = self.publisher.output_of(self)
        if self.output is not None:
            self.output.emit(output)

    @property
    def is_in_hand(self) -> bool:
        """True until its answer is ready to be sent."""
        return not self.answered or self.storing

    @property
    def log_fields(self) -> dict[str, object]:
        """Fields for log lines about the execution, without tokens (T3)."""
        flow = self.call.flow_key.rpartition("-")[0]
        return {"flow_id": flow, "step_id": self.public_id, "workflow": self.call.workflow, "task": self.handler.url}


SendProgress: TypeAlias = Callable[[Execution, bytes], Awaitable[bool]]
"""Sends what a task reports; false if that could not be sent now."""


class Handler:
    """A task function. `blocking`: it runs in a thread, which cannot be ended from outside.

    `takes_flow`, `never_waits`: see `Prepared`; for a function that can never be called they do not matter.
    """

    __slots__ = ("blocking", "function", "never_waits", "takes_flow", "url")

    def __init__(self, url: str, function: TaskFunction, prepared: Prepared | None) -> None:
        self.url = url
        self.function = function
        self.blocking = prepared is None or not prepared.coroutine
        self.takes_flow = prepared is None or prepared.takes_flow
        self.never_waits = prepared is not None and prepared.never_waits

    @classmethod
    def of(cls, url: str, function: TaskFunction) -> Handler:
        """Look at a function, also at one that cannot be called: the start of the worker tells."""
        try:
            return cls(url, function, prepare(function))
        except TypeError:
            return cls(url, function, None)

    def raised(self, error: BaseException) -> None:
        """Log what the function has raised, with its traceback, which is never sent."""
        _log(self.url, error)


def _log(url: str, error: BaseException) -> None:
    step = current_step.get()
    log_fields = {"task": url, "step_id": step}
    if isinstance(error, TaskError | DwarfError):
        log.info("task %s, step %s: %s", url, step, without_tokens(error_text(error)), extra=log_fields)
    else:
        log.error("task %s, step %s raised %s", url, step, type(error).__name__, exc_info=error, extra=log_fields)
