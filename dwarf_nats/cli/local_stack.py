"""The service on one machine for `dev` and `demo`: NATS, a database, a replica, workers, each a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from dwarf_nats.child_process import ChildProcess
from dwarf_nats.cli import console
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.dev_servers import NatsServer, PostgresServer
from dwarf_nats.errors import Unavailable
from dwarf_nats.sdk import Client
from dwarf_nats.wire.connect_options import ConnectOptions

_START_SECONDS = 60.0
_POLL_SECONDS = 0.05


class LocalStack:
    """The servers and one replica; add workers with `add_worker`. Stops everything in order at the end.

    `data`: where the database is. `postgres`: embedded PostgreSQL instead of a SQLite file. `port`: of NATS, a free one
    if that is taken. `logs`: a folder for what the processes print; else that goes where our output goes.
    """

    def __init__(
        self,
        data: Path,
        *,
        postgres: bool = False,
        port: int | None = None,
        graphs: Path | None = None,
        logs: Path | None = None,
    ) -> None:
        self._data = data
        self._graphs = graphs
        self._logs = logs
        self._stack = AsyncExitStack()
        self._nats = NatsServer(port=port if port is not None and is_free(port) else None, store_dir=data / "nats")
        self._postgres = PostgresServer(data_dir=data / "postgres") if postgres else None
        self._replica = ChildProcess("the replica")
        self.dsn = f"sqlite:///{data / 'dwarf.db'}"

    @property
    def url(self) -> str:
        """The URL of NATS."""
        return self._nats.url

    def client(self) -> Client:
        """A client of this deployment."""
        return Client(self.url, name="dwarf-dev", environment=False)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        await self._stack.enter_async_context(self._nats)
        if self._postgres is not None:
            await self._stack.enter_async_context(self._postgres)
            known = await self._postgres.execute("select 1 from pg_database where datname = 'dwarf'")
            self.dsn = self._postgres.dsn("dwarf") if known else await self._postgres.create_database("dwarf")
        arguments = ["serve", "--nats", self.url, "--dsn", self.dsn]
        if self._graphs is not None:
            arguments += ["--graphs", str(self._graphs)]
        self._replica.launch(command_line(*arguments), self.log("replica"), env=clean_env())
        self._stack.push_async_callback(self._replica.end, signal.SIGTERM)
        await self._until_served()

    async def _until_served(self) -> None:
        """Wait until the service answers. Raises `Unavailable` if the replica ends or takes too long."""
        try:
            async with asyncio.timeout(_START_SECONDS), self.client() as client:
                while True:
                    try:
                        await client.shard_info()
                    except Unavailable:
                        self._replica.check_alive()
                        await asyncio.sleep(_POLL_SECONDS)
                    else:
                        return
        except TimeoutError:
            raise Unavailable(f"the replica did not answer within {_START_SECONDS:g} s: its log says why") from None

    def check_alive(self) -> None:
        """Raise `Unavailable` if the replica has ended."""
        self._replica.check_alive()

    def log(self, name: str) -> Path | None:
        """The log file of a process, if output goes to files."""
        return self._logs / f"{name}.log" if self._logs is not None else None

    async def add_console(self, port: int) -> str:
        """Serve the web console, stopped with the stack, on a free port if that one is taken. Returns its URL.

        The text is empty if the extra for it is not installed.
        """
        if not console.is_installed():
            return ""
        settings = ConsoleSettings(listen=f"127.0.0.1:{port if is_free(port) else 0}")
        connection = ConnectOptions(url=self.url, environment=False)
        server = await self._stack.enter_async_context(console.served(connection, "dwarf", settings))
        return server.url

    def add_worker(self, module: str, env: Mapping[str, str] | None = None) -> WorkerProcess:
        """A worker process for a module, stopped with the stack; start it with `start`."""
        process = WorkerProcess(module, self.url, self.log("worker"), env or {})
        self._stack.push_async_callback(process.stop)
        return process


class WorkerProcess:
    """`dwarf-nats worker` as a process of its own."""

    def __init__(self, module: str, url: str, log: Path | None, env: Mapping[str, str]) -> None:
        self.module = module
        self._url = url
        self._log = log
        self._env = {**clean_env(), **env}
        self._child = ChildProcess(f"the worker of {module}")

    @property
    def running(self) -> bool:
        return self._child.running

    async def start(self) -> None:
        """Start it and wait until it serves. Raises `Unavailable` if it ends instead."""
        with tempfile.TemporaryDirectory(prefix="dwarf-worker-") as folder:
            ready = Path(folder) / "ready"
            arguments = ["worker", self.module, "--nats", self._url, "--ready-file", str(ready)]
            self._child.launch(command_line(*arguments), self._log, env=self._env)
            async with asyncio.timeout(_START_SECONDS):
                while not _exists(ready):
                    self._child.check_alive()
                    await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> None:
        """Let it finish the tasks in flight, and end it."""
        await self._child.end(signal.SIGTERM)


def command_line(*arguments: str) -> Sequence[str]:
    """This program with other arguments."""
    return [sys.executable, "-m", "dwarf_nats.cli.main", *arguments]


def clean_env() -> dict[str, str]:
    """The environment without the variables that would lead a child to another server or database."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}


def is_free(port: int) -> bool:
    """True if nobody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _exists(path: Path) -> bool:
    return path.exists()
