"""The installation that is broken and mended: servers, replicas and workers, all processes of their own, on loopback.

Each dies with this process, whatever ends it. What a process says goes to a file of its own, a new one at every start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from dwarf_nats.child_process import ChildProcess
from dwarf_nats.dev_servers import NatsServer, PostgresServer

REPLICA_TIMEOUT_MS = 2_500
TIME_BUDGET_MS = 3_000
SHOWN_CHARACTERS = 240
ROOT = Path(__file__).resolve().parents[2]


class Member:
    """A replica or a worker: a process that is started again and again."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.said: list[Path] = []
        """What it said, a file each time it was started."""
        self.drained: list[Path] = []
        """Those of them that served and were to end in order."""
        self.frozen = False
        self._command = [sys.executable, *command]
        self._folder = folder
        self._child = ChildProcess(name, signal.SIGKILL)

    @property
    def running(self) -> bool:
        return self._child.running

    def start(self) -> None:
        path = self._folder / f"{self.name}.{len(self.said) + 1}.log"
        path.touch()
        self.said.append(path)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_"))}
        # Its warnings are no business of a pytest that runs us.
        self._child.launch(self._command, path, env={**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"})

    async def kill(self) -> None:
        """kill -9; it may be frozen."""
        self.frozen = False
        await self._child.end(signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self._child.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen and self.running:
            os.kill(self._child.pid, signal.SIGCONT)
        self.frozen = False

    async def drain(self) -> None:
        """Have it end in order; returns when it has."""
        if "is ready" in self.said[-1].read_text(errors="replace"):
            self.drained.append(self.said[-1])
        await self._child.end(signal.SIGTERM)

    def said_between(self, since: float, until: float) -> Iterator[tuple[float, str]]:
        """The lines it said in this time; those without a time of their own are left out."""
        for path in self.said:
            for text in path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    at = datetime.strptime(text[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
                    if since <= at <= until:
                        yield at, text

    async def until_said(self, words: str, seconds: float = 60) -> None:
        """Wait until it has said so since it was started last."""
        async with asyncio.timeout(seconds):
            while words not in self.said[-1].read_text(errors="replace"):
                if not self.running:
                    raise AssertionError(
                        f"{self.name} ended by itself: {self.said[-1].read_text(errors='replace')[-2000:]}"
                    )
                await asyncio.sleep(0.05)


class Server(Protocol):
    """NATS or PostgreSQL."""

    async def start(self) -> None: ...
    async def kill(self) -> None: ...
    async def stop(self) -> None: ...


@dataclass
class Installation:
    """All of it, up and running. `databases` are the servers that can be broken, none for SQLite."""

    folder: Path
    nats: NatsServer
    databases: list[PostgresServer]
    dsns: list[str]
    replicas: list[Member]
    workers: list[Member]

    @property
    def members(self) -> list[Member]:
        return [*self.replicas, *self.workers]

    def accounts(self) -> list[Path]:
        return sorted(self.folder.glob("worker-*.account"))

    def said(self, since: float, until: float) -> list[str]:
        """What replicas and workers said in this time, in seconds since the epoch."""
        lines = [(at, one.name, text) for one in self.members for at, text in one.said_between(since, until)]
        return [f"{name} said: {text[:SHOWN_CHARACTERS]}" for _, name, text in sorted(lines)]

    async def until_whole(self) -> None:
        """Everything that is down is started, everything serves."""
        for one in self.members:
            one.thaw()
            if not one.running:
                one.start()
        for one in self.replicas:
            await one.until_said("is ready")
        for one in self.workers:
            await one.until_said("serving ")


@dataclass(frozen=True)
class Arrangement:
    """The kind of installation. `databases`: PostgreSQL servers, a shard each; 0 is one SQLite file, for one replica."""

    name: str
    databases: int
    replicas: int = 3
    workers: int = 3
    flags: tuple[str, ...] = ()

    @contextlib.asynccontextmanager
    async def built(self, folder: Path) -> AsyncIterator[Installation]:
        """The installation, gone at the end whatever happened."""
        async with contextlib.AsyncExitStack() as stack:
            nats = await stack.enter_async_context(NatsServer())
            databases = [await stack.enter_async_context(PostgresServer()) for _ in range(self.databases)]
            dsns = [await one.create_database("chaos") for one in databases] or [f"sqlite:///{folder}/chaos.db"]
            serve = ["-m", "dwarf_nats.cli.main", "serve", "--nats", nats.url]
            serve += [word for dsn in dsns for word in ("--dsn", dsn)]
            serve += ["--replica-timeout-ms", str(REPLICA_TIMEOUT_MS), "--time-budget-ms", str(TIME_BUDGET_MS)]
            serve += ["--drain-ms", "5000", *self.flags]
            replicas = [Member(f"replica-{number + 1}", serve, folder) for number in range(self.replicas)]
            workers = []
            for number in range(self.workers):
                name = f"worker-{number + 1}"
                command = ["-m", "tests.chaos.worker", nats.url, str(folder / f"{name}.account")]
                workers.append(Member(name, command, folder))
            installation = Installation(folder, nats, databases, dsns, replicas, workers)
            try:
                replicas[0].start()
                await replicas[0].until_said("is ready")  # the schema is there
                await installation.until_whole()
                yield installation
            finally:
                await asyncio.gather(*(one.kill() for one in installation.members))


ARRANGEMENTS = {
    one.name: one
    for one in (
        Arrangement("postgres", 1),
        Arrangement("shards", 2),
        Arrangement("sqlite", 0, replicas=1),
        Arrangement("quiet", 1, flags=("--no-signals",)),
    )
}
