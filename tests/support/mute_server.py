"""A NATS server that answers no PING after the handshake until it is told to, and ends connections when told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

INFO = b'INFO {"server_id":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576}\r\n'


class MuteServer:
    """Use it with `serving()`. `asked` is set when a PING came that it leaves unanswered."""

    def __init__(self) -> None:
        self.url = ""
        self.mute = True
        self.lines: list[bytes] = []
        """What clients said before that PING."""
        self.asked = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    def end_connections(self) -> None:
        """Close every connection there is; those that come later are answered."""
        self.mute = False
        for writer in self._writers:
            writer.close()

    async def pong(self) -> None:
        """Answer one PING of each connection late."""
        for writer in self._writers:
            writer.write(b"PONG\r\n")
            await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(INFO)
        shaken = False
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if line.startswith(b"PING") and (not shaken or not self.mute):
                    shaken = True
                    writer.write(b"PONG\r\n")
                elif line.startswith(b"PING"):
                    self.asked.set()
                elif not self.asked.is_set():
                    self.lines.append(line.rstrip())
        writer.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[MuteServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield self
        self.end_connections()
        server.close()
