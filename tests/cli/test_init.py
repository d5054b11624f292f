"""`dwarf-nats init`: the project that it makes works at once."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from dwarf_nats.cli.init import FILES
from dwarf_nats.sdk import Client, Status
from tests.cli.conftest import Run, served
from tests.operating.command_lines import parsed


def made(run: Run, folder: Path) -> Path:
    result = run("init", str(folder))
    assert result.exit_code == 0, result.output
    return folder


def test_the_tests_of_a_new_project_pass(run: Run, tmp_path: Path) -> None:
    project = made(run, tmp_path / "shop")
    (project / "conftest.py").write_text("from dwarf_nats.testing.plugin import flow_env as flow_env\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout


@pytest.mark.slow
def test_a_new_project_is_served_as_its_readme_says(run: Run, tmp_path: Path) -> None:
    """By the processes that `dwarf-nats dev` starts."""
    project = made(run, tmp_path / "my-shop")

    async def paid(url: str) -> None:
        async with Client(url) as client:
            outcome = await client.run("my-shop", {"customer": "Ada", "amount": 40})
            assert outcome.status is Status.COMPLETED
            assert outcome.state["receipt"].startswith("Ada paid 40 euros")
            outcome = await client.run("my-shop", {"customer": "Ada", "amount": 4000})
            await client.resume(outcome.flow_key, {"yes": False})
            assert "receipt" not in (await client.await_(outcome.flow_key)).state

    with served(tmp_path, (project / "tasks.py").read_text(), project / "graphs") as url:
        asyncio.run(paid(url))


def test_what_is_printed_names_the_files_and_the_next_steps(run: Run, tmp_path: Path) -> None:
    said = run("init", str(tmp_path / "shop")).stdout
    assert all(path.replace("@NAME@", "shop") in said for path in FILES)
    assert "dwarf-nats dev tasks.py --graphs graphs" in said
    assert not [path for path in (tmp_path / "shop").rglob("*") if path.is_file() and "@NAME@" in path.read_text()]


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    project = made(run, tmp_path / "shop")
    (project / "tasks.py").write_text("mine")
    again = run("init", str(project))
    assert (again.exit_code, (project / "tasks.py").read_text()) == (1, "mine")
    assert "nothing is overwritten" in again.stderr
    (tmp_path / "file").write_text("mine")
    assert "is no folder" in run("init", str(tmp_path / "file")).stderr
    assert "cannot make" in run("init", str(tmp_path / "file" / "shop")).stderr


def test_a_folder_that_has_other_files_is_filled(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shop" / ".git").mkdir(parents=True)
    assert (made(run, tmp_path / "shop") / "tasks.py").is_file()


@pytest.mark.parametrize("name", ["Shop", "1st", "a b", "ä", "x" * 41])
def test_a_name_that_no_workflow_can_have_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    result = run("init", str(tmp_path / name))
    assert result.exit_code == 1
    assert "use a small letter" in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_compose_file_is_sound(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (made(run, tmp_path / "shop") / "docker-compose.yml").read_text()
    compose = yaml.safe_load(re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text))
    schema = json.loads((files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    for name in ("replica", "worker"):
        service = compose["services"][name]
        options = parsed(monkeypatch, service["command"], service["environment"])
        assert options["nats"] == "nats://nats:4222"
        for volume in service["volumes"]:
            place = volume.split(":")[0]
            assert place in compose["volumes"] or (tmp_path / "shop" / place).exists()
