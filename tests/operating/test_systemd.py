"""The units for systemd: command lines, variables and times that fit the service."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.operating.command_lines import OPERATING, parsed

SYSTEMD = OPERATING / "systemd"
UNITS = ("dwarf-nats.service", "dwarf-nats@.service")
Unit = dict[str, dict[str, list[str]]]


def _unit(path: Path) -> Unit:
    """Sections with their settings; a setting may be given several times."""
    sections: Unit = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in path.read_text().splitlines():
        if not line.strip() or line[0] in "#;":
            continue
        if line.startswith("["):
            section = line.strip("[]")
        else:
            name, found, value = line.partition("=")
            assert found, f"{path.name}: {line}"
            sections[section][name].append(value)
    return sections


def _environment(path: Path, *, commented: bool = False) -> dict[str, str | None]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    lines = [line.lstrip("#") if commented and line.startswith("#DWARF") else line for line in lines]
    return {
        name: value
        for name, found, value in (line.partition("=") for line in lines if not line.startswith("#"))
        if found
    }


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_serves_with_the_environment_of_the_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = _unit(SYSTEMD / name)["Service"]["ExecStart"]
    executable, *words = line.split()
    assert Path(executable).name == "dwarf-nats"
    assert words[0] == "serve"
    environment = _environment(SYSTEMD / "dwarf-nats.env")
    options = parsed(monkeypatch, words, environment)
    assert options["dsn"] == ["postgresql://dwarf@127.0.0.1/dwarf"]
    assert options["creds"] is None, "what is empty is not set"
    everything = parsed(monkeypatch, words, _environment(SYSTEMD / "dwarf-nats.env", commented=True))
    assert everything == options, "what is commented out is the default"


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_lets_the_replica_drain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = _unit(SYSTEMD / name)["Service"]
    drain_ms = parsed(monkeypatch, ["serve"], {})["drain_ms"]
    assert service["KillSignal"] == ["SIGTERM"]
    assert service["KillMode"] == ["mixed"], "children are told by their parent; a second signal stops them at once"
    assert int(service["TimeoutStopSec"][0]) * 1000 > drain_ms + 5_000
    assert service["Restart"] == ["on-failure"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_shut_in(name: str) -> None:
    service = _unit(SYSTEMD / name)["Service"]
    for setting in (
        "DynamicUser",
        "NoNewPrivileges",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectHome",
        "RestrictNamespaces",
    ):
        assert service[setting] == ["yes"], setting
    assert service["ProtectSystem"] == ["strict"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["StateDirectory"][0] in service["WorkingDirectory"][0]


def test_the_template_differs_only_in_what_is_an_instances_own() -> None:
    one, many = (_unit(SYSTEMD / name) for name in UNITS)
    own = {"Description", "EnvironmentFile", "StateDirectory", "WorkingDirectory"}
    for section in one:
        for setting in set(one[section]) | set(many[section]):
            if setting not in own:
                assert one[section][setting] == many[section][setting], setting
            else:
                assert any("%i" in value for value in many[section][setting]), setting
