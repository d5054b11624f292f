"""Asks the task of a step, within the step's time budget; whatever the task raises is an answer (X3, X4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.budgets import time_budget_ms
from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import BusAway, WorkerLost
from dwarf_nats.telemetry.traces import split_trace_context
from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
from dwarf_nats.workflow.task_error import error_info
from dwarf_nats.workflow.task_exceptions import closes_coroutine, ends_process, error_text, was_cancelled

if TYPE_CHECKING:
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.rules.steps import ClaimedStep


class TaskInvoker:
    """Sends a claimed step to its task."""

    def __init__(self, shared: Shared) -> None:
        self._settings = shared.settings
        self._clock = shared.clock
        self._tasks = shared.tasks
        self._traces = shared.traces
        self._instruments = shared.instruments
        self._keeps_budget = shared.capabilities.keeps_budget  # then a second timer per step is spared
        self.observed = shared.instruments.listening or shared.traces.listening
        """Every call is timed and traced; if this is false, only those of flows that carry a trace are."""

    def ask(self, step: ClaimedStep) -> Awaitable[Answer]:
        """Ask the task of a step; the answer, which is an error if the task raised or did not answer in time.

        Raises `BusAway`, `WorkerLost` and `Unavailable` if it is unknown whether the task ran, or it could not.
        """
        if self.observed or step.flow.trace:
            return self._ask_observed(step)
        return self._ask(step, self._call(step))

    def _call(self, step: ClaimedStep) -> TaskCall:
        flow = step.flow
        budget_ms = time_budget_ms(step, self._settings)
        return TaskCall(
            flow_key=flow.key,
            step_key=step.key,
            workflow=flow.workflow,
            task=step.node,
            url=step.url,
            attempt=step.attempt,
            state=step.input,
            baggage=flow.baggage,
            flow_created_at=flow.created_at,
            flow_updated_at=flow.updated_at,
            deadline=self._clock.now() + budget_ms * 1000,
            budget=budget_ms / 1000,
            resumed=step.resumed,
            interrupt_timed_out=step.interrupt_timed_out,
            event=step.event,
            subgraph_result=step.subgraph_result,
            subgraph_error=None if step.subgraph_error is None else step.subgraph_error.message,
        )

    async def _ask_observed(self, step: ClaimedStep) -> Answer:
        """As `_ask`, within a span and timed (T1, T2)."""
        flow, call = step.flow, self._call(step)
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
        call.traceparent, call.tracestate = split_trace_context(flow.trace if span is None else span.trace_context)
        began = self._clock.now()
        answer = await self._ask(step, call)
        now = self._clock.now()
        self._instruments.task_time(step.url, max(0, now - began), now)
        if span is not None and answer.error is not None:
            span.failed(answer.error.message)
        return answer

    async def _ask(self, step: ClaimedStep, call: TaskCall) -> Answer:
        deadline: asyncio.Timeout | None = None
        running = asyncio.current_task()
        try:
            if self._keeps_budget:
                return await self._tasks.execute(call)
            async with asyncio.timeout(call.budget) as deadline:
                return await self._tasks.execute(call)
        except TimeoutError as error:
            if deadline is None or not deadline.expired():  # the task's own
                return Answer(error=ErrorInfo(error_text(error) or "TimeoutError", 500))
            budget_ms = time_budget_ms(step, self._settings)
            return Answer(
                error=ErrorInfo(f"task {call.url} did not answer within its time budget of {budget_ms} ms", 408),
                cause="timeout",
            )
        except (BusAway, WorkerLost, Unavailable):
            raise
        except asyncio.CancelledError:
            if was_cancelled(running):
                raise
            return Answer(error=ErrorInfo("the task was cancelled from inside", 500))
        except BaseException as error:
            if ends_process(error) or closes_coroutine(error, running):
                raise
            info = error_info(error)
            return Answer(error=ErrorInfo(error_text(error) or info.message, info.code))
