"""A stand-in for the `nats` command line, as far as the documents use it: `req`, `pub`, `reply` and `sub`."""

from __future__ import annotations

import asyncio
import os
import sys

import nats
from nats.aio.msg import Msg

SOON = 30.0


async def main(verb: str, subject: str, body: str = "") -> None:
    """Run one command; `reply` and `sub` go on until they are stopped."""
    client = await nats.connect(os.environ["NATS_URL"])
    if verb == "req":
        print((await client.request(subject, body.encode(), timeout=SOON)).data.decode())
    elif verb == "pub":
        await client.publish(subject, body.encode())
    else:

        async def received(message: Msg) -> None:
            print(message.data.decode(), flush=True)
            if verb == "reply":
                await message.respond(body.encode())

        await client.subscribe(subject, cb=received)
        await client.flush()
        print(f"{'Listening' if verb == 'reply' else 'Subscribing'} on {subject!r}", flush=True)
        await asyncio.Event().wait()
    await client.drain()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
