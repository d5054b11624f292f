"""The Dockerfile, as far as it can be told without an engine for containers."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from dwarf_nats.settings import ServerSettings
from tests.operating.command_lines import ROOT, parsed

Step = tuple[str, str]


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


def test_a_check_gives_a_replica_time_to_start(stages: list[list[Step]], monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = _all(stages[1], "HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    program, *words = json.loads(command)
    assert program == "dwarf-nats"
    parsed(monkeypatch, words, {})
    patience = int(re.findall(r"--start-period=(\d+)s", options)[0])
    assert patience * 1000 >= ServerSettings().engine.replica_timeout_ms
