"""A relay between a replica and PostgreSQL that counts what the replica asks: statements and round trips."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_TLS, _GSS = 80877103, 80877104
_PIECE = 2**16


class Relay:
    """Bound to a free port of loopback at once; passes on while entered. TLS is refused, so that it can read."""

    def __init__(self, dsn: str) -> None:
        self.statements = 0
        self.round_trips = 0
        self._target = urlsplit(dsn)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()

    def dsn(self, dsn: str) -> str:
        """The same database, by way of this relay."""
        parts = urlsplit(dsn)
        user = parts.netloc.rpartition("@")[0]
        port = self._socket.getsockname()[1]
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}"))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, sock=self._socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            there, back = await asyncio.open_connection(self._target.hostname, self._target.port or 5432)
            self._ends |= {writer, back}
            try:
                answers = asyncio.create_task(_pass_on(there, writer))
                await self._ask(reader, writer, back)
                await answers
            finally:
                self._ends -= {writer, back}
                writer.close()
                back.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        """The front end's half, message by message: `Q` and `E` execute something, `Q` and `S` wait for an answer."""
        try:
            while True:  # what comes before the start: a wish for encryption, or a cancellation
                head = await reader.readexactly(8)
                length, code = struct.unpack(">II", head)
                if code not in (_TLS, _GSS):
                    break
                writer.write(b"N")
            back.write(head + await reader.readexactly(length - 8))
            while True:
                head = await reader.readexactly(5)
                kind = head[:1]
                self.statements += kind in (b"Q", b"E")
                self.round_trips += kind in (b"Q", b"S")
                back.write(head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4))
                await back.drain()
        except (EOFError, OSError):
            with contextlib.suppress(OSError):
                back.write_eof()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    writer.close()
