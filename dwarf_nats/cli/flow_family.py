"""`dwarf-nats flow`: the commands of flows, put together."""

from __future__ import annotations

import typer

from dwarf_nats.cli import explain, tags


def register(app: typer.Typer) -> None:
    """Add the family to an app."""
    explain.register(tags.app)
    app.add_typer(tags.app, name="flow")
