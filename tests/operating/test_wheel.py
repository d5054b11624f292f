"""What is installed is all there is: the wheel works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dwarf_nats.cli.init import FILES
from tests.operating.command_lines import ROOT

pytestmark = pytest.mark.slow
_MADE = {"__pycache__", "node_modules"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel, as they would lie in site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


def _run(installed: Path, *arguments: str) -> str:
    """Run Python with what is installed before all else, from a folder that is not the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
    environment |= {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=installed.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("here", "there"), [("migrations", "_migrations"), ("schemas", "_schemas"), ("examples", "_examples")]
)
def test_the_wheel_has_what_stands_beside_the_package(installed: Path, here: str, there: str) -> None:
    ours = [path for path in (ROOT / here).rglob("*") if path.is_file() and not _MADE & set(path.parts)]
    assert ours
    for path in ours:
        assert (installed / "dwarf_nats" / there / path.relative_to(ROOT / here)).is_file(), path


def test_the_wheel_has_the_templates_of_a_project(installed: Path) -> None:
    for template in FILES.values():
        assert (installed / "dwarf_nats/cli/project" / template).is_file(), template


def test_the_wheel_has_the_schema_of_each_database(installed: Path) -> None:
    for name in ("postgres.sql", "sqlite.sql"):
        for path in (name, f"create_{name}"):
            assert "create table dwarf_flows" in (installed / "dwarf_nats/store/schema" / path).read_text()


def test_an_installed_package_migrates_by_its_own_files_and_finds_its_examples(installed: Path) -> None:
    say = "from dwarf_nats.cli.demo import examples; from dwarf_nats.store.upgrade import migrations_dir"
    places = _run(installed, "-c", f"{say}; print(migrations_dir(), examples())").split()
    assert all(Path(place).is_relative_to(installed) for place in places)
    assert "current" in _run(installed, "-m", "dwarf_nats.cli.main", "migrate", "--dsn", "sqlite:///dwarf.db")
