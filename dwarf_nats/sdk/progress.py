"""Sends the progress of an execution to the engine, ten times a second at most, and the last one in any case (B7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dwarf_nats.workflow.progress import PROGRESS_SECONDS, progress_json

if TYPE_CHECKING:
    from dwarf_nats.workflow.progress import Progress


class ProgressSender:
    """Sends what one execution reports. `send` returns false if it could not be sent now; then it is tried again."""

    def __init__(self, send: Callable[[bytes], Awaitable[bool]]) -> None:
        self._send = send
        self._waiting: bytes | None = None
        self._sending: asyncio.Task[None] | None = None

    def report(self, _step_key: str, progress: Progress) -> None:
        """Send a progress, now or as soon as it is its turn; a later one takes its place."""
        self._waiting = progress_json(progress)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._run())

    async def finish(self) -> None:
        """Send what still waits: the answer of the execution is about to follow."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        await self._send_waiting()

    async def _run(self) -> None:
        while self._waiting is not None:
            await self._send_waiting()
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _send_waiting(self) -> None:
        body, self._waiting = self._waiting, None
        if body is not None and not await self._send(body) and self._waiting is None:
            self._waiting = body
