"""Runs the task functions of a worker: a bounded number at once, further requests wait their turn."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from dwarf_nats.telemetry.context import continued
from dwarf_nats.workflow.answer import Answer
from dwarf_nats.workflow.arguments import run_at_once, run_call
from dwarf_nats.workflow.task_exceptions import closes_coroutine, describe_error, ends_process, was_cancelled

from .execution_timers import ExecutionTimers
from .executions import Execution, current_step
from .in_hand import InHand
from .shared_task import SharedTask
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
    An answer is an `Answer`, or the JSON text of its changes if it has nothing else. `answer_now` sends one at once and returns
    true; or false where it would have to wait, then `answer` is awaited.
    """

    def __init__(
        self,
        limit: int,
        answer: Callable[[Execution, Answer | bytes], Awaitable[None]],
        accept: Callable[[Execution], Awaitable[None]],
        announce: Callable[[Execution], Awaitable[None]],
        *,
        answer_now: Callable[[Execution, Answer | bytes], bool] | None = None,
    ) -> None:
        self._announce = announce
        self._answer_now = answer_now
        self._limit = limit
        self._answer = answer
        self._accept = accept
        self._waiting: deque[Execution] = deque()
        self._running: set[Execution] = set()
        self._in_hand = InHand()
        self._timers = ExecutionTimers(_due_at, self._on_due)
        self._shared = SharedTask(self._run_at_once)
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
        self._in_hand.add(execution)
        self._timers.watch(execution)
        if self._waiting or len(self._running) >= self._limit:
            self._waiting.append(execution)
            self._start_waiting()
        else:
            self._start(execution)
        if execution.takes_queued and execution.reply and execution.task is None:
            self._set_queue_timer(execution)

    def unanswered(self, steps: Iterable[str]) -> list[str]:
        """Those of `steps` whose answer is still to be sent. A cancelled execution in a thread has been answered already."""
        return [
            step
            for step in steps
            if step in self._expected or any(execution.is_in_hand for execution in self._in_hand.of(step))
        ]

    def queued(self, steps: Iterable[str]) -> list[str] | None:
        """Those of `steps` that wait for a slot, and note that they are asked after; `None` if none of them has waited."""
        now = asyncio.get_running_loop().time()
        found = [one for step in steps for one in self._in_hand.of(step) if one.queued]
        for execution in found:
            execution.asked_at = now
        return [one.public_id for one in found if one.task is None] if found else None

    def cancel(self, steps: Iterable[str]) -> None:
        """Cancel the executions of these steps. Cancelling again does not disturb an execution that is cleaning up."""
        for step in steps:
            for execution in [execution for execution in self._in_hand.of(step) if not execution.call.cancelled]:
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
            self._start(execution)

    def _start(self, execution: Execution) -> None:
        self._running.add(execution)
        if execution.handler.never_waits and not execution.queued:
            self._shared.add(execution)
        else:
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
            if not self._answered_now(execution, answer):
                await self._send_answer(execution, answer)
        finally:
            self._end(execution)

    def _run_at_once(self, execution: Execution) -> None:
        """Run an execution whose function never waits."""
        current_step.set(execution.public_id)
        execution.has_started = True
        try:
            answer = execution.replacement or self._execute_at_once(execution)
        except BaseException:  # Ctrl-C: the process ends, the step goes elsewhere
            self._answer_soon(execution, backpressure_answer("the worker is stopping"))
            raise
        if self._answered_now(execution, answer):
            self._end(execution)
        else:
            self._answer_soon(execution, answer)

    def _answer_soon(self, execution: Execution, answer: Answer | bytes) -> None:
        """Send the answer of an execution in an asyncio task of its own; until then it keeps its place."""

        async def answered() -> None:
            try:
                await self._deliver(execution, answer)
            finally:
                execution.storing = False
                self._end(execution)

        execution.answered = execution.storing = True
        execution.task = asyncio.get_running_loop().create_task(answered())

    def _end(self, execution: Execution) -> None:
        self._running.discard(execution)
        self._remove(execution)
        if self._waiting:
            self._start_waiting()

    async def _begin_late(self, execution: Execution) -> None:
        """Say that an execution begins which was announced as queued: its time budget counts from now on (K3)."""
        now = asyncio.get_running_loop().time()
        waited = now - execution.received
        execution.call.deadline += round(waited * 1_000_000)
        execution.received, execution.accept_after = now, None
        self._timers.set(execution)
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

    async def _execute(self, execution: Execution) -> Answer | bytes:
        """Run the task function and return its answer; every exception becomes an answer, too."""
        running, handler = execution.task, execution.handler
        try:
            with continued(execution.call.traceparent, execution.call.tracestate):
                return await run_call(handler.function, execution.call, running, handler.raised)
        except asyncio.CancelledError:
            if was_cancelled(running):
                return execution.replacement or backpressure_answer("the worker is stopping")
            return error_answer(500, "the task was cancelled from inside")
        except BaseException as error:
            if ends_process(error) or closes_coroutine(error, running):
                raise
            return _worker_failed(execution, error)

    def _execute_at_once(self, execution: Execution) -> Answer | bytes:
        """Run a task function that never waits, as `_execute`."""
        call, handler = execution.call, execution.handler
        try:
            with continued(call.traceparent, call.tracestate):
                return run_at_once(handler.function, call, handler.raised)
        except BaseException as error:
            if ends_process(error):
                raise
            return _worker_failed(execution, error)

    def _answered_now(self, execution: Execution, answer: Answer | bytes) -> bool:
        """Send an answer if that needs no waiting; false if it is still to be sent."""
        if execution.answered:
            return True
        if self._answer_now is None or execution.progress is not None or execution.output is not None:
            return False
        try:
            execution.answered = self._answer_now(execution, answer)
        except Exception:
            log.debug("step %s: its answer could not be sent at once", execution.public_id, exc_info=True)
        return execution.answered

    async def _send_answer(self, execution: Execution, answer: Answer | bytes) -> None:
        if not execution.answered:
            execution.answered = True
            await self._deliver(execution, answer)

    async def _deliver(self, execution: Execution, answer: Answer | bytes) -> None:
        if execution.progress is not None:
            await execution.progress.finish()
        if execution.output is not None:
            await execution.output.finish(answer)
        try:
            await self._answer(execution, answer)
        except Exception:
            _log(logging.ERROR, execution, "its answer could not be sent", failed=True)

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
        self._timers.forget(execution)
        self._in_hand.remove(execution)
        execution.release()
        if not self._in_hand:
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
        self._timers.forget(execution)
        seconds = min(QUEUED_AFTER_SECONDS, QUEUED_AFTER_SHARE * execution.call.budget)
        execution.timer = asyncio.get_running_loop().call_later(seconds, self._on_still_waiting, execution)

    def _on_still_waiting(self, execution: Execution) -> None:
        if execution.task is None:
            execution.queued = True
            self.spawn(self._announce(execution))
        else:
            self._timers.set(execution)

    def _on_due(self, execution: Execution) -> None:
        if _due_at(execution) < _deadline(execution):
            self.spawn(self._accept(execution))
            execution.accept_after = None
            self._timers.set(execution)
            return
        _log(logging.WARNING, execution, "not done by its deadline")
        self._cancel(execution, error_answer(408, f"task {execution.handler.url} was not done by its deadline"))


def _log(level: int, execution: Execution, text: str, *, failed: bool = False) -> None:
    """Log what happened to an execution. `failed`: with the traceback of the exception that is being handled."""
    url, step = execution.handler.url, execution.public_id
    log.log(level, "task %s, step %s: %s", url, step, text, exc_info=failed, extra=execution.log_fields)


def _worker_failed(execution: Execution, error: BaseException) -> Answer:
    _log(logging.ERROR, execution, "the worker failed", failed=True)
    return error_answer(500, f"the worker failed: {describe_error(error)}")


def _deadline(execution: Execution) -> float:
    return execution.received + execution.call.budget + DEADLINE_GRACE_SECONDS


def _due_at(execution: Execution) -> float:
    """The next time at which there is something to do for an execution that runs: say *accepted*, then its deadline."""
    deadline = _deadline(execution)
    if execution.accept_after is None or not execution.reply:
        return deadline
    return min(deadline, execution.received + execution.accept_after)
