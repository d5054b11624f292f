"""`serve --otlp` and the levels of logs, as far as they show before a server is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwarf_nats.telemetry import otlp
from tests.cli.conftest import Run


def test_a_collector_that_is_no_url_is_refused_before_anything_is_opened(run: Run, tmp_path: Path) -> None:
    result = run("serve", "--dsn", f"sqlite:///{tmp_path}/dwarf.db", "--otlp", "collector:4318")
    assert result.exit_code == 1
    assert "use http://host:4318" in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment as from the flag."""
    monkeypatch.setattr(otlp, "_installed", lambda: False)
    monkeypatch.setenv("DWARF_OTLP", "http://127.0.0.1:4318")
    result = run("serve", "--dsn", "sqlite://")
    assert result.exit_code == 1
    assert "pip install 'dwarf-nats[otel]'" in " ".join(result.stderr.split())


def test_an_unknown_level_is_wrong_usage(run: Run) -> None:
    result = run("serve", "--dsn", "sqlite://", "--log-level", "loud")
    assert result.exit_code == 2
    assert "debug" in result.stderr
