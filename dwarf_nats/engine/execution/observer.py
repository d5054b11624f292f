"""Times and traces the calls that steps make (T1, T2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dwarf_nats.telemetry.traces import split_trace_context

if TYPE_CHECKING:
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.answer import Answer


class CallObserver:
    """Has each call within a span of its own, which the call carries on, and times it."""

    def __init__(self, shared: Shared) -> None:
        self._clock = shared.clock
        self._traces = shared.traces
        self._instruments = shared.instruments
        self.listening = shared.instruments.listening or shared.traces.listening
        """Every call is timed and traced; if this is false, only those of flows that carry a trace are."""

    async def observe(self, step: ClaimedStep, ask: Callable[[str, str], Awaitable[Answer]]) -> Answer:
        """Make the call of a step: `ask` is given its `traceparent` and `tracestate`."""
        flow = step.flow
        span = step.span = self._traces.dispatch(
            flow.trace,
            flow_id=flow.public_id,
            step_id=step.public_id,
            workflow=flow.workflow,
            task=step.node,
            url=step.url,
            attempt=step.attempt,
        )
        if span is not None:
            span.enter()
        traceparent, tracestate = split_trace_context(flow.trace if span is None else span.trace_context)
        began = self._clock.now()
        answer = await ask(traceparent, tracestate)
        now = self._clock.now()
        self._instruments.task_time(step.url, max(0, now - began), now)
        if span is not None and answer.error is not None:
            span.failed(answer.error.message)
        return answer
