"""`dwarf-nats bench`: the benchmark harness of a checkout."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from dwarf_nats.cli.command import command
from dwarf_nats.errors import NotFound

_CHECKOUT = Path(__file__).resolve().parents[2]


def register(app: typer.Typer) -> None:
    command(app, "bench", example="dwarf-nats bench floor-linear")(bench)


def bench(arguments: Annotated[list[str] | None, typer.Argument(help="Passed on; see `bench --help`.")] = None) -> None:
    """Run the benchmark harness."""
    beside = _CHECKOUT / "bench" / "__main__.py"
    if not beside.exists() and importlib.util.find_spec("bench") is None:
        raise NotFound("the benchmark harness is not here: run this in a checkout of dwarf-nats, where bench/ is")
    folder = _CHECKOUT if beside.exists() else None
    raise typer.Exit(subprocess.call([sys.executable, "-m", "bench", *(arguments or [])], cwd=folder))
