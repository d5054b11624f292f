"""`dwarf-nats`: the commands, put together."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from dwarf_nats.cli import (
    bench,
    config,
    console,
    demo,
    dev,
    explain,
    graph,
    health,
    migrate,
    serve,
    shards,
    tags,
    tasks,
    worker,
)
from dwarf_nats.cli.command import new_app, print_refusal
from dwarf_nats.errors import Internal
from dwarf_nats.redact import scrubbed
from dwarf_nats.version import __version__

_HELP = """Durable workflow orchestration as a service on NATS.

A setting comes from its option, else from its variable (DWARF_…), else from dwarf.toml. A command's own --help lists
its options.
"""
app = new_app(_HELP, completion=True)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"dwarf-nats {__version__}")
        raise typer.Exit


@app.callback(epilog='\b\nExample:\n  dwarf-nats demo\n  dwarf-nats flow run greet --state \'{"name": "ada"}\'')
def root(
    context: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", envvar="DWARF_CONFIG", help="Settings file; dwarf.toml if that is there."),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.default_map = config.load(config_file, context.command)


explain.register(tags.app)
app.add_typer(tags.app, name="flow")
app.add_typer(graph.app, name="graph")
for module in (serve, dev, demo, console, worker, migrate, tasks, shards, health, bench):
    module.register(app)


def main() -> None:
    """The console script. An unexpected error is printed in one line; DWARF_TRACEBACK=1 adds the traceback."""
    try:
        app()
    except Exception as error:
        if os.environ.get("DWARF_TRACEBACK"):
            print(scrubbed(traceback.format_exc()), file=sys.stderr)
        defect = Internal(f"{type(error).__name__}: {error}; DWARF_TRACEBACK=1 shows more")
        sys.exit(print_refusal(defect, as_json="--json" in sys.argv))


if __name__ == "__main__":
    main()
