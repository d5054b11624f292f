"""How a command is made: a function, an example, and groups of options shared with other commands.

A parameter whose type is a dataclass marked with `@option_group` stands for all of its fields: they become options of the
command, and the function gets them as one value. Refusals become one line on stderr and exit code 1, never a traceback.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from dwarf_nats.errors import DwarfError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_GROUPS: set[type] = set()
INTERRUPTED = 130


def option_group(cls: type[T]) -> type[T]:
    """Mark a dataclass as a group of options: each field an `Annotated[…, typer.Option(…)]` with a default."""
    _GROUPS.add(cls)
    return cls


def new_app(help_text: str) -> typer.Typer:
    """A family of commands."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        add_completion=False,
    )


def command(app: typer.Typer, name: str, *, example: str) -> Callable[[F], F]:
    """Register the decorated function, coroutine or not, as command `name`; `example` ends its help."""

    def register(function: F) -> F:
        epilog = "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines())
        app.command(name, epilog=epilog)(_runner(function))
        return function

    return register


def _runner(function: Callable[..., Any]) -> Callable[..., None]:
    hints = typing.get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if kind in _GROUPS:
            groups[parameter.name] = kind
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    for group in groups.values():
        parameters.extend(_parameters_of(group))

    def run(**given: Any) -> None:
        with refusals():
            for name, group in groups.items():
                fields = {field.name: given.pop(field.name) for field in dataclasses.fields(group)}
                given[name] = group(**fields)
            result = function(**given)
            if inspect.iscoroutine(result):
                asyncio.run(result)

    functools.update_wrapper(run, function, assigned=("__name__", "__doc__", "__module__"), updated=())
    del run.__wrapped__  # type: ignore[attr-defined]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameters_of(group: Any) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what goes wrong into a line on stderr and an exit code."""
    try:
        yield
    except DwarfError as error:
        raise typer.Exit(tell(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader (a pager, head) has seen enough; nothing is left to be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def tell(error: DwarfError) -> int:
    """Print a refusal; returns the exit code."""
    flow_key = error.details.get("flow_key")
    print(f"error {error.code}: {error.message}" + (f" (flow {flow_key})" if flow_key else ""), file=sys.stderr)
    return 1
