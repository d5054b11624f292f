"""Processes that answer questions: one JSON line in on stdin, one out on stdout; they end when stdin does.

The end of stdin is also what a child sees when its parent dies, so none is left behind.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 2**20
_STOP_SECONDS = 30.0


class Failed(Exception):
    """A child ended, or answered with an error."""


class Child:
    """`python -m MODULE ARGUMENT …` and its answers. `async with` starts it and waits for its first line."""

    def __init__(self, module: str, *arguments: str, python: tuple[str, ...] = (), executable: str = "") -> None:
        self._command = [executable or sys.executable, *python, "-m", module, *arguments]
        self._process: asyncio.subprocess.Process | None = None
        self.goodbye: Any = None

    @classmethod
    def of(cls, *command: str) -> Self:
        """A program that is no module of Python."""
        child = cls("")
        child._command = [*command]
        return child

    @property
    def running(self) -> bool:
        """Started, and not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            limit=LIMIT,
        )
        try:
            await self._answer()
        except BaseException:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            raise
        return self

    async def ask(self, **question: Any) -> Any:
        """The answer to a question. Raises `Failed`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(question) + b"\n")
        return await self._answer()

    async def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise Failed(f"{' '.join(self._command[1:4])} ended with code {await self._process.wait()}")
        answer = orjson.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise Failed(answer["error"])
        return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                assert process.stdout is not None
                last = await process.stdout.read()
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        else:
            self.goodbye = _last_answer(last)


def _last_answer(output: bytes) -> Any:
    """The answer in the last line that is one. A library may write a line of its own when its process ends."""
    for line in reversed(output.splitlines()):
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
    return None


async def converse(answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
    """The child's side: say that it is ready, answer each line, return when there are no more."""
    reader = asyncio.StreamReader(limit=LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"ready": True})
    async for line in reader:
        try:
            say(await answer(orjson.loads(line)))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


def say(message: object) -> None:
    """One line to the parent."""
    sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
    sys.stdout.buffer.flush()


def own_cpu() -> float:
    """CPU seconds of this process so far."""
    return time.process_time()
