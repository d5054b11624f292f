"""The service as its callers and its task services see it: a bare nats-py client, and the published schemas."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings

SCHEMAS = Path(__file__).parents[2] / "schemas"
WAIT = 30.0
"""Seconds after which a test that waits gives up."""


@cache
def _checker(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{schema}.json").read_text()))


def conforms(schema: str, value: Any) -> Any:
    """`value`, which must be as `schemas/<schema>.json` has it."""
    _checker(schema).validate(value)
    return value


@cache
def _schemas_of(operation: str) -> tuple[str, str]:
    """The schemas of request and reply, as the published AsyncAPI document names them."""
    document = json.loads((SCHEMAS / "asyncapi.json").read_text())
    described = document["operations"][operation.replace(".", "-")]
    asked, told = described["messages"][0]["$ref"], described["reply"]["messages"][0]["$ref"]
    return _file_of(asked), _file_of(told)


def _file_of(message: str) -> str:
    name = message.rsplit("/", 1)[1]
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).removeprefix("_")


class Caller:
    """Asks the operations of the deployment `prefix`. Good requests, replies and refusals must match their schemas."""

    def __init__(self, client: Client, prefix: str) -> None:
        self.client = client
        self.prefix = prefix

    async def raw(self, operation: str, request: Any = None, headers: dict[str, str] | None = None) -> Msg:
        payload = request if isinstance(request, bytes) else b"" if request is None else json.dumps(request).encode()
        return await self.client.request(f"{self.prefix}.{operation}", payload, timeout=WAIT, headers=headers)

    async def ok(self, operation: str, headers: dict[str, str] | None = None, /, **fields: Any) -> Any:
        """The reply of a request that must succeed."""
        asked, told = _schemas_of(operation)
        conforms(asked, fields)
        message = await self.raw(operation, fields or None, headers)
        assert message.headers is None, (operation, message.headers)
        return conforms(told, json.loads(message.data))

    async def refused(self, operation: str, headers: dict[str, str] | None = None, /, **fields: Any) -> dict[str, Any]:
        """The error of a request that must be refused; headers and body must agree."""
        message = await self.raw(operation, fields, headers)
        assert message.headers is not None, (operation, message.data)
        error: dict[str, Any] = conforms("error_reply", json.loads(message.data))["error"]
        assert message.headers["Nats-Service-Error-Code"] == str(error["code"])
        assert message.headers["Nats-Service-Error"]
        return error

    async def code(self, operation: str, headers: dict[str, str] | None = None, /, **fields: Any) -> int:
        return int((await self.refused(operation, headers, **fields))["code"])

    # --- the other sides of the bus ---

    async def hear(self, subject: str, queue: str = "") -> asyncio.Queue[Msg]:
        """What arrives on `subject` from now on, for the test to take and to answer."""
        heard: asyncio.Queue[Msg] = asyncio.Queue()

        async def keep(message: Msg) -> None:
            heard.put_nowait(message)

        await self.client.subscribe(subject, queue=queue, cb=keep)
        await self.client.flush()
        return heard

    async def holds(self, task: str) -> asyncio.Queue[Msg]:
        """Serves a task; its requests stand in the queue until the test answers them."""
        return await self.hear(f"{self.prefix}task.{task}")

    async def serves(self, task: str, reply: Any = b"", headers: dict[str, str] | None = None) -> list[Msg]:
        """Serves a task with one and the same reply; the requests it got."""
        got: list[Msg] = []
        body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()

        async def answer(message: Msg) -> None:
            got.append(message)
            await self.client.publish(message.reply, body, headers=headers)

        await self.client.subscribe(f"{self.prefix}task.{task}", cb=answer)
        await self.client.flush()
        return got

    async def plays(self, task: str, reply: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
        """Serves a task with a reply of its own for each request; the requests it got."""
        got: list[dict[str, Any]] = []

        async def answer(message: Msg) -> None:
            body = conforms("task_request", json.loads(message.data))
            got.append(body)
            await self.client.publish(message.reply, json.dumps(conforms("task_reply", reply(body))).encode())

        await self.client.subscribe(f"{self.prefix}task.{task}", queue="players", cb=answer)
        await self.client.flush()
        return got

    async def answer(self, message: Msg, reply: Any = b"", headers: dict[str, str] | None = None) -> None:
        body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        await self.client.publish(message.reply, body, headers=headers)


async def take(queue: asyncio.Queue[Msg]) -> Msg:
    """The next message, which must come."""
    return await asyncio.wait_for(queue.get(), WAIT)


def line(name: str, *tasks: str) -> dict[str, Any]:
    """A graph that runs `tasks` one after the other."""
    return {
        "name": name,
        "entryPoint": tasks[0],
        "tasks": [{"name": task} for task in tasks],
        "transitions": [{"from": a, "to": b} for a, b in zip(tasks, [*tasks[1:], "END"], strict=True)],
    }


@asynccontextmanager
async def connected(nats_url: str) -> AsyncIterator[Client]:
    client = await nats.connect(nats_url)
    try:
        yield client
    finally:
        await client.close()


SIGNALS = os.environ.get("DWARF_SIGNALS", "true").lower() not in ("0", "false", "no")
"""Off in `make quiet`: everything must hold without them, only slower (B1)."""


def settings(nats_url: str, dsn: str, prefix: str, **more: Any) -> ServerSettings:
    """Of a replica of the deployment `prefix`."""
    return ServerSettings.of(
        dsns=[dsn],
        nats_url=nats_url,
        prefix=prefix,
        task_prefix=f"{prefix}task",
        graph_prefix=f"{prefix}graph",
        wait_for_servers=False,
        **{"drain_ms": 200, "signals": SIGNALS, **more},
    )


@asynccontextmanager
async def deployment(nats_url: str, dsn: str, prefix: str, **more: Any) -> AsyncIterator[Caller]:
    """One replica and a caller of it. `more`: fields of `ServerSettings`."""
    async with replica(settings(nats_url, dsn, prefix, **more)), connected(nats_url) as client:
        yield Caller(client, prefix)
