"""A task function looked at once: the filler of its arguments, and the kind of function it is.

Its arguments come from a `Flow`, or from the call alone if the function takes no `Flow`, which then is never made.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.state import (
    MAX_DEPTH,
    Raw,
    State,
    check_json,
    decode_state,
    decode_value,
    encode_value,
    json_type,
)
from dwarf_nats.workflow.task_error import TaskError
from dwarf_nats.workflow.task_parameters import Filled, Parameter, TaskFunction, name_of, parameters_of, plain
from dwarf_nats.workflow.typed_values import Decode, Mismatch, decoder_of, is_record

_WAITS = frozenset({"YIELD_VALUE", "SEND", "YIELD_FROM"})
"""Instructions, one of which every coroutine has that can wait."""
_NO_CHANGES = b"{}"


class Fields(Protocol):
    """The fields of the state of one call: a `Flow`, or a `TaskCall`."""

    @property
    def task(self) -> str:
        """The name of the node."""
        ...

    @property
    def names(self) -> frozenset[str]:
        """The names of all fields."""
        ...

    def raw(self, name: str) -> Raw | None:
        """The JSON text of a field; `None` if there is no such field."""
        ...

    def text(self) -> bytes:
        """The whole state as JSON text."""
        ...


Fill = Callable[[Any], dict[str, Any]]
"""Makes the keyword arguments of a function from a `Flow`, or from `Fields` if it takes none."""


class Prepared(NamedTuple):
    """What is known of a task function before it is called.

    `never_waits`: a coroutine function without `await` and the like, which nothing can interrupt; and it does not look at the
    asyncio task that it runs in.
    """

    fill: Fill
    coroutine: bool
    takes_flow: bool
    never_waits: bool


def prepare(func: TaskFunction) -> Prepared:
    """Look at a task function. Raises as `bind`."""
    try:
        return _prepared_once(func)
    except TypeError:  # it has no hash, or cannot be called by name
        return _prepared(func)


def bind(func: TaskFunction) -> Fill:
    """Make a function that takes a `Flow` and returns the keyword arguments for `func`.

    It raises `TaskError` (400) for a state that does not fit. `bind` itself raises `TypeError` for a function that can never be
    called by name: positional-only or `*args` parameters, or annotations that cannot be resolved.
    """
    return _filler_of(func, parameters_of(func))


def changes_of(returned: Any, max_depth: int = MAX_DEPTH) -> State:
    """Convert the value that a task function returned to changes, as `changes_text`."""
    return decode_state(changes_text(returned, max_depth))


def changes_text(returned: Any, max_depth: int = MAX_DEPTH) -> bytes:
    """Write the value that a task function returned as the JSON text of changes: `None`, a mapping, a dataclass, a msgspec
    struct or a pydantic model. Raises `TaskError` for any other type, `BadRequest` for values that cannot be stored (S1).
    """
    if returned is None:
        return _NO_CHANGES
    if isinstance(returned, Mapping):
        values: Any = returned if type(returned) is dict else dict(returned)
    elif is_record(returned):
        values = returned
    else:
        raise TaskError(
            f"a task returns its changes as a mapping, a dataclass, a msgspec struct, a pydantic model or None,"
            f' not {_described(returned)}: return {{"field": value}}'
        )
    text = encode_value(values, "what the task returned")
    value = check_json(text, "what the task returned", max_depth)
    if type(value) is not dict:
        raise BadRequest(f"what the task returned must be a JSON object, got {json_type(value)}")
    return text


@functools.lru_cache(maxsize=1024)
def _prepared_once(func: TaskFunction) -> Prepared:
    return _prepared(func)


def _prepared(func: TaskFunction) -> Prepared:
    parameters = parameters_of(func)
    takes_flow = any(one.filled is Filled.FLOW for one in parameters)
    return Prepared(_filler_of(func, parameters), _is_coroutine(func), takes_flow, _never_waits(func))


def _is_coroutine(func: TaskFunction) -> bool:
    called: Any = getattr(func, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(plain(func)) or inspect.iscoroutinefunction(called)


def _never_waits(func: TaskFunction) -> bool:
    """See `Prepared`. A function in a decorator counts as the decorator's function, whose code is what runs."""
    code = getattr(plain(func), "__code__", None)
    if not inspect.iscode(code) or not code.co_flags & inspect.CO_COROUTINE or "current_task" in code.co_names:
        return False
    return all(one.opname not in _WAITS for one in dis.get_instructions(code))


_Filler = Callable[[Fields, dict[str, Any], frozenset[str]], None]


def _filler_of(func: TaskFunction, parameters: list[Parameter]) -> Fill:
    fillers = [_filler(func, parameter) for parameter in parameters]
    named = frozenset(parameter.name for parameter in parameters if parameter.filled is not Filled.REST)

    def fill(fields: Fields) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for filler in fillers:
            filler(fields, arguments, named)
        return arguments

    return fill


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
    def fill(fields: Fields, arguments: dict[str, Any], _: frozenset[str]) -> None:
        arguments[name] = fields

    return fill


def _rest_filler(fields: Fields, arguments: dict[str, Any], named: frozenset[str]) -> None:
    for name in fields.names - named:
        value = fields.raw(name)
        arguments[name] = None if value is None else decode_value(value)


def _state_filler(func: TaskFunction, parameter: Parameter) -> _Filler:
    decode = _decoder(func, parameter)

    def fill(fields: Fields, arguments: dict[str, Any], _: frozenset[str]) -> None:
        try:
            arguments[parameter.name] = decode(fields.text())
        except Mismatch as error:
            raise _unfit(f"task {fields.task}: the state", error) from None

    return fill


def _field_filler(func: TaskFunction, parameter: Parameter) -> _Filler:
    name = parameter.name
    decode = _decoder(func, parameter)

    def fill(fields: Fields, arguments: dict[str, Any], _: frozenset[str]) -> None:
        value = fields.raw(name)
        if value is not None:
            try:
                arguments[name] = decode(value)
            except Mismatch as error:
                raise _unfit(f"task {fields.task}: state field `{name}`", error) from None
        elif parameter.required and parameter.optional:
            arguments[name] = None
        elif parameter.required:
            raise TaskError(
                f"task {fields.task} needs the state field `{name}`, which is not there:"
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


def _unfit(what: str, error: Mismatch) -> TaskError:
    # Final (L1): another attempt would get the same state.
    return TaskError(f"{what}: {error}", code=400, final=True)


def _described(value: Any) -> str:
    if isinstance(value, bool | int | float | str | list | tuple):
        return f"a {json_type(value)}"
    return f"an object of type {type(value).__name__}"
