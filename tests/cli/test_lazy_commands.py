"""A command loads what it needs, and the list of commands loads none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from dwarf_nats.cli.main import COMMANDS, app

ROOT = Path(__file__).parents[2]
LIST = "dwarf_nats.cli.flow_family"
SHOWS_LOADED = """
import sys
from dwarf_nats.cli.main import main
sys.argv = ["dwarf-nats", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print("loaded", *sys.modules)
"""


def loaded(*arguments: str) -> set[str]:
    """The modules that are loaded once a command has ended."""
    ran = subprocess.run(
        [sys.executable, "-c", SHOWS_LOADED, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(ran.stdout.splitlines()[-1].split()[1:])


def test_the_list_of_commands_shows_what_each_says_of_itself() -> None:
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        assert command.name == name
        assert command.get_short_help_str(limit=200) == COMMANDS[name].help


def test_help_and_version_load_no_command_and_no_connection() -> None:
    for arguments in (["--help"], ["--version"], []):
        found = loaded(*arguments)
        assert not {one.module for one in COMMANDS.values()} & found
        assert not {"nats", "rich.console", "orjson", "yaml", "google", "asyncpg", "opentelemetry"} & found


@pytest.mark.parametrize("arguments", [["flow", "list", "--help"], ["flow", "get", "no-key"]])
def test_a_command_of_flows_loads_no_engine_no_conditions_and_no_other_command(arguments: list[str]) -> None:
    found = loaded(*arguments)
    assert "nats.aio.client" in found
    heavy = {
        "cel_expr_python",
        "google.protobuf",
        "yaml",
        "asyncpg",
        "alembic",
        "opentelemetry.sdk",
        "starlette",
        "mcp",
    }
    assert not heavy & found
    assert not {
        name for name in found if name.startswith(("dwarf_nats.engine", "dwarf_nats.store", "dwarf_nats.sdk.worker"))
    }
    assert {one.module for one in COMMANDS.values()} & found == {LIST}


def test_a_name_that_is_none_is_told_with_the_nearest() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "dwarf_nats.cli.main", "flwo"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ran.returncode == 2
    assert "No such command 'flwo'" in ran.stderr
    assert "flow" in ran.stderr
