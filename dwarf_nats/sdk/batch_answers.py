"""Answers and signals of the steps that came in one message: sent together, as they come (wire section 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from dwarf_nats.wire import batches as codec


class BatchAnswers:
    """Collects the answers to one message, and sends those of one turn of the event loop together.

    `send` sends one message. `spawn` runs a coroutine that the stop of the worker waits for. `max_payload`: of the connection.
    `send_now` sends one without waiting, or returns false.
    """

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        spawn: Callable[[Coroutine[None, None, None]], None],
        max_payload: Callable[[], int],
        send_now: Callable[[bytes], bool],
    ) -> None:
        self._send_now = send_now
        self._send = send
        self._spawn = spawn
        self._max_payload = max_payload
        self._waiting: list[bytes] = []
        self._sending = False

    def add(self, answer: bytes) -> None:
        """Send an answer or a signal, with those that come in this turn of the event loop."""
        self._waiting.append(answer)
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        while self._waiting:
            part = self._next_part()
            if not self._send_now(codec.join(part)):
                self._waiting[:0] = part
                self._spawn(self._flush())
                return
        self._sending = False

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await self._send(codec.join(self._next_part()))
        finally:
            self._sending = False

    def _next_part(self) -> list[bytes]:
        """Take as many answers as fit into a message; at least one."""
        room = self._max_payload() - 1_000  # the headers
        count = size = 0
        for answer in self._waiting:
            size += len(answer) + 1
            if count and size > room:
                break
            count += 1
        part, self._waiting = self._waiting[:count], self._waiting[count:]
        return part
