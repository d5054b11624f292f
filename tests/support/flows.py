"""What the tests of whole flows share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from dwarf_nats.engine import Engine
from dwarf_nats.ports import Clock
from dwarf_nats.testing import TaskProxy, workflow_engine
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.records import Outcome, Step
from dwarf_nats.workflow.status import Status
from tests.support.engines import Remembered, rows

SOON = 30.0


def line(name: str, *nodes: str) -> Graph:
    """A straight line of nodes."""
    graph = Graph(name)
    graph.add_chain(*nodes, END)
    return graph


def each(name: str = "each", field: str = "items") -> Graph:
    """split → work per element → join → END; `done` is appended, `total` added."""
    graph = Graph(name)
    graph.add_for_each("split", "work", field)
    graph.add_transition("work", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    graph.set_reducer("done", "append")
    graph.set_reducer("total", "add")
    return graph


class Bench:
    """An engine, the tasks and graphs it runs, and what it told."""

    def __init__(self, engine: Engine, proxy: TaskProxy, heard: Remembered) -> None:
        self.engine = engine
        self.proxy = proxy
        self.heard = heard

    def tasks(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            self.proxy.handle_task(name, function)

    def idle(self, *names: str) -> None:
        for name in names:
            self.proxy.handle_task(name, lambda: None)

    async def run(self, graph: Graph | str, state: dict[str, Any] | None = None, **more: Any) -> Outcome:
        return await self.engine.run(graph, state, timeout=SOON, **more)

    async def stopped(self, key: str) -> Outcome:
        """The outcome once the flow has stopped."""
        return await self.engine.await_(key, SOON)

    async def ended(self, key: str) -> Outcome:
        """The outcome once the flow has ended, whatever pauses it on the way."""
        try:
            async with asyncio.timeout(SOON):
                while not (outcome := await self.engine.snapshot(key)).status.terminal:
                    await asyncio.sleep(0)
        except TimeoutError:
            steps = await rows(
                self.engine, "select node, status, attempt, parked, lease_seq, breakpoint_hit from dwarf_steps"
            )
            raise AssertionError(
                f"it does not end: {await self.engine.explain(key)}, {steps}, {self.proxy.calls}"
            ) from None
        return outcome

    async def until(self, key: str, *statuses: Status) -> Outcome:
        """The outcome once the flow is in one of these."""
        async with asyncio.timeout(SOON):
            while (outcome := await self.engine.snapshot(key)).status not in statuses:
                await asyncio.sleep(0)
        return outcome

    async def steps(self, key: str) -> dict[str, Step]:
        """The steps by task; of several the last."""
        return {step.task: step for step in await self.engine.history(key)}

    async def until_steps(self, key: str, condition: Callable[[list[Step]], bool]) -> list[Step]:
        async with asyncio.timeout(SOON):
            while not condition(steps := await self.engine.history(key)):
                await asyncio.sleep(0)
        return steps


@asynccontextmanager
async def bench(dsn: str, *graphs: Graph, clock: Clock | None = None) -> AsyncIterator[Bench]:
    proxy, heard = TaskProxy(), Remembered()
    for graph in graphs:
        proxy.handle_graph(graph)
    async with workflow_engine(dsn, proxy=proxy, notices=heard, clock=clock) as (engine, _):
        yield Bench(engine, proxy, heard)


def ask(payload: Any = "?", field: str = "answer") -> Callable[[Flow], None]:
    """A task that interrupts and keeps what it was resumed with."""

    def task(flow: Flow) -> None:
        flow.set(field, flow.interrupt(payload))

    return task


def call(workflow: str, **given: Any) -> Callable[[Flow], None]:
    """A task that runs a sub-workflow and keeps its final state."""

    def task(flow: Flow) -> None:
        flow.set("child", flow.subgraph(workflow, given))

    return task


def count_rows(engine: Engine) -> Any:
    return engine.shards[1].store.flows.size()
