"""The world of a test environment: its tasks, its services, and the failures it was told to have."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from dwarf_nats.local.functions import NOT_HERE, FunctionTasks
from dwarf_nats.testing.fakes import Emitted, Fake, ServiceRecord, TaskRecord, record_of
from dwarf_nats.testing.faults import Fault, Faults, Kind
from dwarf_nats.wire.tasks import decode_reply, timed_out
from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.names import subject_problem
from dwarf_nats.workflow.services import ServiceReply
from dwarf_nats.workflow.sources import matches
from dwarf_nats.workflow.state import Raw, decode_value, encode_value
from dwarf_nats.workflow.task_error import TaskError, error_info, failure

if TYPE_CHECKING:
    from dwarf_nats.testing.activity import Activity
    from dwarf_nats.testing.skipping_clock import SkippingClock
    from dwarf_nats.workflow.output import Output
    from dwarf_nats.workflow.services import ServiceCall

REMEDY = 'register a worker with env.use(worker), or a fake with env.fake("{url}", returns={})'
TASK_PREFIX = "task."
"""A task may also be named by the NATS subject that it has by default."""
NO_JSON = b'{"changes": {"total": '
"""A reply whose end is missing."""


class Surroundings:
    """The state that tasks and services share: the failures, the clock, and whether the replica is to be killed."""

    def __init__(self, clock: SkippingClock, activity: Activity) -> None:
        self.clock = clock
        self.activity = activity
        self.faults = Faults()
        self.crash_wanted = False
        self.waiting = 0
        """Calls that wait for a time, or for the end of the replica."""

    async def crash(self) -> None:
        """Ask for the end of the replica, and never return: it ends this call."""
        self.crash_wanted = True
        with self._waiting():
            await asyncio.Event().wait()

    async def pass_budget(self, seconds: float) -> None:
        """Wait until the time budget of a call is over."""
        with self._waiting():
            await self.clock.until_due(seconds)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self.waiting += 1
        self.activity.note()
        try:
            yield
        finally:
            self.waiting -= 1
            self.activity.note()


class EnvTasks(FunctionTasks):
    """The port `Tasks`: fakes first, then the functions of workers. `calls`: every execution, by url."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(REMEDY)
        self.fakes: dict[str, Fake] = {}
        self.calls: dict[str, list[TaskRecord]] = {}
        self.emitted: list[Emitted] = []
        self._around = surroundings

    async def execute(self, call: TaskCall) -> Answer:
        record = record_of(call)
        self.calls.setdefault(call.url, []).append(record)
        fault = self._around.faults.of((call.url, TASK_PREFIX + call.url), record)
        if fault is not None and fault.kind is not Kind.CRASH:
            return await self._fail(fault, call)
        with self._around.activity.during(f"task {call.url}"):
            answer = await self._run(call, record)
        if fault is not None:
            await self._around.crash()
        return answer

    async def _run(self, call: TaskCall, record: TaskRecord) -> Answer:
        fake = self.fakes.get(call.url) or self.fakes.get(TASK_PREFIX + call.url)
        if fake is not None:
            fake.calls.append(record)
        call.emit = partial(self._emit, record)
        function = self.functions.get(call.url) if fake is None else fake.function
        return self.missing(call.url) if function is None else await run_task(function, call, self.max_depth)

    def _emit(self, record: TaskRecord, output: Output) -> None:
        self.emitted.append(Emitted(record, output))

    async def _fail(self, fault: Fault, call: TaskCall) -> Answer:
        if fault.kind is Kind.TIMEOUT:
            await self._around.pass_budget(call.budget)
            return timed_out(call.url, call.budget)
        if fault.kind is Kind.MALFORMED:
            return decode_reply(call.url, None, NO_JSON)
        return failure(error_info(_raised(fault)))


class EnvServices:
    """The port `Services`: fakes by subject, and the messages that were published."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.fakes: dict[str, Fake] = {}
        self.published: list[ServiceRecord] = []
        self._around = surroundings

    async def request(self, call: ServiceCall) -> ServiceReply:
        """Answer by the fake of the subject."""
        record = _record(call)
        fake = next((fake for pattern, fake in self.fakes.items() if matches(pattern, call.subject)), None)
        fault = self._around.faults.of((call.subject,), record)
        if fault is not None and fault.kind is not Kind.CRASH:
            return await self._fail(fault, call)
        if fake is None:
            message = f'no fake answers requests to {call.subject}: env.service("{call.subject}", returns=…)'
            return ServiceReply(error=ErrorInfo(message, NOT_HERE))
        with self._around.activity.during(f"service {call.subject}"):
            fake.calls.append(record)
            reply = await self._answered(fake, record)
        if fault is not None:
            await self._around.crash()
        return reply

    async def publish(self, call: ServiceCall, *, stream: bool) -> ServiceReply:
        """Keep the message."""
        record = _record(call, stream=stream)
        fault = self._around.faults.of((call.subject,), record)
        if fault is not None and fault.kind is not Kind.CRASH:
            return await self._fail(fault, call)
        self.published.append(record)
        if fault is not None:
            await self._around.crash()
        return ServiceReply()

    def refuses(self, subject: str) -> str:
        """Return the reason why nothing can be sent to a subject; empty if it can."""
        return subject_problem(subject)

    async def _answered(self, fake: Fake, record: ServiceRecord) -> ServiceReply:
        try:
            value = _call(fake.function, record)
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:
            return _failed(failure(error_info(error)))
        return ServiceReply(value=None if value is None else Raw(encode_value(value, f"the reply of {fake.name}")))

    async def _fail(self, fault: Fault, call: ServiceCall) -> ServiceReply:
        if fault.kind is Kind.TIMEOUT:
            await self._around.pass_budget(call.budget)
            return _failed(timed_out(call.subject, call.budget))
        if fault.kind is Kind.MALFORMED:
            return ServiceReply(error=ErrorInfo(f"the service at {call.subject} sent a reply that is no JSON", 502))
        return _failed(failure(error_info(_raised(fault))))


def _call(function: Callable[..., Any], record: ServiceRecord) -> Any:
    """Call the function of a fake: with the record of the request, if it takes an argument."""
    return function(record) if inspect.signature(function).parameters else function()


def _failed(answer: Answer) -> ServiceReply:
    return ServiceReply(error=answer.error, disposition=answer.disposition, cause=answer.cause)


def _raised(fault: Fault) -> BaseException:
    error = fault.error if fault.error is not None else TaskError(f"a failure that the test asked for in {fault.name}")
    return error() if isinstance(error, type) else error


def _record(call: ServiceCall, *, stream: bool = False) -> ServiceRecord:
    return ServiceRecord(
        subject=call.subject,
        payload=decode_value(Raw(call.payload)) if call.payload else None,
        headers=dict(call.headers),
        attempt=call.attempt,
        stream=stream,
    )
