"""The Dockerfile, as far as it can be told without an engine for containers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import tomllib
from pathlib import Path

import pytest

from dwarf_nats import probes
from dwarf_nats.settings import ServerSettings
from tests.operating.command_lines import ROOT

Step = tuple[str, str]
CHECK = ROOT / "deploy/image/dwarf-healthcheck"


@pytest.fixture(scope="module")
def stages() -> list[list[Step]]:
    """The instructions of each stage, with their arguments in one line."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[list[Step]] = [[]]
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            if name == "FROM":
                found.append([])
            found[-1].append((name, " ".join(rest.split())))
    return found[1:]


def _all(stage: list[Step], name: str) -> list[str]:
    return [rest for instruction, rest in stage if instruction == name]


def test_what_is_copied_is_there_and_let_into_the_build(stages: list[list[Step]]) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in _all(stages[0], "COPY") for name in line.split()[:-1]]
    assert set(copied) == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_everything_the_wheel_is_made_of_is_copied(stages: list[list[Step]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    needed |= set(project["project"]["license-files"])
    assert needed <= {name for line in _all(stages[0], "COPY") for name in line.split()[:-1]}


def test_the_image_has_the_package_but_nothing_to_build_with(stages: list[list[Step]]) -> None:
    _, last = stages
    assert _all(last, "COPY") == ["--from=build /opt/dwarf /opt/dwarf"]
    assert "deploy/image /opt/dwarf/bin" in _all(stages[0], "COPY")
    assert os.access(CHECK, os.X_OK)
    assert any("pip uninstall" in line for line in _all(last, "RUN"))
    assert any("venv --without-pip /opt/dwarf" in line for line in _all(stages[0], "RUN"))


def test_it_runs_as_nobody_in_particular_and_hears_signals_itself(stages: list[list[Step]]) -> None:
    _, last = stages
    (user,) = _all(last, "USER")
    uid, gid = map(int, user.split(":"))
    assert min(uid, gid) > 999
    assert f"useradd --uid {uid}" in _all(last, "RUN")[0]
    assert [json.loads(line) for line in _all(last, "ENTRYPOINT")] == [["dwarf-nats"]]
    assert _all(last, "STOPSIGNAL") == ["SIGTERM"]
    order = [name for name, _ in last]
    assert order.index("USER") > max(place for place, name in enumerate(order) if name == "RUN")


def test_a_check_gives_a_replica_time_to_start(stages: list[list[Step]]) -> None:
    (check,) = _all(stages[1], "HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    assert json.loads(command) == [CHECK.name]
    patience = int(re.findall(r"--start-period=(\d+)s", options)[0])
    assert patience * 1000 >= ServerSettings().engine.replica_timeout_ms


@pytest.mark.parametrize(("ready", "code"), [(True, 0), (False, 1)])
async def test_the_check_asks_the_health_port_without_python(tmp_path: Path, ready: bool, code: int) -> None:
    _program(tmp_path, "dwarf-nats", "exit 7")
    async with probes.ProbeServer("127.0.0.1", 0, lambda: probes.Report(True, ready, b"{}")) as server:
        assert await _checked(tmp_path, str(server.port)) == code


async def test_the_check_asks_over_nats_where_nobody_answers_at_the_port(tmp_path: Path) -> None:
    _program(tmp_path, "dwarf-nats", '[ "$*" = health ] && [ -z "${DWARF_HEALTH_PORT+set}" ] && exit 7')
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # nobody listens
        assert await _checked(tmp_path, str(reserved.getsockname()[1])) == 7


def _program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


async def _checked(folder: Path, port: str) -> int:
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "DWARF_HEALTH_PORT": port}
    process = await asyncio.create_subprocess_exec(str(CHECK), env=environment)
    return await process.wait()
