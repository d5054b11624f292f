"""Call a Python function as a task: state fields become arguments, and the returned value becomes changes.

A task function asks for state fields by the names of its parameters and gets them in the types of its annotations::

    async def charge(order_id: str, total: Decimal, currency: str = "EUR") -> dict[str, str]: ...
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec

from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
from dwarf_nats.workflow.flow import Flow, Suspended
from dwarf_nats.workflow.prepared import changes_text, prepare
from dwarf_nats.workflow.state import MAX_DEPTH, decode_state
from dwarf_nats.workflow.task_error import error_info, failure
from dwarf_nats.workflow.task_exceptions import closes_coroutine, ends_process, was_cancelled
from dwarf_nats.workflow.task_parameters import TaskFunction

P = ParamSpec("P")
Raised = Callable[[BaseException], None]
"""Is told what a task function has raised, other than to pause or because it was cancelled."""


async def run_task(func: TaskFunction, call: TaskCall, max_depth: int = MAX_DEPTH) -> Answer:
    """Run a task function for one call and return its answer; every exception becomes an error of the step.

    That holds for every `BaseException`, except Ctrl-C and the cancellation of the asyncio task this runs in. Coroutine
    functions run on the event loop, plain functions in a thread. The caller enforces the deadline by cancelling this.
    """
    answer = await run_call(func, call, asyncio.current_task(), max_depth=max_depth)
    return Answer(changes=decode_state(answer)) if isinstance(answer, bytes) else answer


async def run_call(
    func: TaskFunction,
    call: TaskCall,
    running: asyncio.Task[Any] | None,
    raised: Raised | None = None,
    max_depth: int = MAX_DEPTH,
) -> Answer | bytes:
    """Run a task function as `run_task`; for an answer that has nothing but changes, return their JSON text.

    `running`: the asyncio task that this runs in.
    """
    flow: Flow | None = None
    try:
        prepared = prepare(func)
        if prepared.takes_flow:
            flow = Flow.from_call(call)
        arguments = prepared.fill(call if flow is None else flow)
        if prepared.coroutine:
            returned = await _told(func(**arguments), raised)
        else:
            if call.report is not None:
                call.report = _on_this_loop(call.report)  # it reports from its thread
            if call.emit is not None:
                call.emit = _on_this_loop(call.emit)
            returned = await _told(_called_in_thread(func, arguments), raised)
        return _answer(flow, changes_text(returned, max_depth))
    except BaseException as error:
        answer = _answer_to(error, flow or Flow.from_call(call), running)
        if answer is None:
            raise
        return answer


def run_at_once(func: TaskFunction, call: TaskCall, raised: Raised | None = None) -> Answer | bytes:
    """Run a coroutine function that never waits (`Prepared.never_waits`) as `run_call`, but without waiting.

    The asyncio task that runs here is not the function's own: it is not cancelled to end the function.
    """
    flow: Flow | None = None
    try:
        prepared = prepare(func)
        if prepared.takes_flow:
            flow = Flow.from_call(call)
        coroutine = func(**prepared.fill(call if flow is None else flow))
        try:
            coroutine.send(None)
        except StopIteration as end:
            return _answer(flow, changes_text(end.value, MAX_DEPTH))
        except BaseException as error:
            _tell(raised, error)
            raise
        coroutine.close()
        raise RuntimeError("a function without await has waited")
    except asyncio.CancelledError:
        return _failed(flow or Flow.from_call(call), _cancelled_from_inside())
    except BaseException as error:
        answer = _answer_to(error, flow or Flow.from_call(call), None)
        if answer is None:
            raise
        return answer


async def _told(running: Awaitable[Any], raised: Raised | None) -> Any:
    try:
        return await running
    except BaseException as error:
        _tell(raised, error)
        raise


def _tell(raised: Raised | None, error: BaseException) -> None:
    if isinstance(error, Suspended | asyncio.CancelledError | GeneratorExit):
        return
    if raised is not None:
        raised(error.error if isinstance(error, _InThread) else error)


def _answer(flow: Flow | None, changes: bytes) -> Answer | bytes:
    """The answer of a function that has returned: what it set and asked for, and the changes that it returned."""
    if flow is None:
        return changes
    answer = flow.answer()
    answer.changes |= decode_state(changes)
    return answer


def _answer_to(error: BaseException, flow: Flow, running: asyncio.Task[Any] | None) -> Answer | None:
    """The answer of a function that has raised; `None` if that is no error of the function and has to be raised on."""
    if isinstance(error, Suspended):
        return flow.answer()
    if isinstance(error, asyncio.CancelledError):
        return None if was_cancelled(running) else _failed(flow, _cancelled_from_inside())
    if isinstance(error, _InThread):
        return _failed(flow, error_info(error.error))
    if ends_process(error) or closes_coroutine(error, running):
        return None
    return _failed(flow, error_info(error))


def _cancelled_from_inside() -> ErrorInfo:
    return ErrorInfo("the task was cancelled from inside", 500)


def _on_this_loop(function: Callable[P, None]) -> Callable[P, None]:
    """A function for other threads that has `function` called on the event loop that runs here."""
    loop = asyncio.get_running_loop()

    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        loop.call_soon_threadsafe(functools.partial(function, *args, **kwargs))

    return told


def _failed(flow: Flow, error: ErrorInfo) -> Answer:
    """The answer for an error, with a retry if the task asked for one (X5).

    Changes are sent with the retry only: they take effect if it is granted (S6).
    """
    answer = failure(error)
    asked = flow.answer()
    answer.retry, answer.sleep_ms = asked.retry, asked.sleep_ms
    if asked.retry is not None:
        answer.changes, answer.tags = asked.changes, asked.tags
    return answer


class _InThread(Exception):
    """Carries a `BaseException` that a task function raised in a thread; on the event loop it would have another meaning."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _called_in_thread(func: TaskFunction, arguments: dict[str, Any]) -> Any:
    returned, error = await asyncio.to_thread(_caught, func, arguments)
    if error is not None:
        raise error if isinstance(error, Exception | Suspended) else _InThread(error)
    return await returned if isinstance(returned, Awaitable) else returned


def _caught(func: TaskFunction, arguments: dict[str, Any]) -> tuple[Any, BaseException | None]:
    """Call a function; exceptions are returned, since a future cannot carry every kind (`StopIteration` for one)."""
    try:
        return func(**arguments), None
    except StopIteration as error:
        return None, RuntimeError(f"StopIteration: {error}" if str(error) else "StopIteration")
    except BaseException as error:
        return None, error
