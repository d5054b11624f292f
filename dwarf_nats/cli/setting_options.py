"""Options of commands, made from the settings in `dwarf_nats.settings`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from dwarf_nats.settings import CONNECTION_SETTINGS, OPTIONS, SERVER_SETTINGS, ServerSettings, Setting
from dwarf_nats.wire.connect_options import ConnectOptions


def option(name: str, **changes: Any) -> Any:
    """The option of the setting `name`, for an `Annotated` parameter of a command; `changes`: what differs in this command."""
    return _option(SERVER_SETTINGS[name], **changes)


def _option(row: Setting, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "envvar": row.variable,
        "help": row.text,
        "min": row.least,
        "max": row.most,
        "metavar": row.metavar,
        "rich_help_panel": row.section if row.section != OPTIONS else None,
    }
    return typer.Option(*_flags(row), **given | changes)


def default(name: str) -> Any:
    """The default of the setting `name` in a command; `None` stands for an empty list."""
    return _default(SERVER_SETTINGS[name])


def _default(row: Setting) -> Any:
    return None if isinstance(row.default, list) else row.default


def parameters(rows: Iterable[Setting]) -> list[inspect.Parameter]:
    """One parameter of a command for each setting that has an option, named after its key."""
    return [
        inspect.Parameter(
            row.key,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(row),
            annotation=Annotated[_kind(row), _option(row)],
        )
        for row in rows
        if row.has_option
    ]


def server_settings(given: Mapping[str, Any]) -> ServerSettings:
    """Settings from the parameters of a command, by their keys; `None` is not given."""
    names = {row.key: row.name for row in SERVER_SETTINGS.values()}
    return ServerSettings.of(**{names[key]: value for key, value in given.items() if value is not None})


def connect_options(given: Mapping[str, Any]) -> ConnectOptions:
    """The connection from the parameters of a command, by their keys; `None` is not given."""
    attributes = {row.key: row.attribute for row in CONNECTION_SETTINGS}
    return ConnectOptions(**{attributes[key]: value for key, value in given.items() if value is not None})


def _flags(row: Setting) -> list[str]:
    """The explicit names of an option; none if they follow from the parameter's name."""
    flag = f"--{row.key.replace('_', '-')}"
    if row.kind is bool:
        return [f"{flag}/--no-{flag[2:]}" if row.default else flag]
    return [flag] if row.metavar else []


def _kind(row: Setting) -> Any:
    return row.kind | None if isinstance(row.default, list) else row.kind
