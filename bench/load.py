"""The client: asks for flows and waits for them, in a process of its own, at a given number at once.

    {"flows": 1500, "concurrency": 64} -> {"seconds": …, "p50_ms": …, "p99_ms": …, "cpu": …}
    {"flows": 1500, "rate": 250} -> the same; so many flows a second are started, however many are under way

Every flow must complete with the state its steps make, or the answer is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import nats
import orjson
import uvloop
from nats.aio.client import Client

from .children import converse, own_cpu
from .shapes import KINDS, WORKFLOW, Shape

_WAIT_SECONDS = 150


class Load:
    """Flows of one shape, asked for at `prefix`; with a `weight`, in a fairness key of their own."""

    def __init__(self, nc: Client, prefix: str, shape: Shape, weight: float, *, leaving: bool) -> None:
        self._nc = nc
        self._prefix = prefix
        self._shape = shape
        first = shape.first_state()
        self._last = shape.last_state(first)
        request: dict[str, Any] = {"workflow": WORKFLOW, "state": first, "timeoutMs": _WAIT_SECONDS * 1000}
        if weight:
            request["options"] = {"fairnessKey": "load", "fairnessWeight": weight}
        if leaving:
            request["options"] = {"deleteOnCompletion": True}
        self._request = orjson.dumps(request)

    async def prepare(self) -> None:
        """Register the graph."""
        reply = await self._nc.request(f"{self._prefix}.graph.put", self._shape.graph().to_json(), timeout=30)
        if b"digest" not in reply.data:
            raise RuntimeError(f"the graph was refused: {reply.headers} {reply.data.decode()}")

    async def run(self, question: dict[str, Any]) -> dict[str, float]:
        """Run a number of flows and time each."""
        cpu, start = own_cpu(), time.perf_counter()
        if question.get("rate"):
            latencies = await self._paced(int(question["flows"]), question["rate"])
        else:
            latencies = await self._in_lanes(int(question["flows"]), question["concurrency"])
        seconds = time.perf_counter() - start
        latencies.sort()
        return {
            "flows": len(latencies),
            "seconds": seconds,
            "p50_ms": latencies[len(latencies) // 2] * 1e3,
            "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
            "cpu": own_cpu() - cpu,
        }

    async def _in_lanes(self, left: int, lanes: int) -> list[float]:
        """Each lane starts its next flow when the one before has ended."""
        latencies: list[float] = []

        async def lane() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                latencies.append(await self._timed(time.perf_counter()))

        await asyncio.gather(*(lane() for _ in range(lanes)))
        return latencies

    async def _paced(self, flows: int, rate: float) -> list[float]:
        """Flows start by the clock. Their times count from when they were due, so a late start is part of them."""
        start = time.perf_counter()
        running = []
        for number in range(flows):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            running.append(asyncio.create_task(self._timed(due)))
        return await asyncio.gather(*running)

    async def _timed(self, began: float) -> float:
        await self._flow()
        return time.perf_counter() - began

    async def _flow(self) -> None:
        reply = await self._nc.request(f"{self._prefix}.flow.run", self._request, timeout=_WAIT_SECONDS)
        outcome = orjson.loads(reply.data or b"{}")
        if outcome.get("status") != "completed" or outcome.get("state") != self._last:
            raise RuntimeError(f"a flow went wrong: {reply.headers} {reply.data.decode()[:500]}")


async def main() -> None:
    """Serve the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nats", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--kind", choices=KINDS, default="linear")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--weight", type=float, default=0, help="of a fairness key of the load's own")
    parser.add_argument("--leaving", action="store_true", help="flows are deleted once they have completed")
    args = parser.parse_args()
    nc = await nats.connect(args.nats)
    load = Load(nc, args.prefix, Shape(args.kind, args.steps, args.size), args.weight, leaving=args.leaving)
    await load.prepare()
    await converse(load.run)
    await nc.close()


if __name__ == "__main__":
    uvloop.run(main())
