"""Output of running tasks in the terminal: texts as they come, one after the other (B8)."""

from __future__ import annotations

import asyncio
import sys

from dwarf_nats.cli.output import Output
from dwarf_nats.errors import TimedOut
from dwarf_nats.render.terminal import in_lines, one_line
from dwarf_nats.sdk import Chunk, Client
from dwarf_nats.wire.output import chunk_json
from dwarf_nats.workflow.records import Outcome


class ChunkPrinter:
    """Prints chunks: texts on stdout, and on stderr whose they are when that changes. `task`: only those of this node."""

    def __init__(self, out: Output, task: str = "") -> None:
        self._out = out
        self._task = task
        self._last = ("", "")
        self._open_line = False

    def print(self, chunk: Chunk) -> None:
        """Print one."""
        if self._task and chunk.task != self._task:
            return
        if self._out.json:
            self._out.show(chunk_json(chunk))
            return
        whose = (chunk.step_id, chunk.execution)
        if whose != self._last:
            self._last = whose
            self.end_line()
            note = ", again" if chunk.restarted else ""
            print(f"— {one_line(chunk.task or 'output')} ({chunk.step_id}){note}", file=sys.stderr, flush=True)
        if chunk.missed:
            print(f"[{chunk.missed} missed]", file=sys.stderr, flush=True)
        text = in_lines(chunk.text)
        if not isinstance(chunk.data, str) and chunk.end is None:
            text += "\n"  # JSON, a line each
        sys.stdout.write(text)
        sys.stdout.flush()
        self._open_line = not text.endswith("\n") if text else self._open_line

    def end_line(self) -> None:
        """End the line that a text has left open."""
        if self._open_line:
            self._open_line = False
            print(flush=True)


async def streamed(
    client: Client, flow_key: str, printer: ChunkPrinter, *, start: bool = False, timeout: float | None = None
) -> Outcome:
    """Print what a flow's tasks emit until it stops or pauses; returns its outcome. `start`: start the flow first.

    Raises `TimedOut` after `timeout` seconds.
    """
    stream = client.stream(flow_key, end_at_pause=True)
    try:
        async with asyncio.timeout(timeout), stream:
            if start:
                await client.start(flow_key)
            async for chunk in stream:
                printer.print(chunk)
    except TimeoutError:
        raise TimedOut(f"the flow is still going after {timeout:g} s", flow_key=flow_key) from None
    finally:
        printer.end_line()
    assert stream.outcome is not None
    return stream.outcome
