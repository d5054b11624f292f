"""The reading of one flow for its page, all at once."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dwarf_nats.console.source import Source
from dwarf_nats.console.views import wire
from dwarf_nats.console.views.graph import DrawnGraph, read_graph
from dwarf_nats.errors import Forbidden, NotFound

MAX_STEPS = 20_000
"""Most steps of one flow that the page reads; of a longer history, the beginning."""


@dataclass(slots=True)
class FlowReading:
    """One flow as it stands, and its history."""

    flow: str
    outcome: wire.Outcome
    steps: list[wire.Step]
    graph: DrawnGraph
    explanation: wire.Explanation = field(default_factory=wire.Explanation)
    summary: wire.Summary | None = None
    complete: bool = True
    caller: str = ""
    """The flow that called it, if the console has read that one's history."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def status(self) -> str:
        return self.outcome.status

    @property
    def over(self) -> bool:
        return self.status in wire.OVER

    @property
    def started(self) -> datetime | None:
        """When it was started; of a flow that is in no list, when its first step was made."""
        if self.summary is not None and self.summary.started_at is not None:
            return self.summary.started_at
        return min((one.created_at for one in self.steps), default=None)

    @property
    def ended(self) -> datetime | None:
        if not self.over:
            return None
        last = max((one.updated_at for one in self.steps), default=None)
        return self.summary.updated_at if self.summary is not None else last

    def step(self, step_id: str) -> wire.Step:
        """A step of the flow. Raises `NotFound`."""
        found = next((one for one in self.steps if one.step == step_id), None)
        if found is None:
            raise NotFound(f"there is no step {step_id} in flow {self.flow}: it may have been removed by a restart")
        return found


async def read_flow(source: Source, flow: str) -> FlowReading:
    """Read a flow. Raises `NotFound`, and what the service refuses."""
    found, history, graph = await asyncio.gather(
        source.snapshot(flow), _history(source, flow), source.read("flow.graph", {"flowKey": flow}, seconds=60.0)
    )
    outcome = wire.read(wire.Outcome, found)
    if outcome.status in wire.OVER:
        source.kept.put(flow, history.fingerprint, history, weight=len(history.steps))
    reading = FlowReading(
        flow=flow,
        outcome=outcome,
        steps=history.steps,
        graph=read_graph(graph.get("graph") or {}, graph.get("digest", "")),
        complete=history.complete,
        caller=source.identities.caller_of(flow),
    )
    with contextlib.suppress(Forbidden, NotFound):
        reading.summary = wire.read(wire.Summary, await source.summary(flow))
    if not reading.over:
        with contextlib.suppress(Forbidden):
            reading.explanation = wire.read(wire.Explanation, await source.explain(flow))
    return reading


@dataclass(slots=True)
class _History:
    fingerprint: str
    steps: list[wire.Step]
    complete: bool


async def _history(source: Source, flow: str) -> _History:
    """The history of a flow, from memory if the flow had ended and has not changed since (its fingerprint was read before)."""
    fingerprint = str((await source.fingerprint(flow))["fingerprint"])
    kept: _History | None = source.kept.get(flow, fingerprint)
    if kept is not None:
        return kept
    steps, complete = await source.whole_history(flow, MAX_STEPS)
    return _History(fingerprint, wire.read_steps(steps), complete)
