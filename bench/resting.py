"""The cost of a replica that has nothing to do, and its memory."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

import asyncpg

from . import filling
from .arms import Servers, ServiceArm, Sides
from .backlog import Backlog, BacklogArm
from .relay import Relay
from .result import Arm, Figures
from .shapes import Shape

_SETTLE_SECONDS = 3.0
_HOLD_SECONDS = 60.0


def nothing_run(seconds: float) -> Figures:
    """A round in which no flow was run."""
    return Figures(0, 0, seconds, 0.0, 0.0, 0.0)


class IdleArm(ServiceArm):
    """A replica that has run a few flows and now has nothing to do; its database is behind a relay that counts."""

    def __init__(self, database: str, servers: Servers, sides: Sides) -> None:
        self._relay = Relay(servers.dsn) if database == "postgresql" else None
        super().__init__(database, servers, sides)

    def _replica_dsns(self) -> list[str]:
        return [self._relay.dsn(dsn) for dsn in self.dsns] if self._relay else self.dsns

    async def __aenter__(self) -> Self:
        if self._relay:
            await self._stack.enter_async_context(self._relay)
        return await super().__aenter__()

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Watch it for `flows` seconds; with a `concurrency` of its own, run so many flows instead (the warm-up)."""
        if concurrency > 1:
            return await super().measure(concurrency, flows)
        await asyncio.sleep(_SETTLE_SECONDS)
        before, start, asked = await self._read(), time.perf_counter(), self._asked()
        await asyncio.sleep(flows)
        after, asked = await self._read(), [now - then for now, then in zip(self._asked(), asked, strict=True)]
        found = nothing_run(time.perf_counter() - start)
        for part in ("engine", "database"):
            if part in after and (part == "engine" or self._relay):
                found.measures[f"{part}_cpu_percent"] = (after[part] - before[part]) / found.seconds * 100
        for name, count in zip(("statements", "round_trips"), asked, strict=False):
            found.measures[f"{name}_per_minute"] = count / found.seconds * 60
        return found

    async def warm_up(self, concurrency: int) -> None:
        """A few flows, so that connections and plans are there."""
        await self.measure(max(2, concurrency), 20)

    def _asked(self) -> list[int]:
        return [self._relay.statements, self._relay.round_trips] if self._relay else []


class ResidentArm(BacklogArm):
    """Memory of a replica under the load while so many flows sleep and so many steps are pending."""

    def __init__(self, asleep: int, pending: int, servers: Servers, sides: Sides) -> None:
        super().__init__(Backlog(asleep + pending), servers, sides)
        self.figures.name = f"{asleep:,} asleep, {pending:,} pending" if asleep or pending else "empty"
        self._asleep = asleep
        self._rss_kib = 0.0

    async def warm_up(self, concurrency: int) -> None:
        """As ever, then those that sleep, which are pending, too, and the others."""
        await ServiceArm.warm_up(self, concurrency)
        await self._replicas[0].__aexit__(None, None, None)
        if self._asleep:
            connection = await asyncpg.connect(self.dsns[0])
            try:
                await filling.asleep(connection, self._asleep)
            finally:
                await connection.close()
        await self._lay_down()

    async def _read(self) -> dict[str, float]:
        self._rss_kib = await self.rss_kib()
        return await super()._read()

    async def measure(self, concurrency: int, flows: int) -> Figures:
        """Run so many flows; its memory is that at their end."""
        found = await super().measure(concurrency, flows)
        found.measures["rss_mib"] = self._rss_kib / 1024
        return found


class HeldArm:
    """The cost of `tasks` in hand, their waiting callers included: a new replica each round, for memory once had is kept."""

    def __init__(self, tasks: int, servers: Servers, sides: Sides) -> None:
        self.figures = Arm(f"{tasks:,} in flight")
        self._tasks = tasks
        self._servers = servers
        self._sides = Sides(profile=sides.profile)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def warm_up(self, concurrency: int) -> None:
        """Each round does."""

    async def measure(self, concurrency: int, flows: int) -> Figures:  # noqa: ARG002 - a runner's signature
        """Start it, let it hold one task and then all, read its memory at both times."""
        start = time.perf_counter()
        arm = ServiceArm("postgresql", self._servers, self._sides, name="held", shape=Shape("held"))
        async with arm:
            first = await arm.while_held(1, _HOLD_SECONDS)
            then = await arm.while_held(self._tasks, _HOLD_SECONDS)
        found = nothing_run(time.perf_counter() - start)
        found.measures["rss_mib"] = then / 1024
        found.measures["kib_per_task"] = (then - first) / self._tasks
        return found
