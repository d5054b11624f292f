"""The parameters and the result of a task function, as its signature says (S2)."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, NamedTuple, TypeVar

from dwarf_nats.workflow.flow import Flow

TaskFunction = Callable[..., Any]
T = TypeVar("T")
_URLS = "__dwarf_tasks__"


class _Whole:
    """The mark of a parameter that takes the whole state."""


WholeState = Annotated[T, _Whole()]
"""`order: WholeState[Order]` makes a parameter of a task take the whole state, as an `Order`, in place of one field."""


class Filled(Enum):
    """The value that a parameter is filled with."""

    FIELD = "field"
    FLOW = "flow"
    REST = "rest"
    STATE = "state"


class Parameter(NamedTuple):
    """A parameter of a task function. `required`: it has no default; `optional`: its type has `None` in it."""

    name: str
    filled: Filled
    hint: Any
    required: bool
    optional: bool


def parameters_of(func: TaskFunction) -> list[Parameter]:
    """The parameters of a task function.

    Raises `TypeError` for a function that can never be called by name: positional-only or `*args` parameters, or annotations
    that cannot be resolved.
    """
    hints = _hints(func)
    return [_parameter(func, one, hints.get(one.name, Any)) for one in inspect.signature(func).parameters.values()]


def result_of(func: TaskFunction) -> Any:
    """The type that the function returns; `Any` without an annotation, or with one that cannot be resolved."""
    target = _annotated(func)
    hint = getattr(target, "__annotations__", {}).get("return", Any)
    try:
        return _resolved(target, {"return": hint})["return"]
    except (NameError, TypeError):
        return Any


def name_of(func: TaskFunction) -> str:
    """The name of a function in messages."""
    return getattr(plain(func), "__qualname__", type(func).__name__)


def place_of(func: TaskFunction) -> str:
    """The file and the line of a function: `tasks.py:12`; empty for one that was not written in Python."""
    code = getattr(inspect.unwrap(plain(func)), "__code__", None)
    return "" if code is None else f"{PurePath(code.co_filename).name}:{code.co_firstlineno}"


def plain(func: TaskFunction) -> TaskFunction:
    """The function below `functools.partial`."""
    while isinstance(func, functools.partial):
        func = func.func
    return func


def note_url(func: TaskFunction, url: str) -> None:
    """Note at the function that it serves this task, so that a workflow in code can name it. A method keeps no note."""
    known = urls_of(func)
    if url not in known:
        try:
            setattr(func, _URLS, (*known, url))
        except AttributeError:
            return


def urls_of(func: TaskFunction) -> tuple[str, ...]:
    """The urls that a function was registered for as a task."""
    found: tuple[str, ...] = getattr(func, _URLS, ())
    return found


def _annotated(func: TaskFunction) -> Any:
    one = plain(func)
    if inspect.isroutine(one):
        return one
    return one.__init__ if inspect.isclass(one) else type(one).__call__


def _hints(func: TaskFunction) -> dict[str, Any]:
    target = _annotated(func)
    annotations = {name: hint for name, hint in getattr(target, "__annotations__", {}).items() if name != "return"}
    try:
        return _resolved(target, annotations)
    except (NameError, TypeError) as error:
        raise TypeError(f"task function {name_of(func)}: its annotations cannot be resolved: {error}") from None


def _resolved(target: Any, annotations: dict[str, Any]) -> dict[str, Any]:
    namespace = getattr(inspect.unwrap(target), "__globals__", {})
    # `Flow` may be imported for type checkers only.
    holder = types.SimpleNamespace(__annotations__=annotations)
    return typing.get_type_hints(holder, {"Flow": Flow, **namespace}, include_extras=True)


def _parameter(func: TaskFunction, parameter: inspect.Parameter, hint: Any) -> Parameter:
    if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
        raise TypeError(
            f"task function {name_of(func)}: parameter {parameter.name!r} cannot be filled by name:"
            " take state fields as ordinary or keyword parameters"
        )
    filled = Filled.FIELD
    if _wants_flow(parameter, hint):
        filled = Filled.FLOW
    elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
        filled = Filled.REST
    elif any(isinstance(one, _Whole) for one in getattr(hint, "__metadata__", ())):
        filled = Filled.STATE
    return Parameter(
        name=parameter.name,
        filled=filled,
        hint=hint,
        required=parameter.default is inspect.Parameter.empty,
        optional=hint is None or type(None) in _members(hint),
    )


def _wants_flow(parameter: inspect.Parameter, hint: Any) -> bool:
    if parameter.annotation is inspect.Parameter.empty:
        return parameter.name == "flow" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    return hint is Flow or Flow in _members(hint)


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
