"""Parameters that read plain values themselves give what Typer gives, in its words when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer.main
from typer.exceptions import TyperException

from dwarf_nats.cli.durations import option_parser
from dwarf_nats.cli.parameters import PlainArgument, PlainOption, plain


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def _command(
    word: Annotated[str, typer.Argument()],
    words: Annotated[list[str] | None, typer.Argument()] = None,
    text: Annotated[str, typer.Option()] = "none",
    number: Annotated[int, typer.Option(min=1, max=99)] = 5,
    share: Annotated[float, typer.Option()] = 0.5,
    colour: Annotated[Colour | None, typer.Option()] = None,
    several: Annotated[list[str] | None, typer.Option()] = None,
    counts: Annotated[list[int] | None, typer.Option()] = None,
    place: Annotated[Path | None, typer.Option()] = None,
    wait: Annotated[int, typer.Option(parser=option_parser(10, 5000), metavar="DURATION")] = 50,
    flag: Annotated[bool, typer.Option("--flag/--no-flag")] = False,
    needed: Annotated[str, typer.Option()] = ...,  # type: ignore[assignment]
) -> None: ...


_app = typer.Typer(add_completion=False)
_app.command("one")(_command)
COMMAND: Any = typer.main.get_command(_app)
PARAMETERS = {param.name: param for param in COMMAND.params}


def _result(call: Callable[[], Any]) -> tuple[type, Any]:
    try:
        value = call()
    except TyperException as error:
        return type(error), error.format_message()
    return type(value), value


VALUES: list[Any] = [None, "", "x", "5", "007", "-1", "0", "99", "100", "9" * 30, "٣", "1.5", "1_000", "red", "RED"]
VALUES += ["true", "30ms", "1s", "1h", "2", True, False, 5, 5.0, ["a", "b"], ("1", "2"), [], (), Colour.BLUE, Path("x")]


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_value_is_read_as_typer_reads_it(name: str) -> None:
    theirs, ours = PARAMETERS[name], plain(PARAMETERS[name])
    assert type(ours) in (PlainOption, PlainArgument)
    context = typer.Context(COMMAND)
    for value in (*VALUES, theirs.default):
        found = _result(lambda value=value: ours.process_value(context, value))
        assert found == _result(lambda value=value: theirs.process_value(context, value)), value


def test_a_parameter_that_is_plain_already_stays() -> None:
    ours = plain(PARAMETERS["text"])
    assert plain(ours) is ours
