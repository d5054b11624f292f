"""Writers that settle groups as replicas do, without a replica: what PostgreSQL carries when nothing else is the bound.

    {"seconds": 2, "group": 64} -> {"steps": …, "commits": …, "seconds": …, "cpu": …}

Each writer has the connection that a replica has for settling. It creates a group of flows with their first step running,
settles the group step by step, and ends the flows with the last: the statements of a replica whose groups are all of that size.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from typing import Any

import uvloop

from dwarf_nats.clock import SystemClock
from dwarf_nats.rules.settlement import FlowEnd, Settlement
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, NewFlow, NewStep, eager_step, first_step
from dwarf_nats.store.store import SqlStore
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.keys import Tokens
from dwarf_nats.workflow.state import Raw, encode_state, merge, state_from
from dwarf_nats.workflow.status import Status

from .children import converse, own_cpu
from .shapes import ADD, Shape, add

BUDGET_MS = 120_000
APART = 10**9
"""The first id of each writer is so far from that of the one before."""


class Writer:
    """One connection, and flows of one shape on it. `commits`, `steps`: what it has written so far."""

    def __init__(self, store: SqlStore, number: int, shape: Shape, graph: Graph) -> None:
        self.steps = 0
        self.commits = 0
        self._store = store
        self._shape = shape
        self._graph = graph
        self._digest = graph.digest()
        self._tokens = Tokens()
        self._flow_ids = itertools.count(number * APART + 1)
        self._step_ids = itertools.count(number * APART + 1)

    async def write(self, group: int, until: float) -> None:
        """Run groups of flows until then, on the clock of `perf_counter`."""
        while time.perf_counter() < until:
            new = [self._flow() for _ in range(group)]
            await self._store.steps.create(new, BUDGET_MS)
            self.commits += 1
            steps = [first_step(one) for one in new]
            while steps:
                settlements = [self._settlement(step) for step in steps]
                await self._store.steps.settle(settlements, BUDGET_MS)
                self.steps += group
                self.commits += 1
                steps = [eager_step(one.step.flow, one.successor) for one in settlements if one.successor]

    def _flow(self) -> NewFlow:
        flow_id, token = next(self._flow_ids), self._tokens()
        state = state_from(self._shape.first_state())
        flow = FlowContext(
            shard=1, flow_id=flow_id, token=token, workflow=self._graph.name, digest=self._digest, graph=self._graph,
            baggage=Raw(b"{}"), priority=100, fairness_key="", fairness_weight=1.0, time_budget_ms=None, notify="",
            thread_id=flow_id, created_at=0, updated_at=0,
        )  # fmt: skip
        return NewFlow(
            flow=flow, state=state, state_json=encode_state(state), step_id=next(self._step_ids),
            step_token=self._tokens(), node="t1", url=ADD, thread_token=token, start=True, eager=True,
        )  # fmt: skip

    def _settlement(self, step: ClaimedStep) -> Settlement:
        """The step is completed; the next follows, running, or the flow ends."""
        changes = state_from(add({"n": step.depth - 1}))
        state = merge(step.state, changes)
        done = Settlement(step, Status.COMPLETED, changes, attempt=step.attempt)
        if step.depth == self._shape.steps:
            done.end = FlowEnd(Status.COMPLETED, encode_state(state))
        else:
            done.successor = NewStep(
                step_id=next(self._step_ids), token=self._tokens(), node=f"t{step.depth + 1}", url=ADD,
                depth=step.depth + 1, state=state, state_json=encode_state(state), eager=True,
            )  # fmt: skip
        return done


async def main() -> None:
    """Serve the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--writers", type=int, required=True)
    parser.add_argument("--first", type=int, default=1, help="the number of the first writer")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    shape = Shape(length=args.steps)
    graph = shape.graph()
    stores = [SqlStore(1, args.dsn, pool=1, clock=SystemClock()) for _ in range(args.writers)]
    writers = [Writer(store, args.first + number, shape, graph) for number, store in enumerate(stores)]

    async def run(question: dict[str, Any]) -> dict[str, float]:
        before = sum(one.steps for one in writers), sum(one.commits for one in writers)
        cpu, start = own_cpu(), time.perf_counter()
        until = start + question["seconds"]
        await asyncio.gather(*(one.write(question["group"], until) for one in writers))
        return {
            "steps": sum(one.steps for one in writers) - before[0],
            "commits": sum(one.commits for one in writers) - before[1],
            "seconds": time.perf_counter() - start,
            "cpu": own_cpu() - cpu,
        }

    for number, store in enumerate(stores):
        await store.open(f"writer-{args.first + number}", migrated=True)
    try:
        await converse(run)
    finally:
        for store in stores:
            await store.close()


if __name__ == "__main__":
    uvloop.run(main())
