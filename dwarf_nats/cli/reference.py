"""The reference of all settings, `docs/operating/configuration.md`, generated from the options and the settings.

python -m dwarf_nats.cli.reference          write it
python -m dwarf_nats.cli.reference --check  check that it is up to date
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import typer.main

from dwarf_nats.cli.command import section_of
from dwarf_nats.cli.main import app
from dwarf_nats.settings import ENGINE_SETTINGS, PARTS, SERVER_SETTINGS, EngineSettings, ServerSettings, row_of
from dwarf_nats.wire.connect_options import ENVIRONMENT

_BY_KEY = {row.key: row for row in SERVER_SETTINGS.values()}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "operating" / "configuration.md"
_INTRODUCTION = """\
# All settings

*Made by `python -m dwarf_nats.cli.reference` from the options and settings; do not edit.*

For operators. This page lists each setting with all its names, its default and its unit.

An option overrides its variable, and the variable overrides the file: `dwarf.toml` in the working directory, or the file
named with `--config`. An empty variable counts as not set. In the file, a key at the top applies to every command that has it.
A key in a table, such as `[serve]`, applies to one command. [Configuration](../configuration.md) has an example. In variables
and in the file, switches are `true` or `false`.
"""
_EMBEDDED = """\
## Settings of the engine that have no option

A program that embeds the engine sets these, and those above, in `EngineSettings`; see [the library](../library.md).
"""
_NATS = """\
## Variables of the `nats` command line

Every command that talks to NATS reads these, if neither an option nor a `DWARF_` variable is set. `NATS_CONTEXT` names a
context of the `nats` command line. It provides the settings that are still missing.
"""
_OTHER = """\
## What other commands read

`dwarf-nats COMMAND --help` lists all options of a command.
"""
_MORE = """\
With `DWARF_TRACEBACK=1`, a command prints a traceback when a defect stops it. The PostgreSQL driver reads `PGPASSWORD`,
`PGPASSFILE` and `PGSSLMODE`, so a DSN needs no password.
"""


def render() -> str:
    """The text of the page."""
    commands = dict(_commands(typer.main.get_command(app)))
    serve = commands.pop("serve")
    parts = [_INTRODUCTION, "## `dwarf-nats serve`\n"]
    for section, params in _sections(serve).items():
        if section != "Options":
            parts.append(f"### {section}\n")
        rows = [_row(param) for param in params]
        parts.append(_table(("setting", "option", "variable", "key", "default", "unit", "meaning"), rows))
    rows = [
        (f"`{row.name}`", _shown(row.default), row.unit, row.meaning) for row in ENGINE_SETTINGS if not row.has_option
    ]
    if rows:
        parts += [_EMBEDDED, _table(("setting", "default", "unit", "meaning"), rows)]
    parts += [_OTHER, _table(("option", "variable", "commands", "default", "meaning"), _others(commands, serve))]
    parts += [_NATS, _table(("variable", "what"), [(f"`{name}`", _spoken(what)) for name, what in ENVIRONMENT.items()])]
    return "\n".join([*parts, _MORE])


def undescribed() -> list[str]:
    """Options without a help text, of any command, and fields of settings without a description."""
    commands = dict(_commands(typer.main.get_command(app)))
    missing = [
        f"{name} {param.opts[0]}"
        for name, command in commands.items()
        for param in command.params
        if not param.help and not getattr(param, "hidden", False)
    ]
    for settings in (ServerSettings, EngineSettings):
        for field in dataclasses.fields(settings):
            row = row_of(field)
            if field.name not in PARTS and (row is None or not row.meaning):
                missing.append(f"{settings.__name__}.{field.name}")
    return missing


def _commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield path + name, command


def _sections(command: Any) -> dict[str, list[Any]]:
    sections: dict[str, list[Any]] = {"Options": []}
    for param in command.params:
        if param.envvar and not param.hidden:
            sections.setdefault(section_of(param), []).append(param)
    return sections


def _row(param: Any) -> tuple[str, ...]:
    row = _BY_KEY[param.name]
    name = "–" if row.of_command else f"`{row.name}`"
    return name, _option(param), f"`{param.envvar}`", _key(param), _shown(param.default), row.unit, row.meaning


def _others(commands: dict[str, Any], serve: Any) -> list[tuple[str, ...]]:
    root = typer.main.get_command(app)
    there = {param.envvar for param in serve.params}
    readers: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for name, command in [("all", root), *commands.items()]:
        for param in command.params:
            variable = getattr(param, "envvar", None)
            if variable and variable not in there:
                found[variable] = param
                readers.setdefault(variable, []).append(name)
    return [
        (_option(param), f"`{variable}`", _readers(readers[variable], commands), _shown(param.default), param.help)
        for variable, param in found.items()
    ]


def _readers(names: Sequence[str], commands: dict[str, Any]) -> str:
    """The commands that read a variable; a family of commands that all do is one entry."""
    families = {name.split()[0] for name in names}
    whole = {
        one
        for one in families
        if {n for n in commands if n.split()[0] == one} <= set(names) and f"{one} " in str(names)
    }
    single = [f"`{name}`" for name in names if name.split()[0] not in whole and name != "all"]
    return ", ".join([*(["all"] if "all" in names else []), *single, *(f"`{one} …`" for one in sorted(whole))])


def _option(param: Any) -> str:
    return " / ".join(f"`{one}`" for one in (*param.opts, *param.secondary_opts))


def _key(param: Any) -> str:
    return f"`{param.name.replace('_', '-')}`"


def _shown(default: Any) -> str:
    value = default.value if isinstance(default, Enum) else default
    if value is None or value == "" or value is dataclasses.MISSING:
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`"


def _spoken(field: str) -> str:
    return f"as `{field}` in a context" if not field.startswith("tls_") else f"as `{field[4:]}` in a context"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it. Returns the exit code."""
    if "--check" not in arguments:
        PAGE.write_text(render(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == render():
        return 0
    print(f"{PAGE} differs from the settings there are; run: python -m dwarf_nats.cli.reference", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
