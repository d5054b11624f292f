"""Asks the task of a step, within the step's time budget; whatever the task raises is an answer (X3, X4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from dwarf_nats.engine.execution.observer import CallObserver
from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import BusAway, WorkerLost
from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
from dwarf_nats.workflow.task_error import error_info
from dwarf_nats.workflow.task_exceptions import closes_coroutine, ends_process, error_text, was_cancelled

if TYPE_CHECKING:
    from dwarf_nats.engine.shared import Shared
    from dwarf_nats.rules.steps import ClaimedStep
    from dwarf_nats.workflow.progress import Progress


class TaskInvoker:
    """Sends a claimed step to its task. `report` hears of the progress of steps, by their keys (B7)."""

    def __init__(self, shared: Shared, report: Callable[[str, Progress], None]) -> None:
        self._report = report
        self._clock = shared.clock
        self._tasks = shared.tasks
        self._keeps_budget = shared.capabilities.keeps_budget  # then a second timer per step is spared
        self.observer = CallObserver(shared)

    def ask(self, step: ClaimedStep, budget_ms: int) -> Awaitable[Answer]:
        """Ask the task of a step; the answer, which is an error if the task raised or did not answer within `budget_ms`.

        Raises `BusAway`, `WorkerLost` and `Unavailable` if it is unknown whether the task ran, or it could not.
        """
        if self.observer.listening or step.flow.trace:
            return self.observer.observe(step, partial(self._ask_within, step, budget_ms))
        return self._ask(self.call(step, budget_ms))

    def call(self, step: ClaimedStep, budget_ms: int) -> TaskCall:
        """The call of a step's task, outside of a trace."""
        flow = step.flow
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
            compensating=step.compensating,
            checkpoint=step.checkpoint,
            report=self._report,
            root_id=flow.root_id,
        )

    async def _ask_within(self, step: ClaimedStep, budget_ms: int, traceparent: str, tracestate: str) -> Answer:
        """As `_ask`, within a trace."""
        call = self.call(step, budget_ms)
        call.traceparent, call.tracestate = traceparent, tracestate
        return await self._ask(call)

    async def _ask(self, call: TaskCall) -> Answer:
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
            budget_ms = round(call.budget * 1000)
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
            return raised(error)


def raised(error: BaseException) -> Answer:
    """The answer of a task that raised an error."""
    info = error_info(error)
    return Answer(error=ErrorInfo(error_text(error) or info.message, info.code))
