"""Workers and client of Restate, a process each, in the virtual environment of the peers. Imports nothing of dwarf_nats.

Workers answer every question with their port. The client registers them, and then answers as `peer.py` does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from typing import Any

import aiohttp
import hypercorn.asyncio
import hypercorn.config
import restate

from .children import converse
from .peer import STATE, Lane, Lanes

_REGISTER_SECONDS = 30.0
_RETRY_SECONDS = 0.2
PATHS = {"run": "/Line/run", "chained": "/Line/chained"}


async def workers(steps: int) -> None:
    """Serve both shapes over HTTP/2, with the server that Restate's documentation takes."""
    line, tasks = restate.Service("Line"), restate.Service("Tasks")

    async def add(state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state["n"] + 1}

    @tasks.handler()
    async def count(_context: restate.Context, state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state["n"] + 1}

    @line.handler()
    async def run(context: restate.Context, state: dict[str, Any]) -> dict[str, Any]:
        for _ in range(steps):
            state = {**state, **await context.run_typed("count", add, restate.RunOptions(), state)}
        return state

    @line.handler()
    async def chained(context: restate.Context, state: dict[str, Any]) -> dict[str, Any]:
        for _ in range(steps):
            state = {**state, **await context.service_call(count, arg=state)}
        return state

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        config = hypercorn.config.Config()
        config.bind = [f"fd://{listening.fileno()}"]
        config.h2_max_concurrent_streams = 2**31 - 1  # as its documentation says for production
        config.keep_alive_max_requests = 2**31 - 1
        config.loglevel = "ERROR"
        until_the_end = asyncio.Event().wait
        serving = asyncio.create_task(
            hypercorn.asyncio.serve(restate.app([line, tasks]), config, shutdown_trigger=until_the_end)
        )
        port = listening.getsockname()[1]

        async def answer(_question: dict[str, Any]) -> dict[str, int]:
            if serving.done():
                await serving
            return {"port": port}

        await converse(answer)
        os._exit(0)  # nothing is left to do, and Hypercorn has much to say about connections that end with it


async def client(steps: int, shape: str, endpoint: str, admin: str, ingress: str) -> None:
    """Register the workers, then run flows over HTTP."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await _register(session, admin, endpoint)
        url = ingress + PATHS[shape]

        async def lane() -> int:
            async with session.post(url, json=STATE) as response:
                said = await response.json(content_type=None)
                if response.status != 200:
                    raise RuntimeError(f"restate-server answered {response.status}: {said}")
                return int(said["n"])

        async def make() -> Lane:
            return lane

        await converse(Lanes(make, steps).run)


async def _register(session: Any, admin: str, endpoint: str) -> None:
    """Raises `RuntimeError` if the server does not take it in time: it comes up in parts, so it may refuse at first."""
    said = "no answer"
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _REGISTER_SECONDS
    while loop.time() < deadline:
        try:
            async with session.post(f"{admin}/deployments", json={"uri": endpoint}) as response:
                if response.status in (200, 201):
                    return
                said = f"{response.status}: {(await response.text())[:300]}"
        except (OSError, aiohttp.ClientError) as error:
            said = str(error)
        await asyncio.sleep(_RETRY_SECONDS)
    raise RuntimeError(f"restate-server did not take the workers at {endpoint}: {said}")


async def main() -> None:
    """Serve the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("workers", "client"))
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--shape", choices=PATHS)
    for name in ("endpoint", "admin", "ingress"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    if args.what == "workers":
        await workers(args.steps)
    else:
        await client(args.steps, args.shape, args.endpoint, args.admin, args.ingress)


if __name__ == "__main__":
    asyncio.run(main())
