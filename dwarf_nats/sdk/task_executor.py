"""Runs the task functions of a worker: a bounded number at once, further requests wait their turn."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from dwarf_nats.telemetry.context import continued
from dwarf_nats.workflow.answer import Answer
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.task_exceptions import closes_coroutine, describe_error, ends_process, was_cancelled

from .executions import Execution, current_step
from .task_codec import CANCELLED, backpressure_answer, error_answer

log = logging.getLogger("dwarf_nats.worker")

QUEUED_AFTER_SECONDS = 0.1
"""A request that waits longer than this is announced as *queued*: one that gets its turn sooner needs no message."""
QUEUED_AFTER_SHARE = 0.25
"""The same as a share of the time budget, for tasks that have little."""
FORGOTTEN_AFTER_SECONDS = 15.0
"""A waiting request is dropped if the engine has asked after it, and then not for so long: its replica is gone."""
DEADLINE_GRACE_SECONDS = 1.0
"""Time between the deadline of a step and the end of its execution here: the clocks of worker and database differ a little."""


class TaskExecutor:
    """Runs task functions, at most `limit` at once.

    `answer` sends an answer, `accept` the signal *accepted*, `announce` one that tells whether an execution waits or has begun.
    """

    def __init__(
        self,
        limit: int,
        answer: Callable[[Execution, Answer], Awaitable[None]],
        accept: Callable[[Execution], Awaitable[None]],
        announce: Callable[[Execution], Awaitable[None]],
    ) -> None:
        self._announce = announce
        self._limit = limit
        self._answer = answer
        self._accept = accept
        self._waiting: deque[Execution] = deque()
        self._running: set[Execution] = set()
        self._by_step: dict[str, list[Execution]] = {}
        self._expected: set[str] = set()
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Number of executions that have a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return len(self._waiting)

    @property
    def blocked(self) -> int:
        """Number of running executions in threads, which only end by themselves."""
        return sum(execution.handler.blocking for execution in self._running)

    def submit(self, execution: Execution) -> None:
        """Accept a request: run it now, or when a slot is free."""
        self._idle.clear()
        self._by_step.setdefault(execution.public_id, []).append(execution)
        self._waiting.append(execution)
        self._set_timer(execution)
        self._start_waiting()
        if execution.takes_queued and execution.reply and execution.task is None:
            self._set_queue_timer(execution)

    def unanswered(self, steps: Iterable[str]) -> list[str]:
        """Those of `steps` whose answer is still to be sent. A cancelled execution in a thread has been answered already."""
        return [
            step
            for step in steps
            if step in self._expected or any(execution.is_in_hand for execution in self._by_step.get(step, ()))
        ]

    def queued(self, steps: Iterable[str]) -> list[str] | None:
        """Those of `steps` that wait for a slot, and note that they are asked after; `None` if none of them has waited."""
        now = asyncio.get_running_loop().time()
        found = [one for step in steps for one in self._by_step.get(step, ()) if one.queued]
        for execution in found:
            execution.asked_at = now
        return [one.public_id for one in found if one.task is None] if found else None

    def cancel(self, steps: Iterable[str]) -> None:
        """Cancel the executions of these steps. Cancelling again does not disturb an execution that is cleaning up."""
        for step in steps:
            for execution in [execution for execution in self._by_step.get(step, ()) if not execution.call.cancelled]:
                log.info("step %s: cancelled", step, extra=execution.log_fields)
                self._cancel(execution, error_answer(CANCELLED, "the flow was cancelled while the task ran"))

    async def wait_idle(self) -> None:
        """Wait until no execution is left and every answer is sent."""
        await self._idle.wait()
        while self._side_tasks:
            await asyncio.gather(*self._side_tasks, return_exceptions=True)

    def cancel_all(self) -> None:
        """Cancel all executions; their answers make the engine run the steps elsewhere."""
        for execution in [*self._waiting, *self._running]:
            self._cancel(execution, backpressure_answer("the worker is stopping"))

    # --- inside ---

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._limit:
            execution = self._waiting.popleft()
            if self._is_forgotten(execution):
                self._drop_forgotten(execution)
                continue
            self._running.add(execution)
            execution.task = asyncio.get_running_loop().create_task(self._run(execution))

    async def _run(self, execution: Execution) -> None:
        current_step.set(execution.public_id)
        execution.has_started = True
        try:
            if execution.queued and execution.replacement is None:
                await self._begin_late(execution)
            try:
                answer = await self._execute(execution) if execution.replacement is None else execution.replacement
            except KeyboardInterrupt:  # Ctrl-C: the process ends, the step goes elsewhere
                await self._send_answer(execution, backpressure_answer("the worker is stopping"))
                raise
            await self._send_answer(execution, answer)
        finally:
            self._running.discard(execution)
            self._remove(execution)
            self._start_waiting()

    async def _begin_late(self, execution: Execution) -> None:
        """Say that an execution begins which was announced as queued: its time budget counts from now on (K3)."""
        now = asyncio.get_running_loop().time()
        waited = now - execution.received
        execution.call.deadline += round(waited * 1_000_000)
        execution.received, execution.accept_after = now, None
        self._set_timer(execution)
        try:
            await self._announce(execution)
        except Exception:  # the next roll call tells
            log.debug("step %s: it could not be announced that it begins", execution.public_id, exc_info=True)

    def _is_forgotten(self, execution: Execution) -> bool:
        """True if nobody waits for the answer any more: the replica that asked after it has stopped doing so."""
        asked_at = execution.asked_at
        return asked_at is not None and asyncio.get_running_loop().time() - asked_at > FORGOTTEN_AFTER_SECONDS

    def _drop_forgotten(self, execution: Execution) -> None:
        log.info("step %s: not begun: nobody asks after it any more", execution.public_id, extra=execution.log_fields)
        execution.answered = True
        self._remove(execution)

    async def _execute(self, execution: Execution) -> Answer:
        """Run the task function and return its answer; every exception becomes an answer, too."""
        running = asyncio.current_task()
        try:
            with continued(execution.call.traceparent, execution.call.tracestate):
                return await run_task(execution.handler.function, execution.call)
        except asyncio.CancelledError:
            if was_cancelled(running):
                return execution.replacement or backpressure_answer("the worker is stopping")
            return error_answer(500, "the task was cancelled from inside")
        except BaseException as error:
            if ends_process(error) or closes_coroutine(error, running):
                raise
            log.exception(
                "task %s, step %s: the worker failed",
                execution.handler.url,
                execution.public_id,
                extra=execution.log_fields,
            )
            return error_answer(500, f"the worker failed: {describe_error(error)}")

    async def _send_answer(self, execution: Execution, answer: Answer) -> None:
        if execution.answered:
            return
        execution.answered = True
        if execution.progress is not None:
            await execution.progress.finish()
        if execution.output is not None:
            await execution.output.finish(answer)
        try:
            await self._answer(execution, answer)
        except Exception:
            log.exception(
                "task %s, step %s: its answer could not be sent",
                execution.handler.url,
                execution.public_id,
                extra=execution.log_fields,
            )

    def _cancel(self, execution: Execution, answer: Answer) -> None:
        execution.call.cancelled = True
        execution.replacement = answer
        if execution.task is None:
            self._waiting.remove(execution)
            self._remove(execution)
            self.spawn(self._send_answer(execution, answer))
        elif execution.handler.blocking:
            # The thread goes on and keeps its slot, but nobody need wait for it.
            self.spawn(self._send_answer(execution, answer))
        elif execution.has_started and not execution.answered:
            execution.task.cancel()

    def _remove(self, execution: Execution) -> None:
        if execution.timer is not None:
            execution.timer.cancel()
        same = self._by_step.get(execution.public_id, [])
        if execution in same:
            same.remove(execution)
        if not same:
            self._by_step.pop(execution.public_id, None)
        if not self._by_step:
            self._idle.set()

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine that `wait_idle` waits for."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    def expect(self, step_id: str, preparing: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that will submit a step or refuse it; until then the step counts as in hand."""

        async def prepared() -> None:
            try:
                await preparing
            finally:
                self._expected.discard(step_id)

        self._expected.add(step_id)
        self.spawn(prepared())

    def _set_queue_timer(self, execution: Execution) -> None:
        """Announce an execution as queued unless it gets its turn very soon (K3)."""
        if execution.timer is not None:
            execution.timer.cancel()
        seconds = min(QUEUED_AFTER_SECONDS, QUEUED_AFTER_SHARE * execution.call.budget)
        execution.timer = asyncio.get_running_loop().call_later(seconds, self._on_still_waiting, execution)

    def _on_still_waiting(self, execution: Execution) -> None:
        if execution.task is None:
            execution.queued = True
            self.spawn(self._announce(execution))
        else:
            self._set_timer(execution)

    def _set_timer(self, execution: Execution) -> None:
        """Set the next timer of an execution: for *accepted*, then for the deadline. A short execution needs only one."""
        loop = asyncio.get_running_loop()
        deadline = execution.received + execution.call.budget + DEADLINE_GRACE_SECONDS
        accept = (
            None
            if execution.accept_after is None or not execution.reply
            else execution.received + execution.accept_after
        )
        if accept is not None and accept < deadline:
            execution.timer = loop.call_at(accept, self._on_accept_due, execution)
        elif deadline != float("inf"):
            execution.timer = loop.call_at(deadline, self._on_deadline, execution)

    def _on_accept_due(self, execution: Execution) -> None:
        self.spawn(self._accept(execution))
        execution.accept_after = None
        self._set_timer(execution)

    def _on_deadline(self, execution: Execution) -> None:
        log.warning(
            "task %s, step %s: not done by its deadline",
            execution.handler.url,
            execution.public_id,
            extra=execution.log_fields,
        )
        self._cancel(execution, error_answer(408, f"task {execution.handler.url} was not done by its deadline"))
