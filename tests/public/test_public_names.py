"""The public names of `dwarf_nats`: which there are, that they load late, and that type checkers know them."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dwarf_nats
from dwarf_nats import sdk
from dwarf_nats.wire import messages

ROOT = Path(__file__).parents[2]
CHEAP = {"dwarf_nats", "dwarf_nats.version", "dwarf_nats.lazy_names"}
HEAVY = (
    "aiosqlite",
    "alembic",
    "asyncpg",
    "cel_expr_python",
    "msgspec",
    "nats",
    "opentelemetry",
    "sqlalchemy",
    "typer",
)


def python(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return ran.stdout


def test_every_public_name_is_there_and_is_what_its_module_has() -> None:
    assert dwarf_nats.__all__ == sorted(set(dwarf_nats.__all__), key=dwarf_nats.__all__.index)
    assert all(getattr(dwarf_nats, name) is not None for name in dwarf_nats.__all__)
    assert set(dwarf_nats.__all__) <= set(dir(dwarf_nats))
    shared = set(sdk.__all__) & set(dwarf_nats.__all__)
    assert all(getattr(dwarf_nats, name) is getattr(sdk, name) for name in shared)


def test_what_the_sdk_exports_is_public_except_the_functions_that_run_workers() -> None:
    assert set(sdk.__all__) - set(dwarf_nats.__all__) == {"main", "serve"}


@pytest.mark.parametrize(("package", "others"), [(dwarf_nats, ["__version__"]), (sdk, [])])
def test_the_names_for_type_checkers_and_those_that_are_loaded_are_the_same(
    package: ModuleType, others: list[str]
) -> None:
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        node.module: tuple(one.name for one in node.names) for node in block.body if isinstance(node, ast.ImportFrom)
    }
    assert imported == package._MODULES
    names = [name for names in imported.values() for name in names]
    assert sorted([*names, *others]) == sorted(package.__all__)


def test_the_messages_for_type_checkers_and_those_that_are_loaded_are_the_same() -> None:
    assert messages.__file__ is not None
    (block,) = [node for node in ast.parse(Path(messages.__file__).read_text()).body if isinstance(node, ast.If)]
    imported: dict[str, tuple[str, ...]] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        imported[f"dwarf_nats.wire.{node.module}"] = (
            *imported.get(f"dwarf_nats.wire.{node.module}", ()),
            *(one.name for one in node.names),
        )
    assert imported == messages._MODULES
    assert all(getattr(messages, name) is not None for names in imported.values() for name in names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dwarf_nats' has no attribute 'Nothing'"):
        dwarf_nats.Nothing  # noqa: B018
    with pytest.raises(ImportError):
        from dwarf_nats import Nothing  # noqa: F401


def test_importing_the_package_loads_nothing_else_of_it() -> None:
    loaded = python("import sys, dwarf_nats; print(*sys.modules)").split()
    assert {name for name in loaded if name.split(".")[0] == "dwarf_nats"} == CHEAP
    assert not set(HEAVY) & {name.split(".")[0] for name in loaded}


def test_clients_load_no_engine_and_the_engine_loads_no_nats() -> None:
    client = python("import sys; from dwarf_nats import Client, Worker, Graph; print(*sys.modules)").split()
    assert not {"dwarf_nats.engine", "dwarf_nats.store", "dwarf_nats.bus", "sqlalchemy", "asyncpg"} & set(client)
    engine = python("import sys; from dwarf_nats import open_engine, run_task; print(*sys.modules)").split()
    assert not {"dwarf_nats.bus", "dwarf_nats.nats_client", "nats"} & set(engine)


def test_every_name_that_the_pages_import_from_the_package_is_public() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    imports = re.findall(r"from dwarf_nats import ([\w, ]+)", "\n".join(page.read_text() for page in pages))
    names = {name.strip() for line in imports for name in line.split(",")} - {"local"}  # a module
    assert names <= set(dwarf_nats.__all__)


def test_the_longer_paths_that_pages_showed_before_still_work() -> None:
    """Programs import from them."""
    for module, names in {
        "dwarf_nats.embedding": ("add_shard", "open_engine"),
        "dwarf_nats.embedded": ("NatsServer", "PostgresServer"),
        "dwarf_nats.clock": ("ManualClock",),
        "dwarf_nats.ports": ("BusAway", "Tasks", "WorkerLost"),
        "dwarf_nats.workflow.answer": ("Answer", "TaskCall"),
        "dwarf_nats.workflow.arguments": ("run_task",),
        "dwarf_nats.workflow.graph": ("END", "Graph"),
        "dwarf_nats.testing": ("service", "workflow_engine"),
    }.items():
        found = importlib.import_module(module)
        assert [name for name in names if not hasattr(found, name)] == [], module


@pytest.mark.slow
def test_type_checkers_know_the_public_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from dwarf_nats import Client, Graph, Outcome, open_engine\n"
        "async def run(client: Client, graph: Graph) -> Outcome:\n"
        "    return await client.run(graph)\n"
        "reveal_type(open_engine)\n"
        "reveal_type(Client)\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--strict", str(program)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout
    assert 'note: Revealed type is "Any"' not in ran.stdout
    assert ran.stdout.count("Revealed type is") == 2
    assert "dwarf_nats.engine.engine.Engine" in ran.stdout
