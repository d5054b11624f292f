"""The command line, run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from dwarf_nats.cli.main import app

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `dwarf-nats` with the arguments given, away from the settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("DWARF_", "NATS_")):
            monkeypatch.delenv(name)

    def invoke(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, prog_name="dwarf-nats")

    return invoke
