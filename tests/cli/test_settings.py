"""Settings come from flags, then the environment, then dwarf.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwarf_nats.settings import EngineSettings, ServerSettings
from tests.cli.conftest import Run


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
    """Both spell them out, each for its readers."""
    assert ServerSettings().engine == EngineSettings()
