"""`dwarf-nats flow stream`: what the tasks of a flow emit while they run (B8)."""

from __future__ import annotations

from typing import Annotated

import typer

from dwarf_nats.cli.arguments import FlowKey
from dwarf_nats.cli.command import command
from dwarf_nats.cli.flow import EXIT_CODES
from dwarf_nats.cli.options import Bus, FlowService
from dwarf_nats.cli.output import Output
from dwarf_nats.cli.streaming import ChunkPrinter, streamed
from dwarf_nats.wire import codec


def register(app: typer.Typer) -> None:
    command(
        app,
        "stream",
        short="Print what a flow's tasks emit.",
        example="dwarf-nats flow stream 1-42-a1B2c3D4e5F6g7H8 --start > answer.txt",
    )(stream)


async def stream(
    out: Output,
    bus: Bus,
    service: FlowService,
    flow: FlowKey,
    start: Annotated[bool, typer.Option("--start", help="Start the flow first, so that nothing is missed.")] = False,
    task: Annotated[str, typer.Option(help="Only the output of this node.")] = "",
) -> None:
    """Print what the tasks of a flow emit from now on, until it stops or pauses. What was emitted before is not kept.

    Texts go to stdout, and whose they are to stderr. Exit codes are those of `flow await`.
    """
    async with service.client(bus) as client:
        outcome = await streamed(client, flow, ChunkPrinter(out, task), start=start)
    if out.json:
        out.show(codec.encode_outcome(outcome))
    raise typer.Exit(EXIT_CODES[outcome.status])
