"""The steps in flight: claimed by this replica on one shard and not committed yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dwarf_nats.engine.port_errors import suppress_port_errors
from dwarf_nats.rules.steps import ClaimedStep, StepRef

if TYPE_CHECKING:
    from dwarf_nats.ports import Logger, Tasks
    from dwarf_nats.workflow.keys import Key


class Execution(NamedTuple):
    """A step that is at its task, or on its way there. `task` runs it, or is `None`; `end` ends it."""

    step: ClaimedStep
    task: asyncio.Task[None] | None
    end: Callable[[], object]


class InFlight:
    """The registry of the steps in flight and of their executions.

    A step that was taken away may be claimed again here before its first execution has ended. Then it is in flight by its
    last claim only, and what belongs to the earlier one is told apart by identity.
    """

    def __init__(self, shard: int, tasks: Tasks, logger: Logger) -> None:
        self.shard = shard
        self._tasks = tasks
        self._log = logger
        self._steps: dict[int, ClaimedStep] = {}
        self._executions: dict[int, Execution] = {}
        self._earlier: set[asyncio.Task[None]] = set()
        """Executions of earlier claims that go on by themselves."""
        self.held: set[int] = set()
        """Steps that are held until the connection to the task services is back."""

    @property
    def steps(self) -> list[ClaimedStep]:
        """The steps that this replica works on, or has not committed yet."""
        return list(self._steps.values())

    def find(self, step_id: int) -> ClaimedStep | None:
        """The step of this id, if it is in flight here."""
        return self._steps.get(step_id)

    def is_executing(self, step_id: int) -> bool:
        """Tell whether a step is at its task, or on its way there."""
        return step_id in self._executions

    @property
    def executing(self) -> dict[int, str]:
        """The steps that are at their tasks, or on their way there: id → token."""
        return {step_id: self._steps[step_id].token for step_id in self._executions if step_id in self._steps}

    @property
    def count(self) -> int:
        """The number of steps that are at their tasks, or on their way there."""
        return len(self._executions)

    @property
    def executions(self) -> Sequence[asyncio.Task[None]]:
        """The executions that run as tasks of asyncio."""
        return [one.task for one in self._executions.values() if one.task is not None]

    def start(self, step: ClaimedStep, execution: Coroutine[Any, Any, None]) -> None:
        """Register a step and run its execution, which calls `executed` at its end."""
        task = asyncio.create_task(execution)
        self._steps[step.step_id] = step
        self._executions[step.step_id] = Execution(step, task, task.cancel)

    def start_directly(self, step: ClaimedStep, end: Callable[[], object]) -> None:
        """Register a step whose task was asked, and whose answer is waited for by nothing that runs.

        `end` has the step released, and calls `executed` as an answer does.
        """
        self._steps[step.step_id] = step
        self._executions[step.step_id] = Execution(step, None, end)

    def go_on(self, step: ClaimedStep, execution: Coroutine[Any, Any, None]) -> None:
        """Run the rest of an execution that was started directly. Call it after `executed`."""
        if self._steps.get(step.step_id) is step:
            self.start(step, execution)
            return
        task = asyncio.create_task(execution)  # of an earlier claim
        self._earlier.add(task)
        task.add_done_callback(self._earlier.discard)

    def executed(self, step: ClaimedStep) -> None:
        """An execution of this step ends; the step is in flight until `drop`."""
        execution = self._executions.get(step.step_id)
        if execution is not None and execution.step is step:  # else it is of a later claim
            del self._executions[step.step_id]

    def drop(self, step: ClaimedStep) -> None:
        """The step is written, or was taken away."""
        if self._steps.get(step.step_id) is step:  # it may be in flight again by a later claim
            del self._steps[step.step_id]

    # -- ending executions

    def cancel(self, steps: Sequence[StepRef]) -> None:
        """Cancel the tasks of steps that were cancelled in the database (O10)."""
        for step in steps:
            step_id, token = step.step_id, step.token
            with suppress_port_errors(self._log):
                self._tasks.cancel(f"{self.shard}-{step_id}-{token}")
            if step_id in self._steps:
                self._steps[step_id].cancelled = True
            self._call_off(step_id)

    def cancel_flow(self, flow: Key) -> None:
        """Another replica cancelled a flow: tell those who run its steps for this one (O10)."""
        self.cancel(
            [
                StepRef(step.step_id, step.token)
                for step in self._steps.values()
                if step.flow.flow_id == flow.id and step.flow.token == flow.token
            ]
        )

    async def release_all(self) -> None:
        """End all executions, so that their steps go back to the queue, and wait for it (B3)."""
        for step_id in list(self._executions):
            self._call_off(step_id)
        await asyncio.gather(*self.executions, return_exceptions=True)

    def _call_off(self, step_id: int) -> None:
        """End the execution of a step. One that has not begun is told to release the step when it does."""
        step = self._steps.get(step_id)
        if step is not None and not step.begun:
            step.called_off = True
        elif (execution := self._executions.get(step_id)) is not None:
            execution.end()
