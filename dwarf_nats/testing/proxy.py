"""Graphs and tasks of one test, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dwarf_nats.workflow.answer import Answer, ErrorInfo
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.state import MAX_DEPTH

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import TaskCall
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.state import Raw


class TaskProxy:
    """The ports `Graphs` and `Tasks` over graphs and functions that were registered. `calls`: executions by task url."""

    def __init__(self) -> None:
        self.max_depth = MAX_DEPTH
        self._graphs: dict[str, Graph] = {}
        self._tasks: dict[str, Callable[..., Any]] = {}
        self.calls: dict[str, int] = {}
        self.cancelled: list[str] = []

    def handle_graph(self, graph: Graph, name: str | None = None) -> None:
        """Serve `graph` for the workflow of its name."""
        self._graphs[name or graph.name] = graph

    def handle_task(self, url: str, function: Callable[..., Any]) -> None:
        """Run `function`, async or plain, for the task `url`; its arguments are filled from state."""
        self._tasks[url] = function

    def task(self, url: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """`handle_task` as a decorator."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.handle_task(url, function)
            return function

        return register

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:  # noqa: ARG002 - the port's signature
        """The registered graph of that name, or `None`."""
        return self._graphs.get(workflow)

    async def execute(self, call: TaskCall) -> Answer:
        """Run the function of a task. A task without one is answered with a 503."""
        function = self._tasks.get(call.url)
        if function is None:
            return Answer(
                error=ErrorInfo(f"no function for task {call.url!r}: register one with proxy.handle_task", 503)
            )
        self.calls[call.url] = self.calls.get(call.url, 0) + 1
        return await run_task(function, call, self.max_depth)

    async def ready(self) -> None:
        """Return at once: there is no transport to wait for."""

    def cancel(self, step_key: str) -> None:
        """Keep the step key in `cancelled`."""
        self.cancelled.append(step_key)
