"""A deployment in which everybody has the permissions of their role, and somebody listens to everything."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import nats
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.engine import Engine
from dwarf_nats.sdk import Client, Worker
from dwarf_nats.sdk.request_reply import round_trip
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings

TEMPLATES = Path(__file__).parents[2] / "docs" / "operating" / "permissions"
USERS = ("replica", "operator", "viewer", "shop", "billing", "catalog")
WAIT = 30.0
"""Seconds after which a test that waits gives up."""


def secured(folder: Path, environment: pytest.MonkeyPatch) -> Path:
    """The shipped configuration with a user `root`; the passwords it asks the environment for are the users' names."""
    home = folder / "conf"
    shutil.copytree(TEMPLATES, home)
    config = home / "nats-server.conf"
    shipped = config.read_text()
    assert shipped.count("users: [\n") == 1
    config.write_text(shipped.replace("users: [\n", "users: [\n    { user: root, password: root }\n"))
    for user in USERS:
        environment.setenv(f"DWARF_{user.upper()}_PASSWORD", user)
    return config


def url_of(server: str, user: str) -> str:
    """The server's URL with name and password of a user."""
    return server.replace("://", f"://{user}:{user}@")


class Deployment:
    """One replica, clients of the roles, and `heard`: every message that passed, as `root` hears it.

    `tasks` are served before the replica comes: with `root` listening, the server never says that nobody does. `providers`: for
    its metrics and spans.
    """

    def __init__(
        self,
        server: str,
        dsn: str,
        tasks: dict[str, Callable[..., Any]] | None = None,
        *,
        providers: dict[str, Any] | None = None,
        **settings: Any,
    ):
        self.server = server
        self._providers = providers or {}
        self._tasks = tasks
        self._settings: dict[str, Any] = {"dsns": [dsn], "drain_ms": 200, "wait_for_servers": False, **settings}
        self._stack = AsyncExitStack()
        self._replica = AsyncExitStack()
        self.heard: list[Msg] = []
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        try:
            self.root = await self.connected("root")
            await self.root.subscribe(">", cb=self._hear)
            await round_trip(self.root)
            if self._tasks:
                await self.worker(self._tasks)
            self._stack.push_async_callback(self.stop_replica)
            self.engine = await self.replica()
            self.operator = await self.client("operator")
            self.viewer = await self.client("viewer")
            self.shop = await self.client("shop")
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def replica(self) -> Engine:
        settings = ServerSettings.of(
            nats_url=url_of(self.server, "replica"), inbox_prefix="_INBOX.replica", **self._settings
        )
        return await self._replica.enter_async_context(replica(settings, **self._providers))

    async def stop_replica(self) -> None:
        await self._replica.aclose()

    async def client(self, user: str) -> Client:
        client = Client(url_of(self.server, user), inbox_prefix=f"_INBOX.{user}")
        return await self._stack.enter_async_context(client)

    async def worker(self, tasks: dict[str, Callable[..., Any]]) -> Worker:
        worker = Worker(url_of(self.server, "billing"), inbox_prefix="_INBOX.billing", drain_seconds=1.0)
        for url, function in tasks.items():
            worker.add_task(url, function)
        return await self._stack.enter_async_context(worker)

    async def connected(self, user: str) -> Nats:
        nc = await nats.connect(url_of(self.server, user), inbox_prefix=f"_INBOX.{user}")
        self._stack.push_async_callback(nc.close)
        return nc

    async def until(self, seen: Callable[[Msg], bool]) -> Msg:
        """The first message of that kind, of those that passed since the deployment was opened or that will."""
        at = 0
        async with asyncio.timeout(WAIT), self._news:
            while True:
                for message in self.heard[at:]:
                    if seen(message):
                        return message
                at = len(self.heard)
                await self._news.wait()

    async def _hear(self, message: Msg) -> None:
        async with self._news:
            self.heard.append(message)
            self._news.notify_all()


class Attempts:
    """A connection that remembers what the server said it may not."""

    def __init__(self) -> None:
        self.refusals: set[str] = set()

    @asynccontextmanager
    async def of(self, server: NatsServer, user: str) -> AsyncIterator[Nats]:
        async def remember(error: Exception) -> None:
            assert "permissions violation" in str(error)
            self.refusals.add(str(error).split('"')[1])

        nc = await nats.connect(url_of(server.url, user), error_cb=remember)
        try:
            yield nc
        finally:
            await nc.close()

    async def allowed(self, nc: Nats, subjects: set[str]) -> set[str]:
        """Those of the subjects, tried just now, that were not refused. (nats-py tells errors in lower case.)"""
        await round_trip(nc)
        refused, self.refusals = self.refusals, set()
        return {subject for subject in subjects if subject.lower() not in refused}


async def queue_of(nc: Nats, subject: str) -> asyncio.Queue[Msg]:
    """What arrives on `subject` from now on."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def keep(message: Msg) -> None:
        heard.put_nowait(message)

    await nc.subscribe(subject, cb=keep)
    await round_trip(nc)
    return heard
