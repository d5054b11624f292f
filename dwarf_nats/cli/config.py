"""The settings file: options come from flags, then from the environment (`DWARF_…`), then from `dwarf.toml`.

`dwarf.toml` names options by their long names, at the top for every command that has them, or in a table for one::

    nats = "nats://broker:4222"

    [serve]
    dsn = ["postgresql://dwarf@db/dwarf"]
    workers = 2048

    [flow.run]
    timeout-ms = 60000
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

DEFAULT_FILE = Path("dwarf.toml")
_OVERRULED_BY = {"nats": ("NATS_URL", "NATS_CONTEXT"), "context": ("NATS_URL", "NATS_CONTEXT")}
"""The variables of the `nats` command line that go before an option in the file."""


def load(path: Path | None, group: Any) -> dict[str, Any]:
    """The defaults that the file sets for the commands of `group`. Raises `typer.BadParameter` for a bad file.

    Without `path`, `dwarf.toml` in the current folder if it is there.
    """
    if path is None and not DEFAULT_FILE.exists():
        return {}
    import tomllib  # most commands find no file

    path = path or DEFAULT_FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}", param_hint="--config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is not valid TOML: {error}", param_hint="--config") from None
    _check(values, group, str(path), "")
    return _defaults(values, group, {})


def _defaults(values: dict[str, Any], command: Any, inherited: dict[str, Any]) -> dict[str, Any]:
    """The options of each command of a group; a setting at the top holds for all tables below."""
    own = inherited | {_name(key): value for key, value in values.items() if not isinstance(value, dict)}
    own = {
        name: value for name, value in own.items() if not any(os.environ.get(v) for v in _OVERRULED_BY.get(name, ()))
    }
    found = {name: value for name, value in own.items() if name in _option_names(command)}
    for name, sub in getattr(command, "commands", {}).items():
        table = values.get(name)
        found[name] = _defaults(table if isinstance(table, dict) else {}, sub, own)
    return found


def _check(values: dict[str, Any], command: Any, path: str, where: str) -> None:
    commands = getattr(command, "commands", {})
    known = _all_names(command)
    for key, value in values.items():
        if isinstance(value, dict):
            if key not in commands:
                raise typer.BadParameter(
                    f"{path}: there is no command for the table [{where}{key}]{_near(key, set(commands))}",
                    param_hint="--config",
                )
            _check(value, commands[key], path, f"{where}{key}.")
        elif _name(key) not in known:
            raise typer.BadParameter(
                f"{path}: unknown setting {where}{key}{_near(_name(key), known)}", param_hint="--config"
            )


def _near(key: str, known: set[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, known, n=1)
    return f"; did you mean {near[0].replace('_', '-')}?" if near else ""


def _name(key: str) -> str:
    return key.replace("-", "_")


def _option_names(command: Any) -> set[str]:
    return {param.name for param in command.params if param.param_type_name == "option"} - {"help", "config"}


def _all_names(command: Any) -> set[str]:
    names = _option_names(command)
    for sub in getattr(command, "commands", {}).values():
        names |= _all_names(sub)
    return names
