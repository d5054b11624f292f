"""PostgreSQL alone: what it carries when writers offer it more (`settling`), on one core, on two, and as two servers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import asyncpg

from dwarf_nats.dev_servers import PostgresServer

from . import settling
from .arms import LOGGED, Servers, Sides
from .capacity import two_cores
from .children import Child, Failed
from .processes import cpu_of, pin
from .result import Arm, Figures

WRITERS = 4
"""Of each side in the case `shards`."""


class _Server:
    """One PostgreSQL server and a database on it."""

    def __init__(self, dsn: str, pid: int) -> None:
        self.pid = pid
        self._database = f"dwarf_bench_{secrets.token_hex(4)}"
        self.dsn = dsn.rsplit("/", 1)[0] + f"/{self._database}"
        self._admin_dsn = dsn
        self._admin: asyncpg.Connection | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the database, for as long as `stack` lasts."""
        self._admin = admin = await asyncpg.connect(self._admin_dsn)
        stack.push_async_callback(admin.close)
        await admin.execute(f'create database "{self._database}"')
        stack.push_async_callback(admin.execute, f'drop database "{self._database}" with (force)')

    async def logged(self) -> float:
        """Bytes of its write-ahead log so far."""
        assert self._admin is not None
        return float(await self._admin.fetchval(LOGGED))

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_of(self.pid) or 0.0


class DatabaseArm:
    """Writers in `len(sides)` processes. A side has the cores of its writers, those of its server, and which server that is."""

    def __init__(
        self,
        name: str,
        servers: Servers,
        sides: Sides,
        places: Sequence[tuple[frozenset[int], frozenset[int], int]],
        writers: int,
    ) -> None:
        self.figures = Arm(name, replicas=0, committers=writers * len(places), alone="database")
        self._main = servers
        self._steps = sides.steps
        self._places = places
        self._writers = writers
        self._stack = AsyncExitStack()
        self._servers: list[_Server] = []
        self._children: list[Child] = []
        self._ending = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._ending.aclose()
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        if "database" not in self._main.pids:
            raise Failed("this case keeps PostgreSQL on a core of its own: it needs a server on this machine")
        self._servers.append(_Server(self._main.dsn, self._main.pids["database"]))
        for _ in range(max(server for *_, server in self._places)):
            more = await self._stack.enter_async_context(PostgresServer())
            self._servers.append(_Server(more.dsn(), more.pid))
        for server in self._servers:
            await server.open(self._stack)
        for number, (_, _, chosen) in enumerate(self._places):
            child = Child(
                settling.__name__, "--dsn", self._servers[chosen].dsn, "--writers", str(self._writers),
                "--first", str(1 + number * self._writers), "--steps", str(self._steps),
            )  # fmt: skip
            self._children.append(await self._ending.enter_async_context(child))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._ending.aclose()
        await self._stack.__aexit__(kind, error, trace)

    async def warm_up(self, concurrency: int) -> None:
        """Plans cached, tables no longer empty."""
        await self.measure(concurrency, 1)

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Write groups of `concurrency` steps for `flows` seconds."""
        for child, (theirs, its, server) in zip(self._children, self._places, strict=True):
            pin(child.pid, theirs)
            pin(self._servers[server].pid, its)
        logged = sum([await server.logged() for server in self._servers])
        spent = sum(server.cpu() for server in self._servers)
        done = await asyncio.gather(*(child.ask(seconds=flows, group=concurrency) for child in self._children))
        spent = sum(server.cpu() for server in self._servers) - spent
        logged = sum([await server.logged() for server in self._servers]) - logged
        steps, commits = sum(one["steps"] for one in done), sum(one["commits"] for one in done)
        seconds = max(one["seconds"] for one in done)
        waits = self.figures.committers * seconds / commits * 1e3
        return Figures(
            steps // self._steps, steps, seconds, steps / seconds, waits, waits, float(concurrency), commits / steps,
            {"database": round(spent / steps * 1e6, 2), "client": round(sum(one["cpu"] for one in done) / steps * 1e6, 2)},
            transactions_per_step=commits / steps,
            measures={
                "core_percent": round(spent / seconds * 100, 1),
                "wal_bytes_per_step": round(logged / steps),
            },
        )  # fmt: skip


def committers(servers: Servers, sides: Sides, numbers: Sequence[int]) -> list[DatabaseArm]:
    """The arms of the case `database`: PostgreSQL on a core of its own, so many writers on another."""
    own, others = two_cores()
    return [
        DatabaseArm(f"{number} writer{'s' * (number > 1)}", servers, sides, [(others, own, 0)], number)
        for number in numbers
    ]


def sharded(servers: Servers, sides: Sides) -> list[DatabaseArm]:
    """The arms of the case `shards`: the same writers on a core, twice that on two cores, and on two servers."""
    one, other = two_cores()
    both = one | other
    return [
        DatabaseArm("1 server on 1 core", servers, sides, [(one, one, 0)], WRITERS),
        DatabaseArm("1 server on 2 cores", servers, sides, [(one, both, 0), (other, both, 0)], WRITERS),
        DatabaseArm("2 servers, a core each", servers, sides, [(one, one, 0), (other, other, 1)], WRITERS),
    ]
