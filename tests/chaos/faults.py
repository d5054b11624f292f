"""What goes wrong, at random from a seed: one thing after the other, and several at a time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.dev_servers import PostgresServer
from tests.chaos.moments import Moments
from tests.chaos.plain_services import PlainServices
from tests.chaos.processes import REPLICA_TIMEOUT_MS, Installation, Member

FROZEN_SECONDS = (REPLICA_TIMEOUT_MS / 1000 * 1.1, REPLICA_TIMEOUT_MS / 1000 * 2.4)
GAP_SECONDS = 1.3
"""Between the beginnings of two faults, on average."""
MOMENT_SECONDS = 4.0
"""The longest to wait for a moment."""
TRIES = 5
"""How often to look for something that is not broken already."""


@dataclass
class Timeline:
    """What was done when, in seconds since the beginning."""

    began: float = field(default_factory=time.time)
    lines: list[tuple[float, str, str]] = field(default_factory=list)

    def add(self, who: str, what: str) -> None:
        self.lines.append((time.time(), who, what))

    def shown(self) -> list[str]:
        return [f"{at - self.began:8.3f}  {who}: {what}" for at, who, what in self.lines]

    def replicas_killed(self, since: float, until: float) -> bool:
        """Whether a replica was killed in this time."""
        return any(
            who.startswith("replica") and what == "kill -9" and since <= at <= until for at, who, what in self.lines
        )

    def workers_hurt(self, since: float, until: float) -> bool:
        """Whether a worker was killed or stood still in this time, so that answers may be missing."""
        frozen: dict[str, float] = {}
        for at, who, what in self.lines:
            if not who.startswith("worker"):
                continue
            if what == "kill -9" and since <= at <= until:
                return True
            if what.startswith("SIGSTOP"):
                frozen[who] = at
            elif what == "SIGCONT" and frozen.pop(who) <= until and at >= since:
                return True
        return any(at <= until for at in frozen.values())


class Faults:
    """Break an installation for a while, and leave it whole."""

    def __init__(
        self,
        installation: Installation,
        rng: random.Random,
        timeline: Timeline,
        moments: Moments,
        services: PlainServices,
    ) -> None:
        self._house = installation
        self._moments = moments
        self._services = services
        self._rng = rng
        self._timeline = timeline
        self._busy: set[object] = set()
        """What is being broken: no two faults for one thing at a time."""
        self.counts: dict[str, int] = {}

    async def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(left, self._rng.expovariate(1 / GAP_SECONDS)))
                fault = next((one for one in (self._pick() for _ in range(TRIES)) if one is not None), None)
                if fault is not None:
                    group.create_task(fault)
                    await asyncio.sleep(0)  # so that what it breaks is known to be busy
        await self._house.until_whole()
        self._timeline.add("installation", "no more faults; everything is up")

    def _pick(self) -> Coroutine[Any, Any, None] | None:
        kinds: list[tuple[int, Callable[[], Coroutine[Any, Any, None] | None]]] = [
            (6, lambda: self._member(self._house.replicas, "kill -9", self._killed)),
            (5, lambda: self._member(self._house.replicas, "SIGSTOP", self._frozen)),
            (4, lambda: self._member(self._house.replicas, "SIGTERM", self._drained)),
            (3, lambda: self._member(self._house.workers, "kill -9", self._killed)),
            (2, lambda: self._member(self._house.workers, "SIGTERM", self._drained)),
            (1, lambda: self._member(self._house.workers, "SIGSTOP", self._frozen)),
            (2, self._no_workers),
            (3, self._bus),
            (2, self._no_services),
            (2, lambda: self._at("signal")),
            (2, lambda: self._at("compensation")),
            (4, self._database),
        ]
        [(_, kind)] = self._rng.choices(kinds, [weight for weight, _ in kinds])
        return kind()

    # -- replicas and workers

    def _member(
        self, members: list[Member], how: str, break_: Callable[[Member, float], Awaitable[None]]
    ) -> Coroutine[Any, Any, None] | None:
        one = self._rng.choice(members)
        pause = self._rng.choice([0.0, 0.0, self._rng.uniform(0, 2)])
        if how == "SIGSTOP":
            pause = self._rng.uniform(*FROZEN_SECONDS)
        if one in self._busy:
            return None
        return self._during(one, f"{one.name.split('-')[0]} {how}", break_(one, pause))

    async def _killed(self, one: Member, pause: float) -> None:
        self._timeline.add(one.name, "kill -9")
        await one.kill()
        await asyncio.sleep(pause)
        await self._started(one)

    def _no_workers(self) -> Coroutine[Any, Any, None] | None:
        """Nobody serves for a while: breakers trip (V4)."""
        workers = self._house.workers
        if self._busy & set(workers):
            return None
        pause = self._rng.uniform(0, 3)

        async def none() -> None:
            self._busy.update(workers)
            try:
                await asyncio.gather(*(self._killed(one, pause) for one in workers))
            finally:
                self._busy.difference_update(workers)

        return self._during(none, "all workers kill -9", none())

    def _at(self, moment: str) -> Coroutine[Any, Any, None] | None:
        """A replica is killed just when an event is signalled, or in the midst of a compensation."""
        one = self._rng.choice(self._house.replicas)
        delay, pause = self._rng.uniform(0, 0.04), self._rng.choice([0.0, self._rng.uniform(0, 2)])
        if one in self._busy:
            return None

        async def kill() -> None:
            if await self._moments.next(moment, MOMENT_SECONDS):
                await asyncio.sleep(delay)
                await self._killed(one, pause)

        return self._during(one, f"replica kill -9 at a {moment}", kill())

    async def _frozen(self, one: Member, pause: float) -> None:
        self._timeline.add(one.name, f"SIGSTOP for {pause:.1f} s")
        one.freeze()
        await asyncio.sleep(pause)
        one.thaw()
        self._timeline.add(one.name, "SIGCONT")

    async def _drained(self, one: Member, pause: float) -> None:
        self._timeline.add(one.name, "SIGTERM")
        await one.drain()
        self._timeline.add(one.name, "has ended")
        await asyncio.sleep(pause)
        await self._started(one)

    async def _started(self, one: Member) -> None:
        one.start()
        self._timeline.add(one.name, "started again")

    # -- servers

    def _no_services(self) -> Coroutine[Any, Any, None] | None:
        """Nobody answers the requests of graphs for a while."""
        services, pause = self._services, self._rng.uniform(0, 2)
        if services in self._busy or self._house.nats in self._busy:
            return None

        async def away() -> None:
            self._timeline.add("plain services", f"away for {pause:.1f} s")
            async with services.away():
                await asyncio.sleep(pause)
            self._timeline.add("plain services", "are back")

        return self._during(services, "plain services away", away())

    def _bus(self) -> Coroutine[Any, Any, None] | None:
        nats = self._house.nats
        if nats in self._busy:
            return None
        pause = self._rng.choice([0.0, 0.0, self._rng.uniform(0, 1.5)])

        async def restart() -> None:
            self._timeline.add("nats-server", "kill")
            await nats.kill()
            await asyncio.sleep(pause)
            await nats.start()
            self._timeline.add("nats-server", "is back")

        return self._during(nats, "nats-server restart", restart())

    def _database(self) -> Coroutine[Any, Any, None] | None:
        if not self._house.databases:
            return None
        server = self._rng.choice(self._house.databases)
        crash = self._rng.random() < 0.75
        pause = self._rng.choice([0.0, 0.0, self._rng.uniform(0, 3)])
        if server in self._busy:
            return None
        return self._during(
            server, "database crash" if crash else "database restart", self._restarted(server, crash, pause)
        )

    async def _restarted(self, server: PostgresServer, crash: bool, pause: float) -> None:
        name = f"database {self._house.databases.index(server) + 1}"
        self._timeline.add(name, "crash" if crash else "restart")
        if crash:
            await server.kill()
            await asyncio.sleep(pause)
            await server.start()
        else:
            await server.restart()
        self._timeline.add(name, "is back")

    async def _during(self, what: object, kind: str, fault: Awaitable[None]) -> None:
        self._busy.add(what)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        try:
            await fault
        finally:
            self._busy.discard(what)
