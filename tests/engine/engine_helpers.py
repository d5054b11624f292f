"""What the tests of the engine share: lines of nodes, tasks that wait to be told, notices that remember."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from typing import Any

from dwarf_nats.embedding import open_engine
from dwarf_nats.engine import Engine
from dwarf_nats.engine.shard import Shard
from dwarf_nats.ports import StatusChange
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.status import Status

SOON = 20.0
"""Seconds no test should ever need."""


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
        self.enqueued: list[list[tuple[int, int, int]]] = []
        self.ended: list[list[tuple[str, Status]]] = []
        self._heard = asyncio.Event()

    def stopped(self, notify: str, outcome: Outcome) -> None:
        self.announced.append((notify, outcome))
        self._heard.set()

    def changed(self, changes: Sequence[StatusChange]) -> None:
        self.changes += changes
        self.groups.append(list(changes))
        self._heard.set()

    def enqueue(self, shard: int, steps: Sequence[tuple[int, int, int]]) -> None:
        assert shard == 1
        self.enqueued.append(list(steps))
        self._heard.set()

    def notify_status_change(self, flows: Sequence[tuple[str, Status]]) -> None:
        self.ended.append(list(flows))
        self._heard.set()

    def sync_valve(self, task: str, w: float, t: int) -> None: ...

    def trip_breaker(self, task: str) -> None: ...

    def of(self, flow_id: str) -> list[Status]:
        return [change.status for change in self.changes if change.flow_id == flow_id]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON):
            while not condition():
                self._heard.clear()
                await self._heard.wait()


def shard_of(engine: Engine) -> Shard:
    return engine._shards[1]


def flow_id(key: str) -> str:
    """The token-free id of a key."""
    return key.rsplit("-", 1)[0]


async def crash(engine: Engine) -> None:
    """The end of a replica that nobody announced: nothing is written any more, nothing is given back."""
    shard = shard_of(engine)
    await engine._refiller.close()
    jobs = [*shard._jobs, *shard._running.values()]
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await shard.store.close()
    engine._ready = False
    gc.collect()


def replica(dsn: str, proxy: TaskProxy, **settings: Any) -> Engine:
    """Another engine on the same database, with the same graphs and tasks."""
    return open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(**settings))
