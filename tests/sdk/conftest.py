"""A connection, a prefix of the test's own, and hand-made responders in place of the service."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import Worker
from dwarf_nats.sdk.request_reply import round_trip
from tests.support.workers import Asked, Responder

_numbers = itertools.count(1)


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Nats]:
    """A plain connection, ours alone."""
    connection = await nats.connect(nats_server.url)
    yield connection
    await connection.close()


@pytest.fixture
def prefix() -> str:
    """A prefix no other test uses."""
    return f"sdk{next(_numbers)}"


@pytest.fixture
def service(nc: Nats, prefix: str) -> Callable[[str, Responder], Awaitable[None]]:
    """Answers an operation as the service would. A responder returns a body, `(headers, body)`, or `None`: silence."""

    async def serve(operation: str, responder: Responder) -> None:
        async def on_request(msg: Msg) -> None:
            reply = responder(Asked(json.loads(msg.data or b"{}"), msg.data, msg.headers))
            if reply is None:
                return
            headers, body = reply if isinstance(reply, tuple) else (None, reply)
            await nc.publish(msg.reply, json.dumps(body).encode(), headers=headers)

        await nc.subscribe(f"{prefix}.{operation}", cb=on_request)
        await round_trip(nc)

    return serve


@pytest.fixture
async def serving(nats_server: NatsServer, prefix: str) -> AsyncIterator[Callable[..., Any]]:
    """`await serving(url=function, …)` starts a worker that is stopped after the test."""
    workers: list[Worker] = []

    async def serve(concurrency: int = 64, **functions: Callable[..., Any]) -> Worker:
        worker = Worker(nats_server.url, task_prefix=prefix, concurrency=concurrency)
        for url, function in functions.items():
            worker.add_task(url, function)
        workers.append(worker)
        await worker.start()
        return worker

    yield serve
    for worker in workers:
        await worker.stop(0)
