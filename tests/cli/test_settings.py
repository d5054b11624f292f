"""Settings come from flags, then the environment, then dwarf.toml."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.settings import ENGINE_SETTINGS, SERVER_SETTINGS, EngineSettings, ServerSettings, Setting
from tests.cli.conftest import Run
from tests.cli.test_usage import COMMANDS


@pytest.fixture(autouse=True)
def _hasty(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Give up soon on a NATS that is not there; `run` has cleared the environment before."""
    monkeypatch.setenv("DWARF_CONNECT_TIMEOUT_MS", "50")


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dwarf.toml"


def _asked(run: Run, *arguments: str) -> str:
    """Which server `shards` asked, from the error that it is not there."""
    return run("shards", *arguments).stderr.split(" at ")[1].split(":")[2].strip()


def test_flags_beat_the_environment_which_beats_the_file(run: Run, toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text('nats = "nats://127.0.0.1:3"\n')
    assert _asked(run) == "3"
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:4")
    assert _asked(run) == "4"
    monkeypatch.setenv("DWARF_NATS", "nats://127.0.0.1:2")
    assert _asked(run) == "2"
    assert _asked(run, "--nats", "nats://127.0.0.1:1") == "1"


def test_a_table_is_for_its_command_and_beats_the_top_of_the_file(run: Run, toml: Path) -> None:
    toml.write_text('nats = "nats://127.0.0.1:3"\n[shards]\nnats = "nats://127.0.0.1:5"\n[flow]\nprefix = "x"\n')
    assert _asked(run) == "5"


def test_another_file_can_be_named(run: Run, toml: Path) -> None:
    other = toml.with_name("other.toml")
    other.write_text('nats = "nats://127.0.0.1:6"\n')
    result = run("--config", str(other), "shards")
    assert "127.0.0.1:6" in result.stderr


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nats =", "not valid TOML"),
        ("natss = 'x'", "unknown setting natss; did you mean nats?"),
        ("[flow.rnu]\nnats = 'x'", "no command for the table [flow.rnu]; did you mean run?"),
        ("[shards]\nworkers = 1", "unknown setting shards.workers"),
    ],
)
def test_a_bad_file_is_wrong_usage_and_says_why(text: str, why: str, run: Run, toml: Path) -> None:
    toml.write_text(text)
    result = run("shards")
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.split())


def test_a_file_that_is_not_there_is_wrong_usage(run: Run, toml: Path) -> None:
    assert run("--config", "nowhere.toml", "shards").exit_code == 2
    assert not toml.exists()


def test_the_service_and_the_library_have_the_same_defaults() -> None:
    assert ServerSettings().engine == EngineSettings()


def test_the_options_of_serve_are_the_settings_in_their_order() -> None:
    wanted = [(row.key, row.variable, row.text) for row in SERVER_SETTINGS.values() if row.has_option]
    found = [(one.name, one.envvar, one.help) for one in COMMANDS[("serve",)].params if one.envvar]
    assert found == wanted


def test_names_and_keys_are_unique() -> None:
    rows = SERVER_SETTINGS.values()
    assert len({row.key for row in rows}) == len({(row.part, row.attribute) for row in rows}) == len(rows)


@pytest.mark.parametrize("name", SERVER_SETTINGS)
def test_a_setting_reaches_the_value_that_keeps_it(name: str) -> None:
    row = SERVER_SETTINGS[name]
    given: object = 12345 if row.kind is int else object()
    made = ServerSettings.of(**{name: given})
    assert getattr(getattr(made, row.part) if row.part else made, row.attribute) is given


def test_a_setting_that_is_unknown_is_a_defect_of_the_caller() -> None:
    with pytest.raises(TypeError, match="there is no setting patience_ms"):
        ServerSettings.of(patience_ms=5)


@pytest.mark.parametrize("row", [row for row in ENGINE_SETTINGS if row.least is not None], ids=lambda row: row.name)
def test_the_bounds_of_options_hold_in_the_library_too(row: Setting) -> None:
    assert row.least is not None
    with pytest.raises(BadRequest, match=f"setting {row.name} must "):
        EngineSettings(**{row.name: row.least - 1})
    assert getattr(EngineSettings(**{row.name: row.least}), row.name) == row.least


def test_the_limits_of_an_engine_are_its_settings() -> None:
    settings = EngineSettings(max_depth=7)
    assert dataclasses.asdict(settings.limits()).items() <= dataclasses.asdict(settings).items()
    assert settings.limits().max_depth == 7
