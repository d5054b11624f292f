"""JSON on the command line: as text, from `@file`, or from standard input with `-`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.state import check_json, check_state, encode_state


def read_text(argument: str, option: str) -> bytes:
    """The text that an argument stands for. Raises `typer.BadParameter` for a file that cannot be read."""
    if argument == "-":
        return sys.stdin.buffer.read()
    if argument.startswith("@"):
        try:
            return Path(argument[1:]).read_bytes()
        except OSError as error:
            raise typer.BadParameter(f"cannot read {argument[1:]}: {error.strerror}", param_hint=option) from None
    return argument.encode("utf-8", "surrogateescape")


def read_json(argument: str, option: str) -> bytes:
    """Sound JSON of any kind. Raises `typer.BadParameter`."""
    text = read_text(argument, option)
    try:
        check_json(text, "this")
    except BadRequest as error:
        raise typer.BadParameter(error.message, param_hint=option) from None
    return text


def read_state(argument: str | None, option: str = "--state") -> bytes | None:
    """A sound state, digits kept as they are. Raises `typer.BadParameter`."""
    if argument is None:
        return None
    text = read_text(argument, option)
    try:
        return encode_state(check_state(text, "this"))
    except BadRequest as error:
        raise typer.BadParameter(
            f'{error.message}; use JSON such as \'{{"name": "ada"}}\', @file or -', param_hint=option
        ) from None
