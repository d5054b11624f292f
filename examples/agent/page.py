"""A page to talk to the agent: tokens as they come, the tools it calls, and the decisions it waits for. Try it with::

    python examples/agent/page.py --port 8000

It reads what the agent does over NATS and passes it on as server-sent events. It is for one machine: it has no login.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from agent import support
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dwarf_nats.sdk import Client, DwarfError, Outcome, Status, Step

HIDDEN = ("begin", "calls", "results")
"""Nodes that only arrange fields."""


def build_app(client: Client) -> Starlette:
    """The page over a client of the service."""

    async def page(_: Request) -> Response:
        return FileResponse(Path(__file__).with_name("page.html"))

    async def ask(request: Request) -> Response:
        """Begin a flow that answers; in the thread of an earlier one, if its key is given."""
        body = await request.json()
        return JSONResponse(
            {"flow": await support.create(client, body["prompt"], thread=body.get("thread", ""), start=False)}
        )

    async def decide(request: Request) -> Response:
        """Answer a pause."""
        body = await request.json()
        await client.resume(step_key=body["step"], data={"approved": body["approved"]})
        return JSONResponse({})

    async def events(request: Request) -> Response:
        """Start the flow, and tell what happens to it."""
        told = happenings(client, request.path_params["flow"])
        return StreamingResponse((f"data: {json.dumps(one)}\n\n" async for one in told), media_type="text/event-stream")

    async def refused(_: Request, error: Exception) -> Response:
        code = error.code if isinstance(error, DwarfError) else 500
        return JSONResponse({"error": str(error)}, code)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    routes = [
        Route("/", page),
        Route("/ask", ask, methods=["POST"]),
        Route("/decide", decide, methods=["POST"]),
        Route("/events/{flow}", events),
    ]
    return Starlette(routes=routes, lifespan=life, exception_handlers={DwarfError: refused})


async def happenings(client: Client, flow: str) -> AsyncIterator[dict[str, Any]]:
    """The events of a flow until it has ended: tokens, steps with pauses, and the end."""
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def tokens() -> None:
        async with client.stream(flow) as stream:
            with contextlib.suppress(DwarfError):  # a page that is loaded again finds the flow started
                await client.start(flow)
            async for chunk in stream:
                if chunk.restarted:
                    queue.put_nowait({"kind": "again", "step": chunk.step_id})
                if chunk.end is None:
                    queue.put_nowait({"kind": "token", "step": chunk.step_id, "text": chunk.text})

    async def changes() -> None:
        async for change in client.watch(flow):
            queue.put_nowait(
                {
                    "kind": "steps",
                    "steps": [shown(step) for step in change.steps if step.task not in HIDDEN],
                    "pauses": [{"step": pause.step_key, "asks": pause.payload} for pause in change.outcome.pauses],
                }
            )
            last = change.outcome
        queue.put_nowait(ended(last))

    async def both() -> None:
        try:
            await asyncio.gather(tokens(), changes())
        finally:
            queue.put_nowait(None)

    reading = asyncio.create_task(both())
    try:
        while (one := await queue.get()) is not None:
            yield one
        await reading
    finally:
        reading.cancel()


def shown(step: Step) -> dict[str, Any]:
    """A step as the page shows it."""
    return {"id": step.step_id, "task": step.task, "status": step.status.value}


def ended(outcome: Outcome) -> dict[str, Any]:
    """The end of a flow."""
    if outcome.status is Status.COMPLETED:
        return {"kind": "end", "output": support.output(outcome)}
    return {"kind": "end", "error": outcome.error.message if outcome.error else outcome.status.value}


def main() -> None:
    """Serve the page."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, default=8000)
    options.add_argument("--nats", default="", help="URL of NATS; as the nats command finds it, without")
    given = options.parse_args()
    print(f"page      http://127.0.0.1:{given.port}", flush=True)
    uvicorn.run(build_app(Client(given.nats, name="agent-page")), port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
