"""Arguments and options that commands of several modules share."""

from __future__ import annotations

from typing import Annotated

import typer

FlowKey = Annotated[str, typer.Argument(metavar="FLOW", help="The flow's key.")]
Cursor = Annotated[str, typer.Option(help="The page after this one, as printed below it.")]
State = Annotated[str | None, typer.Option("--state", help="Initial state: JSON, @file or - for standard input.")]
