"""A command loads what it needs, and the list of commands loads none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from dwarf_nats.cli.flow_family import FLOW_COMMANDS
from dwarf_nats.cli.main import COMMANDS, app

ROOT = Path(__file__).parents[2]
MOST_MODULES_OF_A_REPLICA = 900
FLOW = "dwarf_nats.cli.flow_family"
MOST_MODULES = 400
"""Modules that a command which asks the service may load, those of Python included."""
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
    for name, command in root.commands["flow"].commands.items():
        assert command.name == name
        assert command.get_short_help_str(limit=200) == FLOW_COMMANDS[name].help


def test_help_and_version_load_no_command_and_no_connection() -> None:
    for arguments in (["--help"], ["--version"], []):
        found = loaded(*arguments)
        assert not {one.module for one in COMMANDS.values()} & found
        assert not {"nats", "rich.console", "orjson", "yaml", "google", "asyncpg", "opentelemetry"} & found
        assert not {"asyncio", "msgspec", "pydantic", "tomllib"} & found


@pytest.mark.parametrize(
    "arguments",
    [
        ["flow", "list", "--limit", "5", "--status", "failed", "--older-than", "1h", "--tag", "a=1"],
        ["health"],
    ],
)
def test_a_command_that_asks_the_service_loads_little(arguments: list[str]) -> None:
    """It gets as far as the connection, which nobody accepts: all that it needs but for the drawing is loaded by then."""
    found = loaded(*arguments, "--nats", "nats://127.0.0.1:1", "--connect-timeout-ms", "10")
    assert "nats.aio.client" in found
    assert "dwarf_nats.sdk.client" in found
    assert (
        not {"pydantic", "rich.console", "typer.rich_utils", "nats.js.api", "yaml", "tomllib", "cryptography"} & found
    )
    assert not {"sqlalchemy", "asyncpg", "sqlite3", "opentelemetry", "cel_expr_python", "uvloop"} & found
    own = {"workflow.graph", "workflow.bulk", "workflow.schedules", "wire.operations", "wire.schedule_messages"}
    assert not {f"dwarf_nats.{name}" for name in own} & found
    assert len(found) <= MOST_MODULES


def test_a_family_loads_the_module_of_the_command_alone() -> None:
    found = loaded("flow", "list", "--help")
    modules = {one.module for one in FLOW_COMMANDS.values()}
    assert modules & found == {FLOW_COMMANDS["list"].module}
    assert not modules & loaded("flow", "--help")


def test_a_replica_loads_no_conditions_and_no_migrations_before_it_needs_them() -> None:
    """Its memory at rest is what it loads: CEL alone is a tenth of it, and many deployments have no condition."""
    code = "import sys, dwarf_nats.cli.main, dwarf_nats.cli.serve, dwarf_nats.server; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    found = set(ran.stdout.split())
    heavy = {"cel_expr_python", "google.protobuf", "alembic", "sqlalchemy", "mako", "pydantic", "rich.console", "click"}
    heavy |= {"starlette", "uvicorn", "mcp", "cryptography", "opentelemetry.sdk", "prometheus_client", "mkdocs"}
    assert not heavy & found
    assert len(found) <= MOST_MODULES_OF_A_REPLICA


def test_the_library_of_conditions_is_loaded_with_the_first_condition() -> None:
    code = (
        "import sys; from dwarf_nats.workflow.conditions import evaluate; from dwarf_nats.workflow.state import Raw;"
        "before = 'cel_expr_python' in sys.modules; taken = evaluate('a > 3', {'a': Raw(b'5')}).taken;"
        "print(before, 'cel_expr_python' in sys.modules, taken)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["False", "True", "True"]


def test_jetstream_is_loaded_when_it_is_used() -> None:
    code = (
        "import sys; from dwarf_nats.cli.lazy_module import load_when_used; load_when_used('nats.js'); import nats;"
        "before = 'nats.js.api' in sys.modules; nats.js.JetStreamContext;"
        "print(before, 'nats.js.api' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split()[:2] == ["False", "True"]


@pytest.mark.parametrize("arguments", [["flow", "list", "--help"], ["flow", "get", "no-key"]])
def test_a_command_of_flows_loads_no_engine_no_conditions_and_no_other_command(arguments: list[str]) -> None:
    found = loaded(*arguments)
    assert "dwarf_nats.cli.options" in found
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
    assert {one.module for one in COMMANDS.values()} & found == {FLOW}


def test_a_name_that_is_none_is_told_with_the_nearest() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "dwarf_nats.cli.main", "flwo"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ran.returncode == 2
    assert "No such command 'flwo'" in ran.stderr
    assert "flow" in ran.stderr
