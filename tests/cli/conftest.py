"""The command line, run in this process."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer.main
import typer.testing
from typer.testing import CliRunner, Result

from dwarf_nats.cli.local_stack import LocalStack
from dwarf_nats.cli.main import app

Run = Callable[..., Result]


_command = functools.cache(typer.main.get_command)
"""The commands as Typer makes them from the program, made once: a runner of Typer makes them for each call."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `dwarf-nats` with the arguments given, away from the settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("DWARF_", "NATS_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(typer.testing, "_get_command", _command)

    def invoke(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, prog_name="dwarf-nats")

    return invoke


@pytest.fixture
def at(run: Run, url: str) -> Run:
    """Runs a command against the service that the module's own fixture `url` started."""

    def invoke(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return run(*arguments, "--nats", url, stdin=stdin)

    return invoke


@contextmanager
def served(folder: Path, tasks: str, graphs: Path | None = None) -> Iterator[str]:
    """A running service with one worker, whose module is `tasks`: the URL of its NATS."""
    module = folder / "tasks.py"
    module.write_text(tasks)
    with asyncio.Runner() as runner:
        stack = LocalStack(folder, logs=folder, graphs=graphs)
        runner.run(stack.__aenter__())
        try:
            runner.run(stack.add_worker(str(module)).start())
            yield stack.url
        finally:
            runner.run(stack.__aexit__(None, None, None))
