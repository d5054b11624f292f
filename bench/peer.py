"""Another engine in a process of its own, client and all, in the virtual environment of the peers (`peers.py`).

    {"flows": 100, "concurrency": 16, "seconds": 5} -> {"flows": …, "seconds": …, "p50_ms": …, "p99_ms": …, "cpu": …}

The same flow as ours: steps in a straight line, each adds one to `n` in the same state. What is called here is what the
documentation of each says is its fast way (docs/benchmarks.md). Imports nothing of dwarf_nats.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any, TypedDict

from .children import converse, own_cpu

STATE: dict[str, Any] = {"name": "ada", "n": 0, "pad": "x" * 100}
_THREADS = 64
Lane = Callable[[], Awaitable[int]]
"""Runs one flow and returns its `n`."""


class Lanes:
    """As many as were ever needed at once, each made when it first is."""

    def __init__(self, make: Callable[[], Awaitable[Lane]], steps: int) -> None:
        self._make = make
        self._steps = steps
        self._lanes: list[Lane] = []

    async def run(self, question: dict[str, Any]) -> dict[str, float]:
        """Run a number of flows and time each. After `seconds` no further one starts, but each lane has run one."""
        while len(self._lanes) < question["concurrency"]:
            self._lanes.append(await self._make())
        left = int(question["flows"])
        latencies: list[float] = []
        most = float(question.get("seconds", math.inf))

        async def serve(lane: Lane) -> None:
            nonlocal left
            began = start
            while left > 0 and (began == start or began - start < most):
                left -= 1
                began = time.perf_counter()
                n = await lane()
                if n != self._steps:
                    raise RuntimeError(f"a flow went wrong: {n} instead of {self._steps}")
                ended = time.perf_counter()
                latencies.append(ended - began)
                began = ended

        cpu, start = own_cpu(), time.perf_counter()
        await asyncio.gather(*(serve(lane) for lane in self._lanes[: question["concurrency"]]))
        seconds = time.perf_counter() - start
        latencies.sort()
        return {
            "flows": len(latencies),
            "seconds": seconds,
            "p50_ms": latencies[len(latencies) // 2] * 1e3,
            "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
            "cpu": own_cpu() - cpu,
        }


@asynccontextmanager
async def dbos(dsn: str, steps: int) -> AsyncIterator[Callable[[], Awaitable[Lane]]]:
    """DBOS: asynchronous workflow and steps, awaited directly."""
    from dbos import DBOS

    DBOS(config={"name": "bench", "system_database_url": dsn, "run_admin_server": False, "log_level": "ERROR"})

    @DBOS.step()
    async def count(state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state["n"] + 1}

    @DBOS.workflow()
    async def line(state: dict[str, Any]) -> dict[str, Any]:
        for _ in range(steps):
            state = {**state, **await count(state)}
        return state

    async def lane() -> int:
        return int((await line(STATE))["n"])

    async def make() -> Lane:
        return lane

    DBOS.launch()
    try:
        yield make
    finally:
        DBOS.destroy()


@asynccontextmanager
async def dbos_sync(dsn: str, steps: int) -> AsyncIterator[Callable[[], Awaitable[Lane]]]:
    """DBOS: plain functions, each lane in a thread."""
    from dbos import DBOS

    DBOS(config={"name": "bench", "system_database_url": dsn, "run_admin_server": False, "log_level": "ERROR"})

    @DBOS.step()
    def count(state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state["n"] + 1}

    @DBOS.workflow()
    def line(state: dict[str, Any]) -> dict[str, Any]:
        for _ in range(steps):
            state = {**state, **count(state)}
        return state

    DBOS.launch()
    with ThreadPoolExecutor(_THREADS) as threads:

        async def lane() -> int:
            return int((await asyncio.get_running_loop().run_in_executor(threads, line, STATE))["n"])

        async def make() -> Lane:
            return lane

        try:
            yield make
        finally:
            DBOS.destroy()


class State(TypedDict):
    """The state that the graphs of LangGraph carry."""

    name: str
    n: int
    pad: str


def _chain(steps: int, count: Any) -> Any:
    """A graph of LangGraph in a straight line."""
    from langgraph.graph import END, START, StateGraph

    builder = StateGraph(State)
    names = [f"t{number}" for number in range(1, steps + 1)]
    for name in names:
        builder.add_node(name, count)
    for source, target in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(source, target)
    return builder


def _thread() -> dict[str, Any]:
    return {"configurable": {"thread_id": str(uuid.uuid4())}}


@asynccontextmanager
async def langgraph(dsn: str, steps: int) -> AsyncIterator[Callable[[], Awaitable[Lane]]]:
    """LangGraph: a compiled graph, and a saver with a connection of its own, for each lane."""
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async def count(state: State) -> dict[str, int]:
        return {"n": state["n"] + 1}

    builder = _chain(steps, count)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(dsn))
        await first.setup()

        async def make() -> Lane:
            saver = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(dsn, pipeline=True))
            graph = builder.compile(checkpointer=saver)

            async def lane() -> int:
                return int((await graph.ainvoke(STATE, _thread(), durability="async"))["n"])

            return lane

        yield make


@asynccontextmanager
async def langgraph_sync(dsn: str, steps: int) -> AsyncIterator[Callable[[], Awaitable[Lane]]]:
    """LangGraph: plain functions, each lane in a thread, with a graph and a saver of its own."""
    from langgraph.checkpoint.postgres import PostgresSaver

    def count(state: State) -> dict[str, int]:
        return {"n": state["n"] + 1}

    builder = _chain(steps, count)
    with ThreadPoolExecutor(_THREADS) as threads, ExitStack() as stack:
        stack.enter_context(PostgresSaver.from_conn_string(dsn)).setup()

        async def make() -> Lane:
            saver = stack.enter_context(PostgresSaver.from_conn_string(dsn, pipeline=True))
            graph = builder.compile(checkpointer=saver)

            def run() -> int:
                return int(graph.invoke(STATE, _thread(), durability="async")["n"])

            async def lane() -> int:
                return await asyncio.get_running_loop().run_in_executor(threads, run)

            return lane

        yield make


WAYS = {"dbos": dbos, "dbos-sync": dbos_sync, "langgraph": langgraph, "langgraph-sync": langgraph_sync}


async def main() -> None:
    """Serve the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=WAYS)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    async with WAYS[args.which](args.dsn, args.steps) as make:
        await converse(Lanes(make, args.steps).run)


if __name__ == "__main__":
    asyncio.run(main())
