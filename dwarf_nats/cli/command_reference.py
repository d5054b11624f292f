"""The reference of all commands, `docs/reference/commands.md`, generated from the commands.

python -m dwarf_nats.cli.command_reference          write it
python -m dwarf_nats.cli.command_reference --check  check that it is up to date
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer.main

from dwarf_nats.cli.command import section_of
from dwarf_nats.cli.main import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "commands.md"
_INTRODUCTION = """\
# Commands

*Made by `python -m dwarf_nats.cli.command_reference` from the commands; do not edit.*

For everyone who types `dwarf-nats`: each command with its arguments and its own options. Options that many commands share are
listed [once](#options-of-many-commands). [The command line](../command-line.md) explains exit codes, durations and JSON output.
"""
_SHARED = "## Options of many commands\n"
_FEW = 12
"""Commands that may have an option before it counts as shared."""


def render() -> str:
    """The text of the page."""
    commands = dict(_commands(typer.main.get_command(app)))
    counts: dict[str, int] = {}
    for command in commands.values():
        for param in command.params:
            counts[_key(param)] = counts.get(_key(param), 0) + 1
    shared = {key for key, count in counts.items() if count > _FEW}
    parts = [_INTRODUCTION]
    for name, command in commands.items():
        parts.append(f"## {name}\n")
        parts.append(f"{_text(command.help)}\n")
        own = [param for param in command.params if not _hidden(param) and _key(param) not in shared]
        if own:
            parts.append(_table(own))
    found = {_key(param): param for command in commands.values() for param in command.params if _key(param) in shared}
    return "\n".join([*parts, _SHARED, _table([param for param in found.values() if not _hidden(param)])])


def _commands(group: Any, path: str = "dwarf-nats ") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield path + name, command


def _key(param: Any) -> str:
    """The name and the meaning of a parameter: the same option may mean something else elsewhere."""
    return f"{param.opts[0]} {param.help}"


def _hidden(param: Any) -> bool:
    return bool(getattr(param, "hidden", False))


def _table(params: Sequence[Any]) -> str:
    rows = ["| option | meaning |", "|---|---|"]
    for param in params:
        rows.append(f"| {_named(param)} | {_text(param.help).replace('|', chr(92) + '|')}{_variable(param)} |")
    return "\n".join(rows) + "\n"


def _named(param: Any) -> str:
    if section_of(param) == "Arguments":
        return f"`{(param.metavar or param.name).upper().strip('[]{}')}`" + (" (required)" if param.required else "")
    return ", ".join(f"`{one}`" for one in (*param.opts, *param.secondary_opts) if one != "--help")


def _variable(param: Any) -> str:
    return f" Variable `{param.envvar}`." if getattr(param, "envvar", None) else ""


def _text(text: str | None) -> str:
    """A help text as Markdown: placeholders in angle brackets and asterisks stand for themselves."""
    plain = inspect.cleandoc(text or "").replace("\\b", "")
    return re.sub(r"(?<!`)([<*_])", r"\\\1", plain)


def main(arguments: Sequence[str]) -> int:
    """Write or check the page; return the exit code."""
    text = render()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is not up to date: python -m dwarf_nats.cli.command_reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
