"""What the tests of the engine share: lines of nodes, tasks that wait to be told, notices that remember."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

from dwarf_nats.engine import Engine
from dwarf_nats.engine.maintenance.maintenance import Maintenance
from dwarf_nats.engine.shard import Shard
from dwarf_nats.library import open_engine
from dwarf_nats.ports import Clock, StatusChange
from dwarf_nats.rules.steps import ReadyStep, StoppedFlow
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError

SOON = 20.0
"""Seconds no test should ever need."""
HELD_SECONDS = 2.0
"""Seconds after which results that are not written count as kept from it by their test."""
Dsns = Callable[[int], list[str]]
"""Makes so many empty databases."""


def line(name: str, *nodes: str) -> Graph:
    """A straight line of nodes."""
    graph = Graph(name)
    graph.add_chain(*nodes, "END")
    return graph


class Gate:
    """A task that says when it began and goes on when told; `entered` counts its executions."""

    def __init__(self, changes: dict[str, Any] | None = None) -> None:
        self.changes = changes if changes is not None else {}
        self.entered = 0
        self.finished = 0
        self.cancelled = 0
        self._began = asyncio.Event()
        self._open = asyncio.Event()

    async def __call__(self) -> dict[str, Any]:
        self.entered += 1
        self._began.set()
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1
        return self.changes

    async def began(self) -> None:
        async with asyncio.timeout(SOON):
            await self._began.wait()

    def open(self) -> None:
        self._open.set()

    def again(self) -> None:
        """Wait for the next execution."""
        self._began.clear()


class Remembered:
    """Notices and signals that keep what they heard; `until` waits for it."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, Outcome]] = []
        self.changes: list[StatusChange] = []
        self.groups: list[list[StatusChange]] = []
        self.enqueued: list[list[ReadyStep]] = []
        self.ended: list[list[StoppedFlow]] = []
        self.points: list[tuple[str, float, int]] = []
        self.trips: list[str] = []
        self._heard = asyncio.Event()

    def stopped(self, notify: str, outcome: Outcome) -> None:
        self.announced.append((notify, outcome))
        self._heard.set()

    def changed(self, changes: Sequence[StatusChange]) -> None:
        self.changes += changes
        self.groups.append(list(changes))
        self._heard.set()

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        assert shard == 1
        self.enqueued.append(list(steps))
        self._heard.set()

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        self.ended.append(list(flows))
        self._heard.set()

    def sync_valve(self, task: str, w: float, t: int) -> None:
        self.points.append((task, w, t))

    def trip_breaker(self, task: str) -> None:
        self.trips.append(task)

    def change_definitions(self) -> None:
        self._heard.set()

    def of(self, flow_id: str) -> list[Status]:
        return [change.status for change in self.changes if change.flow_id == flow_id]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON):
            while not condition():
                self._heard.clear()
                await self._heard.wait()


