"""Commands made of a function, an example, and groups of options shared with other commands.

A parameter whose type is a dataclass marked with `@option_group` stands for all of its fields: they become options of the
command, and the function gets them as one value. `register_group` does the same for a type whose options come from elsewhere.
An option whose name ends in `_ms` takes durations (`durations`).

Refusals become one line on stderr and exit code 1, never a traceback. With `--json` that line is the error object of the
wire, `{"error": {"code", "message", …}}`, also for wrong usage (exit code 2).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.exceptions import TyperException

from dwarf_nats.cli import durations
from dwarf_nats.cli.parameters import PlainParameters
from dwarf_nats.errors import BadRequest, DwarfError, error_for
from dwarf_nats.redact import scrubbed
from dwarf_nats.render.terminal import in_json, one_line

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
REFUSED, INTERRUPTED = 1, 130
"""Exit codes of a refusal, and of Ctrl-C as shells count it: 128 + SIGINT."""


@dataclasses.dataclass(slots=True, frozen=True)
class _Group:
    """A type that stands for several options. `make` makes a value of the type from the values of `parameters`, by name."""

    parameters: Sequence[inspect.Parameter]
    make: Callable[[dict[str, Any]], Any]


_GROUPS: dict[Any, _Group] = {}


class CommandFamily(PlainParameters, TyperGroup):
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


class _Command(PlainParameters, TyperCommand):
    """A command whose help has a section for each group of options. With `--json` it reports wrong usage as JSON."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        as_json = "--json" in args
        with _usage_errors(as_json):
            unit = durations.needs_unit(args, frozenset(_durations_of(self)))
            if unit:
                raise typer.BadParameter(f"say the unit: {durations.HOW}", ctx=ctx, param_hint=unit)
            rest: list[str] = super().parse_args(ctx, args)
        return rest

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
    """The heading of a parameter in the help."""
    if isinstance(param, TyperArgument):
        return "Arguments"
    return getattr(param, "rich_help_panel", None) or "Options"


def option_group(title: str) -> Callable[[type[T]], type[T]]:
    """Mark a dataclass as a group of options: each field an `Annotated[…, typer.Option(…)]` with a default.

    Their help stands under `title`.
    """

    def mark(cls: type[T]) -> type[T]:
        register_group(cls, list(_parameters_of(cls, title)), lambda given: cls(**given))
        return cls

    return mark


def register_group(cls: type, parameters: Sequence[inspect.Parameter], make: Callable[[dict[str, Any]], Any]) -> None:
    """Let a parameter of type `cls` stand for `parameters`; `make` gets what was given for them, by name."""
    _GROUPS[cls] = _Group(parameters, make)


def new_app(help_text: str, *, completion: bool = False, family: type[CommandFamily] = CommandFamily) -> typer.Typer:
    """A family of commands. With `completion` it has options that install or print the completion for a shell."""
    return typer.Typer(
        cls=family,
        help=help_text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        add_completion=completion,
        context_settings=HELP_OPTIONS,
    )


def command(app: typer.Typer, name: str, *, example: str, short: str | None = None) -> Callable[[F], F]:
    """Register the decorated function, coroutine or not, as command `name`; `example` ends its help.

    `short` stands in the list of commands; without, the first sentence of the docstring. Its options are worked out when the
    command is used or shown (`lazy_commands`): `runner` does that.
    """

    def register(function: F) -> F:
        epilog = "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines())
        app.command(name, cls=_Command, epilog=epilog, short_help=short, context_settings=HELP_OPTIONS)(function)
        return function

    return register


def runner(function: Callable[..., Any]) -> Callable[..., None]:
    """The function as Typer calls it: one parameter for each option, of the groups too."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, _Group] = {}
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and kind in _GROUPS:
            groups[parameter.name] = _GROUPS[kind]
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    for group in groups.values():
        parameters.extend(group.parameters)

    def run(**given: Any) -> None:
        as_json = bool(given.get("json"))
        with _usage_errors(as_json), refusals(as_json=as_json):
            for name, group in groups.items():
                given[name] = group.make({one.name: given.pop(one.name) for one in group.parameters})
            result = function(**given)
            if inspect.iscoroutine(result):
                import asyncio

                asyncio.run(result)

    parameters = [_with_unit(parameter) for parameter in parameters]
    functools.update_wrapper(run, function, assigned=("__name__", "__doc__", "__module__"), updated=())
    del run.__wrapped__  # type: ignore[attr-defined]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _with_unit(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter as the help shows it: a number as `N`, milliseconds as `DURATION`, and it takes durations then."""
    kind, *metadata = typing.get_args(parameter.annotation) or (None,)
    if kind not in (int, int | None, float):
        return parameter
    changed = [copy.copy(option) for option in metadata]
    for option in changed:
        if parameter.name.endswith("_ms"):
            name = f"--{parameter.name.replace('_', '-')}"
            option.param_decls = (name.removesuffix("-ms"), name)
            option.parser = durations.option_parser(option.min, option.max)
            option.min = option.max = None
            option.metavar = option.metavar or "DURATION"
        else:
            option.metavar = option.metavar or "N"
    return parameter.replace(annotation=Annotated[(kind, *changed)])


def _durations_of(command: Any) -> Iterator[str]:
    """The options of a command that take a duration with units only."""
    for param in command.params:
        if param.name.endswith("_ms"):
            yield from (name for name in param.opts if not name.endswith("-ms"))


def _parameters_of(group: Any, title: str) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        for option in getattr(hints[field.name], "__metadata__", ()):
            option.rich_help_panel = option.rich_help_panel or title
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )


@contextmanager
def refusals(*, as_json: bool = False) -> Iterator[None]:
    """Turn errors into a line on stderr and an exit code."""
    try:
        yield
    except DwarfError as error:
        raise typer.Exit(print_refusal(error, as_json=as_json)) from None
    except (KeyboardInterrupt, _cancelled()):
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader (a pager, head) has closed its end: nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:
        text = str(error)
        print(_as_json(DwarfError(text)) if as_json else f"error: {one_line(scrubbed(text))}", file=sys.stderr)
        raise typer.Exit(REFUSED) from None


def _cancelled() -> type[BaseException]:
    """The error of a cancelled task; asyncio is slow to load, and this is asked only when something was raised."""
    from asyncio import CancelledError

    return CancelledError


@contextmanager
def _usage_errors(as_json: bool) -> Iterator[None]:
    """Report wrong usage as JSON, if `as_json`."""
    try:
        yield
    except TyperException as error:
        if not as_json:
            raise
        print(_as_json(BadRequest(error.format_message())), file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def print_refusal(error: DwarfError, *, as_json: bool = False) -> int:
    """Print a refusal; returns the exit code."""
    flow_key = error.details.get("flow_key")
    line = f"error {error.code}: {error.message}" + (f" (flow {flow_key})" if flow_key else "")
    print(_as_json(error) if as_json else one_line(scrubbed(line)), file=sys.stderr)
    return REFUSED


def _as_json(error: DwarfError) -> str:
    """The body of a refusal on the wire."""
    from dwarf_nats.wire.refusals import encode_error

    clean = error_for(error.code, scrubbed(error.message), **error.details)
    return in_json(encode_error(clean)[1].decode())
