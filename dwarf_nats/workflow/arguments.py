"""Call a Python function as a task: state fields become arguments, and the returned value becomes changes.

A task function asks for state fields by the names of its parameters and gets them in the types of its annotations::

    async def charge(order_id: str, total: Decimal, currency: str = "EUR") -> dict[str, str]: ...
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, ParamSpec

from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
from dwarf_nats.workflow.flow import Flow, Suspended
from dwarf_nats.workflow.state import MAX_DEPTH, Raw, State, check_state, decode_value, encode_value, json_type
from dwarf_nats.workflow.task_error import TaskError, error_info, failure
from dwarf_nats.workflow.task_exceptions import closes_coroutine, ends_process, was_cancelled
from dwarf_nats.workflow.task_parameters import Filled, Parameter, TaskFunction, name_of, parameters_of, plain
from dwarf_nats.workflow.typed_values import Decode, Mismatch, decoder_of, is_record

P = ParamSpec("P")


def bind(func: TaskFunction) -> Callable[[Flow], dict[str, Any]]:
    """Make a function that takes a `Flow` and returns the keyword arguments for `func`.

    It raises `TaskError` (400) for a state that does not fit. `bind` itself raises `TypeError` for a function that can never be
    called by name: positional-only or `*args` parameters, or annotations that cannot be resolved.
    """
    parameters = parameters_of(func)
    fillers = [_filler(func, parameter) for parameter in parameters]
    named = frozenset(parameter.name for parameter in parameters if parameter.filled is not Filled.REST)

    def fill(flow: Flow) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for filler in fillers:
            filler(flow, arguments, named)
        return arguments

    return fill


def changes_of(returned: Any, max_depth: int = MAX_DEPTH) -> State:
    """Convert the value that a task function returned to changes: `None`, a mapping, a dataclass, a msgspec struct or
    a pydantic model. Raises `TaskError` for any other type, `BadRequest` for values that cannot be stored (S1).
    """
    if returned is None:
        return {}
    if isinstance(returned, Mapping):
        values: Any = dict(returned)
    elif is_record(returned):
        values = returned
    else:
        raise TaskError(
            f"a task returns its changes as a mapping, a dataclass, a msgspec struct, a pydantic model or None,"
            f' not {_described(returned)}: return {{"field": value}}'
        )
    text = encode_value(values, "what the task returned")
    return check_state(text, "what the task returned", max_depth)


async def run_task(func: TaskFunction, call: TaskCall, max_depth: int = MAX_DEPTH) -> Answer:
    """Run a task function for one call and return its answer; every exception becomes an error of the step.

    That holds for every `BaseException`, except Ctrl-C and the cancellation of the asyncio task this runs in. Coroutine
    functions run on the event loop, plain functions in a thread. The caller enforces the deadline by cancelling this.
    """
    flow = Flow.from_call(call)
    running = asyncio.current_task()
    try:
        prepared = _prepared(func)
        if prepared.coroutine:
            returned = await func(**prepared.fill(flow))
        else:
            if call.report is not None:
                call.report = _on_this_loop(call.report)  # it reports from its thread
            if call.emit is not None:
                call.emit = _on_this_loop(call.emit)
            returned = await _called_in_thread(func, prepared.fill(flow))
        changes = changes_of(returned, max_depth)
    except Suspended:
        return flow.answer()
    except asyncio.CancelledError:
        if was_cancelled(running):
            raise
        return _failed(flow, ErrorInfo("the task was cancelled from inside", 500))
    except _InThread as raised:
        return _failed(flow, error_info(raised.error))
    except BaseException as error:
        if ends_process(error) or closes_coroutine(error, running):
            raise
        return _failed(flow, error_info(error))
    answer = flow.answer()
    answer.changes |= changes
    return answer


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


def _is_coroutine(func: TaskFunction) -> bool:
    return inspect.iscoroutinefunction(plain(func)) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


class _Prepared(NamedTuple):
    """A task function as it was looked at once: the filler of its arguments, and whether it is a coroutine function."""

    fill: Callable[[Flow], dict[str, Any]]
    coroutine: bool


@functools.lru_cache(maxsize=1024)
def _prepared_once(func: TaskFunction) -> _Prepared:
    return _Prepared(bind(func), _is_coroutine(func))


def _prepared(func: TaskFunction) -> _Prepared:
    try:
        return _prepared_once(func)
    except TypeError:  # it has no hash, or cannot be called by name
        return _Prepared(bind(func), _is_coroutine(func))


_Filler = Callable[[Flow, dict[str, Any], frozenset[str]], None]


def _filler(func: TaskFunction, parameter: Parameter) -> _Filler:
    match parameter.filled:
        case Filled.FLOW:
            return _carrier_filler(parameter.name)
        case Filled.REST:
            return _rest_filler
        case Filled.STATE:
            return _state_filler(func, parameter)
        case Filled.FIELD:
            return _field_filler(func, parameter)


def _carrier_filler(name: str) -> _Filler:
    def fill(flow: Flow, arguments: dict[str, Any], _: frozenset[str]) -> None:
        arguments[name] = flow

    return fill


def _rest_filler(flow: Flow, arguments: dict[str, Any], named: frozenset[str]) -> None:
    for name in flow.names - named:
        value = flow.raw(name)
        arguments[name] = None if value is None else decode_value(value)


def _state_filler(func: TaskFunction, parameter: Parameter) -> _Filler:
    decode = _decoder(func, parameter)

    def fill(flow: Flow, arguments: dict[str, Any], _: frozenset[str]) -> None:
        arguments[parameter.name] = _converted(decode, flow.text(), f"task {flow.task}: the state")

    return fill


def _field_filler(func: TaskFunction, parameter: Parameter) -> _Filler:
    name = parameter.name
    decode = _decoder(func, parameter)

    def fill(flow: Flow, arguments: dict[str, Any], _: frozenset[str]) -> None:
        value = flow.raw(name)
        if value is not None:
            arguments[name] = _converted(decode, value, f"task {flow.task}: state field `{name}`")
        elif parameter.required and parameter.optional:
            arguments[name] = None
        elif parameter.required:
            raise TaskError(
                f"task {flow.task} needs the state field `{name}`, which is not there:"
                " have it set before, or give the parameter a default",
                code=400,
                final=True,
            )

    return fill


def _decoder(func: TaskFunction, parameter: Parameter) -> Decode:
    try:
        return decoder_of(parameter.hint)
    except TypeError as error:
        raise TypeError(
            f"task function {name_of(func)}: parameter {parameter.name!r} has an unusable type: {error}"
        ) from None


def _converted(decode: Decode, text: Raw | bytes, what: str) -> Any:
    try:
        return decode(text)
    except Mismatch as error:
        # Final (L1): another attempt would get the same state.
        raise TaskError(f"{what}: {error}", code=400, final=True) from None


def _described(value: Any) -> str:
    if isinstance(value, bool | int | float | str | list | tuple):
        return f"a {json_type(value)}"
    return f"an object of type {type(value).__name__}"
