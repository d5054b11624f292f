"""The reference of all settings holds all settings, each described."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dwarf_nats.cli import reference
from dwarf_nats.settings import SERVER_SETTINGS, EngineSettings, ServerSettings
from tests.cli.test_usage import COMMANDS


def test_the_page_is_as_it_would_be_written() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.render(), "python -m dwarf_nats.cli.reference"


def test_every_option_and_every_setting_is_described() -> None:
    assert reference.undescribed() == []


def test_a_setting_that_is_new_is_missed_until_it_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = dataclasses.make_dataclass("ServerSettings", [("patience_ms", int, 5)], bases=(ServerSettings,))
    monkeypatch.setattr(reference, "ServerSettings", grown)
    assert reference.undescribed() == ["ServerSettings.patience_ms"]


def test_every_setting_and_every_variable_of_serve_has_a_row() -> None:
    page = reference.render()
    for row in SERVER_SETTINGS.values():
        assert row.of_command or f"| `{row.name}` |" in page, row.name
    for param in COMMANDS[("serve",)].params:
        if param.envvar:
            assert f"`{param.opts[0]}`" in page
            assert f"`{param.envvar}`" in page


def test_the_settings_of_server_and_engine_have_the_same_defaults() -> None:
    server = ServerSettings().engine
    assert server == EngineSettings()


def test_drift_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(reference, "PAGE", tmp_path / "configuration.md")
    assert reference.main(["--check"]) == 1
    assert "python -m dwarf_nats.cli.reference" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
