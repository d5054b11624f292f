"""Command lines and environments that files of a deployment name, held against the command line there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_usage import COMMANDS

ROOT = Path(__file__).parents[2]
OPERATING = ROOT / "docs" / "operating"
OF_THE_DATABASE = {"PGPASSWORD"}
"""What the PostgreSQL driver reads by itself."""


def variables_of(command: str) -> set[str]:
    """The environment variables a command reads."""
    return {param.envvar for param in COMMANDS[(command,)].params if getattr(param, "envvar", None)}


def parsed(
    monkeypatch: pytest.MonkeyPatch, words: Sequence[str], environment: Mapping[str, str | None]
) -> dict[str, Any]:
    """The options a command line in an environment comes to, as `dwarf-nats` reads them, defaults included.

    Fails for a command, an option, a value or a variable that is not there.
    """
    command, *arguments = words
    unknown = set(environment) - variables_of(command) - OF_THE_DATABASE
    assert not unknown, f"dwarf-nats {command} does not read {', '.join(sorted(unknown))}"
    with monkeypatch.context() as patch:
        for name in variables_of(command):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value or "")
        options: dict[str, Any] = COMMANDS[(command,)].make_context(command, list(arguments)).params
    return options
