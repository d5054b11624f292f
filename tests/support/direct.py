"""Tasks in this process that are asked without a coroutine that waits, as those over NATS are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dwarf_nats.engine.ports import Ports
from dwarf_nats.ports import Graphs, TaskCapabilities, Tasks
from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
from dwarf_nats.workflow.task_exceptions import describe_error

Answered = Callable[[Answer | Exception], None]


class DirectTasks:
    """Runs the calls of other tasks.

    `begun`: the keys of the steps that were asked directly; `given_up`: of those for which nobody waits any more.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self.begun: list[str] = []
        self.given_up: list[str] = []

    @property
    def capabilities(self) -> TaskCapabilities:
        return TaskCapabilities(begin=self.begin)

    def ports(self, graphs: Graphs) -> Ports:
        """The ports of an engine with these tasks."""
        return Ports(tasks=self._tasks, capabilities=self.capabilities, graphs=graphs)

    def begin(self, call: TaskCall, answered: Answered) -> Callable[[], None]:
        self.begun.append(call.step_key)
        running = asyncio.create_task(self._run(call, answered))

        def give_up() -> None:
            self.given_up.append(call.step_key)
            running.cancel()

        return give_up

    async def _run(self, call: TaskCall, answered: Answered) -> None:
        try:
            async with asyncio.timeout(call.budget) as deadline:
                outcome: Answer | Exception = await self._tasks.execute(call)
        except TimeoutError as error:
            outcome = error
            if deadline.expired():
                text = f"task {call.url} did not answer within its time budget of {round(call.budget * 1000)} ms"
                outcome = Answer(error=ErrorInfo(text, 408), cause="timeout")
        except Exception as error:
            outcome = error
        except asyncio.CancelledError as error:
            running = asyncio.current_task()
            if running is not None and running.cancelling():
                raise
            outcome = RuntimeError(describe_error(error))
        answered(outcome)
