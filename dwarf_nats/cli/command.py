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
from typer.core import TyperArgument, TyperCommand, TyperGroup

from dwarf_nats.errors import DwarfError
from dwarf_nats.redact import scrubbed

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_GROUPS: dict[type, str] = {}
INTERRUPTED = 130


class _Family(TyperGroup):
    """A group whose usage errors quote no secret: an argument in the wrong place may be a URL with a password."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _discreet():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _discreet():
            return super().invoke(ctx)


@contextmanager
def _discreet() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        if isinstance(message, str):
            vars(error)["message"] = scrubbed(message)
        raise


class _Command(TyperCommand):
    """A command whose help has a section for each group of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(section_of(param), []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def section_of(param: Any) -> str:
    """Under which heading a parameter of a command stands."""
    if isinstance(param, TyperArgument):
        return "Arguments"
    return getattr(param, "rich_help_panel", None) or "Options"


def option_group(title: str) -> Callable[[type[T]], type[T]]:
    """Mark a dataclass as a group of options: each field an `Annotated[…, typer.Option(…)]` with a default.

    Their help stands under `title`.
    """

    def mark(cls: type[T]) -> type[T]:
        _GROUPS[cls] = title
        return cls

    return mark


def new_app(help_text: str) -> typer.Typer:
    """A family of commands."""
    return typer.Typer(
        cls=_Family,
        help=help_text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        add_completion=False,
    )


def command(app: typer.Typer, name: str, *, example: str, short: str | None = None) -> Callable[[F], F]:
    """Register the decorated function, coroutine or not, as command `name`; `example` ends its help.

    `short` stands in the list of commands; without, the first sentence of the docstring.
    """

    def register(function: F) -> F:
        epilog = "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines())
        app.command(name, cls=_Command, epilog=epilog, short_help=short)(_runner(function))
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

    for parameter in parameters:
        _say_unit(parameter)
    functools.update_wrapper(run, function, assigned=("__name__", "__doc__", "__module__"), updated=())
    del run.__wrapped__  # type: ignore[attr-defined]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _say_unit(parameter: inspect.Parameter) -> None:
    """Numbers stand in the help as `N`, durations as `MS`."""
    (kind, *_), metadata = (
        typing.get_args(parameter.annotation) or (None,),
        getattr(parameter.annotation, "__metadata__", ()),
    )
    if kind in (int, int | None, float):
        for option in metadata:
            option.metavar = option.metavar or ("MS" if parameter.name.endswith("_ms") else "N")


def _parameters_of(group: Any) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        for option in getattr(hints[field.name], "__metadata__", ()):
            option.rich_help_panel = option.rich_help_panel or _GROUPS[group]
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
        print(f"error: {scrubbed(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from None


def tell(error: DwarfError) -> int:
    """Print a refusal; returns the exit code."""
    flow_key = error.details.get("flow_key")
    print(
        f"error {error.code}: {scrubbed(error.message)}" + (f" (flow {flow_key})" if flow_key else ""), file=sys.stderr
    )
    return 1
