"""`dwarf-nats flow`: the commands of flows, put together."""

from __future__ import annotations

import typer

from dwarf_nats.cli import bulk, explain, stream


def register(app: typer.Typer) -> None:
    """Add the family to an app."""
    explain.register(bulk.app)
    stream.register(bulk.app)
    app.add_typer(bulk.app, name="flow")
