"""A command of the shell as a task: state as JSON on its stdin, changes as JSON on its stdout.

worker.add_task("thumbnail", CommandTask("./thumbnail.sh"))
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections.abc import Mapping
from typing import Any, cast

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.state import NULL, check_state, encode_state, to_values
from dwarf_nats.workflow.task_error import TaskError

log = logging.getLogger("dwarf_nats.worker")

MAX_STDOUT_BYTES = 64 * 1024 * 1024
"""The largest `max_payload` a NATS server can have: a longer output could not be sent."""
STDERR_TAIL_BYTES = 4_096
"""How much of the end of stderr becomes the error's message."""
GRACE_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL for a command that was cancelled."""
MALFORMED_OUTPUT = 502
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Colours, titles and control characters, which programs print for terminals."""


class CommandTask:
    """Runs `command` with `/bin/sh -c` for each execution of a step.

    The command reads the state from its stdin. What it prints on stdout are the changes, a JSON object; nothing means
    no changes. An exit code other than 0 is an error of the step: the end of stderr is the message, and `exitCode` the
    exit code. `DWARF_FLOW_KEY`, `DWARF_STEP_KEY`, `DWARF_WORKFLOW`, `DWARF_TASK`, `DWARF_ATTEMPT`, `DWARF_DEADLINE` and
    `TRACEPARENT` tell it what it runs for.

    A cancelled command gets SIGTERM, and SIGKILL `GRACE_SECONDS` later. The signals go to its whole process group. What
    the command leaves running in that group is ended with it.
    """

    def __init__(self, command: str) -> None:
        if not command.strip():
            raise BadRequest("the command is empty: name a program, such as './thumbnail.sh'")
        self.command = command

    async def __call__(self, flow: Flow) -> dict[str, Any]:
        state = {name: flow.raw(name) or NULL for name in flow.names}
        code, stdout, stderr = await _run(self.command, encode_state(state), {**os.environ, **_environment(flow)})
        if code:
            raise TaskError(_message(code, stderr), exitCode=code)
        if stderr:
            log.info("task %s: the command printed on stderr: %s", flow.url, _plain(stderr))
        return _changes(stdout)


async def _run(command: str, stdin: bytes, environment: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Run a command to its end: its exit code, its stdout, and the end of its stderr. Cancelling this ends it."""
    transport, process = await _started(command, environment)
    try:
        process.feed(stdin)
        await process.exited.wait()
        process.signal(signal.SIGKILL)  # what the command left running is of its process group
        await process.ended(GRACE_SECONDS)
    except asyncio.CancelledError:
        await process.terminate()
        raise
    finally:
        process.signal(signal.SIGKILL)
        transport.close()
    if process.overflown:
        raise TaskError(f"the command printed more than {MAX_STDOUT_BYTES:,} bytes on stdout", code=413)
    code = transport.get_returncode()
    assert code is not None
    return code, bytes(process.stdout), bytes(process.stderr)


async def _started(command: str, environment: Mapping[str, str]) -> tuple[asyncio.SubprocessTransport, _Process]:
    """The process of a command. A cancellation that comes while it starts ends it, with all that it has started by then."""
    exec_ = asyncio.get_running_loop().subprocess_exec
    starting = asyncio.ensure_future(exec_(_Process, "/bin/sh", "-c", command, env=environment, start_new_session=True))
    try:
        transport, process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio would kill the shell alone.
        transport, process = await starting
        process.pid = transport.get_pid()
        try:
            await process.terminate()
        finally:
            transport.close()
        raise
    process.pid = transport.get_pid()
    return transport, process


class _Process(asyncio.SubprocessProtocol):
    """What a process prints, and that it has exited. Its pipes may stay open after that, held by what it has started."""

    def __init__(self) -> None:
        self.pid = 0
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflown = False
        self.exited = asyncio.Event()
        self._closed = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def feed(self, stdin: bytes) -> None:
        """Write its whole input; it need not read it."""
        assert self._transport is not None
        pipe = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        with contextlib.suppress(RuntimeError, OSError):  # so uvloop says that the process has closed it
            pipe.write(stdin)
            pipe.close()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.stderr += data
            del self.stderr[:-STDERR_TAIL_BYTES]
        elif len(self.stdout) + len(data) <= MAX_STDOUT_BYTES:
            self.stdout += data
        else:
            self.overflown = True

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._closed.set()

    async def ended(self, seconds: float) -> None:
        """Wait until it has exited and its pipes are closed, but not for longer than this."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def terminate(self) -> None:
        """End it: with SIGTERM, so that it may tidy up, and with SIGKILL if it takes longer than `GRACE_SECONDS`."""
        self.signal(signal.SIGTERM)
        try:
            await self.ended(GRACE_SECONDS)
        finally:
            self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group, if there is one left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _environment(flow: Flow) -> Mapping[str, str]:
    return {
        "DWARF_FLOW_KEY": flow.flow_key,
        "DWARF_STEP_KEY": flow.step_key,
        "DWARF_WORKFLOW": flow.workflow,
        "DWARF_TASK": flow.task,
        "DWARF_ATTEMPT": str(flow.attempt),
        "DWARF_DEADLINE": flow.deadline.isoformat().replace("+00:00", "Z"),
        "TRACEPARENT": flow.traceparent,
    }


def _message(code: int, stderr: bytes) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return _plain(stderr) or f"the command ended with {how} and printed nothing on stderr"


def _plain(stderr: bytes) -> str:
    return _TERMINAL.sub("", stderr.decode("utf-8", "replace").replace("\r\n", "\n")).strip()


def _changes(stdout: bytes) -> dict[str, Any]:
    if not stdout.strip():
        return {}
    try:
        return to_values(check_state(stdout, "the command's stdout"))
    except BadRequest as error:
        excerpt = _plain(stdout[:200])
        raise TaskError(
            f'{error.message}; print the changes as one JSON object, such as {{"word": "hi"}}, and nothing else: {excerpt!r}',
            code=MALFORMED_OUTPUT,
        ) from None
