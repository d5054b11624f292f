"""A shell command as a task: it reads the state as JSON from stdin and prints the changes as JSON on stdout.

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
from dwarf_nats.workflow.state import NULL, check_state, encode_state, encode_value, to_values
from dwarf_nats.workflow.task_error import TaskError

from .command_progress import ProgressPipe

log = logging.getLogger("dwarf_nats.worker")

PROGRESS, CHECKPOINT = "DWARF_PROGRESS", "DWARF_CHECKPOINT"
"""Variables of a command: the file for its progress, and the data that an earlier execution left."""
MAX_STDOUT_BYTES = 64 * 1024 * 1024
"""Longest output of a command: the largest `max_payload` a NATS server can have."""
STDERR_TAIL_BYTES = 4_096
"""Bytes from the end of stderr that become the message of an error."""
GRACE_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL for a cancelled command, so that it can clean up."""
MALFORMED_OUTPUT = 502
"""Error code for an output that is no JSON object."""
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Colours, titles and control characters, which programs print for terminals and which are removed from messages."""


class CommandTask:
    """Runs `command` with `/bin/sh -c` for each execution of a step.

    The command reads the state from stdin and prints the changes, a JSON object, on stdout; no output means no changes. An
    exit code other than 0 is an error of the step: the end of stderr is the message, and `exitCode` the exit code.
    A line written to the file `$DWARF_PROGRESS` is a progress: a number from 0 to 1, or a JSON object with `fraction`, `text`
    and `data`. `DWARF_CHECKPOINT` is the last `data` as JSON, if an earlier execution of the step has left one (B7).
    `DWARF_STREAM` is the subject on which output of the step may be published (B8).
    The variables `DWARF_FLOW_KEY`, `DWARF_STEP_KEY`, `DWARF_WORKFLOW`, `DWARF_TASK`, `DWARF_ATTEMPT`, `DWARF_DEADLINE` and
    `TRACEPARENT` name the execution. Raises `BadRequest` for an empty command.

    A cancelled command gets SIGTERM, and SIGKILL `GRACE_SECONDS` later. The signals go to its whole process group, and
    processes that the command leaves running in that group end with it.
    """

    def __init__(self, command: str) -> None:
        if not command.strip():
            raise BadRequest("the command is empty: name a program, such as './thumbnail.sh'")
        self.command = command

    async def __call__(self, flow: Flow) -> dict[str, Any]:
        """Run the command once; returns its changes. Raises `TaskError` with `exitCode` if that is not 0."""
        state = {name: flow.raw(name) or NULL for name in flow.names}
        async with ProgressPipe(flow) as pipe:
            environment = {**os.environ, **_environment(flow), PROGRESS: pipe.path}
            code, stdout, stderr = await _run(self.command, encode_state(state), environment, pipe)
        if code:
            raise TaskError(_message(code, stderr), exitCode=code)
        if stderr:
            log.info("task %s: the command printed on stderr: %s", flow.url, _plain(stderr))
        return _changes(stdout)


async def _run(
    command: str, stdin: bytes, environment: Mapping[str, str], pipe: ProgressPipe
) -> tuple[int, bytes, bytes]:
    """Run a command to its end; returns exit code, stdout, and the end of stderr. Cancelling this ends the command."""
    transport, process = await _started(command, environment, pipe)
    try:
        process.feed(stdin)
        await process.exited.wait()
        process.signal(signal.SIGKILL)  # for processes that the command left running
        await process.ended(GRACE_SECONDS)
        await pipe.ended(GRACE_SECONDS)
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


async def _started(
    command: str, environment: Mapping[str, str], pipe: ProgressPipe
) -> tuple[asyncio.SubprocessTransport, _Process]:
    """Start a command. If cancelled meanwhile, end it together with the processes it has started by then."""
    exec_ = asyncio.get_running_loop().subprocess_exec
    arguments = ("/bin/sh", "-c", command)
    starting = asyncio.ensure_future(
        exec_(_Process, *arguments, env=environment, start_new_session=True, pass_fds=pipe.passed)
    )
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
    """Collects the output of a process and notes its exit. Its pipes may stay open after that, held by its children."""

    def __init__(self) -> None:
        self.pid = 0
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflown = False
        self.exited = asyncio.Event()
        self._closed = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, since uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def feed(self, stdin: bytes) -> None:
        """Write the whole input; the process need not read it."""
        assert self._transport is not None
        pipe = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        with contextlib.suppress(RuntimeError, OSError):  # uvloop raises if the process has closed its stdin
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
        """Wait until the process has exited and its pipes are closed, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def terminate(self) -> None:
        """End the process with SIGTERM, so that it can clean up, and with SIGKILL after `GRACE_SECONDS`."""
        self.signal(signal.SIGTERM)
        try:
            await self.ended(GRACE_SECONDS)
        finally:
            self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group, if it still exists."""
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
        "DWARF_STREAM": flow.output_subject,
        "TRACEPARENT": flow.traceparent,
        **({} if flow.checkpoint is None else {CHECKPOINT: encode_value(flow.checkpoint).decode()}),
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