class Wire(Remembered):
    """Signals that the peers hear, once there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: list[Engine] = []

    def enqueue(self, shard: int, steps: Sequence[ReadyStep]) -> None:
        super().enqueue(shard, steps)
        for peer in self.peers:
            peer.peers.enqueue(shard, steps)

    def notify_status_change(self, flows: Sequence[StoppedFlow]) -> None:
        super().notify_status_change(flows)
        for peer in self.peers:
            peer.peers.notify_status_change(flows)

    def sync_valve(self, task: str, w: float, t: int) -> None:
        super().sync_valve(task, w, t)
        for peer in self.peers:
            peer.peers.sync_valve(task, w, t)

    def trip_breaker(self, task: str) -> None:
        super().trip_breaker(task)
        for peer in self.peers:
            peer.peers.trip_breaker(task)

    def change_definitions(self) -> None:
        super().change_definitions()
        for peer in self.peers:
            peer.peers.change_definitions()


def wired(dsn: str, proxy: TaskProxy) -> tuple[tuple[Engine, Wire], tuple[Engine, Wire]]:
    """Two replicas that hear each other, each with what it said."""
    wires = Wire(), Wire()
    settings = EngineSettings(drain_ms=0)
    one, two = (open_engine(dsn, tasks=proxy, graphs=proxy, signals=wire, settings=settings) for wire in wires)
    wires[0].peers.append(two)
    wires[1].peers.append(one)
    return (one, wires[0]), (two, wires[1])


class Service:
    """A task that serves (`code` 0) or refuses with a code. `asked`: when, on `clock`, in milliseconds since it was made.

    With `holds` set it does not answer before `let_go`.
    """

    def __init__(self, clock: Clock, code: int = 0) -> None:
        self.code = code
        self.asked: list[int] = []
        self.steps: list[str] = []
        self.cancelled = 0
        self.holds = False
        self._clock = clock
        self._since = clock.now()
        self._answers: list[asyncio.Future[int]] = []
        self._called = asyncio.Event()

    async def __call__(self, flow: Flow) -> dict[str, Any]:
        self.asked.append((self._clock.now() - self._since) // 1000)
        self.steps.append(flow.step_key)
        code = self.code
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answers.append(future)
        self._called.set()
        if self.holds:
            try:
                code = await future
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if code:
            raise TaskError(f"refused with {code}", code)
        return {"served": True}

    async def times(self, count: int) -> None:
        """Wait until it was asked so often in all."""
        async with asyncio.timeout(SOON):
            while len(self.asked) < count:
                self._called.clear()
                await self._called.wait()

    def let_go(self, number: int, code: int = 0) -> None:
        """Answer the call of this number."""
        self._answers[number].set_result(code)


async def rows(engine: Engine, sql: str, *args: Any, shard: int = 1) -> list[tuple[Any, ...]]:
    """A direct look into the database."""
    return [tuple(row) for row in await engine.shards[shard].store.database.fetch(sql, *args)]


async def until_rows(engine: Engine, wanted: Any, sql: str, *args: Any, shard: int = 1) -> None:
    """Wait until a query says what is wanted."""
    async with asyncio.timeout(SOON):
        while (found := await rows(engine, sql, *args, shard=shard)) != wanted:
            await asyncio.sleep(0)
            assert found is not None


async def quiet(engine: Engine) -> None:
    """Let everything happen that is about to: some turns of the loop, each with a round trip to the database.

    It goes on while results are being written, but not for ever: a test may keep them from that.
    """
    until = time.monotonic() + HELD_SECONDS
    turns = 0
    while turns < 20 or (any(map(_writes, engine.shards.values())) and time.monotonic() < until):
        turns += 1
        for shard in engine.shards.values():
            await shard.store.flows.size()
        await asyncio.sleep(0)


def _writes(shard: Shard) -> bool:
    """Tell whether results are being written, wait for that, or are being followed up."""
    committer = shard.committer
    return bool(committer._ready.is_set() or committer._settlements or committer._apart or committer._followed._groups)


def shard_of(engine: Engine) -> Shard:
    return engine.shards[1]


def maintenance_of(engine: Engine, shard: int = 1) -> Maintenance:
    return engine._lifecycle.maintenance[shard]


def flow_id(key: str) -> str:
    """The token-free id of a key."""
    return key.rsplit("-", 1)[0]


async def crash(engine: Engine) -> None:
    """The end of a replica that nobody announced: nothing is written any more, nothing is given back."""
    shard = shard_of(engine)
    await engine.replica.fetcher.close()
    jobs = [*shard.jobs, *shard.in_flight.executions]
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await shard.store.close()
    engine._lifecycle.ready = False
    gc.collect()


def replica(dsn: str, proxy: TaskProxy, clock: Clock | None = None, **settings: Any) -> Engine:
    """Another engine on the same database, with the same graphs and tasks."""
    return open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(**settings), clock=clock)
