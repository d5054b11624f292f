"""The pipe by which a command tells how far it has come: one progress a line (B7)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from dwarf_nats.errors import DwarfError
from dwarf_nats.workflow.task_error import TaskError

if TYPE_CHECKING:
    from dwarf_nats.workflow.flow import Flow

log = logging.getLogger("dwarf_nats.worker")
MAX_LINE_BYTES = 8_192
"""Longest line that is kept; a progress has 4 KiB at most."""
EXAMPLE = '0.5, or {"fraction": 0.5, "text": "page 3 of 6", "data": {"page": 3}}'


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A progress as a command writes it."""

    fraction: float | None = None
    text: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class ProgressPipe(asyncio.Protocol):
    """Reads the lines that a command writes to `path`, while entered, and reports each as a progress of the step.

    A line that is none is logged once and left out: the command goes on.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._read, self._write = os.pipe()
        self._transport: asyncio.ReadTransport | None = None
        self._closed = asyncio.Event()
        self._rest = b""
        self._warned = False

    @property
    def path(self) -> str:
        """The file that the command writes to: its own copy of the pipe."""
        return f"/dev/fd/{self._write}"

    @property
    def passed(self) -> tuple[int, ...]:
        """The descriptors that the command inherits."""
        return (self._write,)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(self._read, "rb", buffering=0))
        self._transport = transport
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_go()
        if self._transport is not None:
            self._transport.close()

    async def ended(self, seconds: float) -> None:
        """Wait until everything that was written has been read, at most `seconds`: no process has the pipe open any more."""
        self._let_go()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    def data_received(self, data: bytes) -> None:
        """Report the lines that are complete."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[: MAX_LINE_BYTES + 1]
        for line in lines:
            self._report(line)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Report a last line without its end."""
        if self._rest:
            self._report(self._rest)
        self._closed.set()

    def _let_go(self) -> None:
        """Close our copy of the end that is written to, so that the end of the command is the end of the pipe."""
        write, self._write = self._write, -1
        if write >= 0:
            os.close(write)

    def _report(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            found = msgspec.json.decode(line, type=float | _Line)
            one = found if isinstance(found, _Line) else _Line(fraction=found)
            data = {} if isinstance(one.data, msgspec.UnsetType) else {"data": msgspec.json.decode(one.data)}
            self._flow.progress(one.fraction, one.text, **data)
        except (msgspec.MsgspecError, UnicodeDecodeError, DwarfError, TaskError) as error:
            if not self._warned:
                self._warned = True
                log.warning("task %s: a line of progress is left out: %s; write %s", self._flow.url, error, EXAMPLE)
