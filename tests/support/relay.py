"""What stands between a client and a database, and passes on what they say."""

from __future__ import annotations

import asyncio
import contextlib


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, head: bytes) -> None:
    """Connect to the server behind, say `head`, which was read already, and pass on everything until both have ended."""
    theirs, ours = await asyncio.open_connection(host, port)
    try:
        ours.write(head)
        await asyncio.gather(_pass_on(reader, ours), _pass_on(theirs, writer))
    finally:
        ours.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
