"""Python functions as the tasks of an engine in the same process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from dwarf_nats.errors import BadRequest
from dwarf_nats.local.outputs import Execution, LocalOutputs
from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.prepared import bind
from dwarf_nats.workflow.state import MAX_DEPTH

if TYPE_CHECKING:
    from dwarf_nats.workflow.graph import Graph

TaskFunction: TypeAlias = Callable[..., Any]
NOT_HERE = 501
"""Code of the error of a step whose task has no function here. It is no breaker trip: nobody will begin to serve it."""


@runtime_checkable
class HasTasks(Protocol):
    """Anything with registered tasks, such as a `Worker` of the SDK."""

    @property
    def tasks(self) -> Mapping[str, TaskFunction]:
        """The functions by url."""
        ...


TaskSource: TypeAlias = "HasTasks | Mapping[str, TaskFunction] | TaskFunction | Iterable[TaskSource]"
"""Where functions come from: workers, mappings of urls to functions, functions (served under their names), lists of these."""


def functions_of(source: TaskSource) -> dict[str, TaskFunction]:
    """Return the functions of a source by url. Raises `BadRequest` for a bad url, or anything that is no source of tasks."""
    found: dict[str, TaskFunction]
    if isinstance(source, Mapping):
        found = dict(source)
    elif isinstance(source, HasTasks):
        found = dict(source.tasks)
    elif callable(source):
        found = {getattr(source, "__name__", type(source).__name__): source}
    elif isinstance(source, Iterable) and not isinstance(source, str | bytes):
        found = {}
        for one in source:
            found |= functions_of(one)
    else:
        raise BadRequest(
            f"tasks come from a Worker, a function, a mapping of urls to functions, or a list of these;"
            f" got {type(source).__name__}"
        )
    for url, function in found.items():
        check_subject_name(url, "task url")
        if not callable(function):
            raise BadRequest(f"task {url} needs a function, got {type(function).__name__}")
    return found


@runtime_checkable
class HasGraphs(Protocol):
    """Anything that brings graphs along with its tasks, such as a `Worker` of the SDK."""

    @property
    def registered_graphs(self) -> Sequence[Graph]:
        """The graphs."""
        ...


def graphs_with(source: TaskSource) -> list[Graph]:
    """Return the graphs that workers of a source bring along."""
    if isinstance(source, HasGraphs):
        return list(source.registered_graphs)
    if isinstance(source, list | tuple | set | frozenset):
        return [graph for one in source for graph in graphs_with(one)]
    return []


class FunctionTasks:
    """The port `Tasks` over functions. `remedy` is what to do about a task that has none, with `{url}` for its url."""

    def __init__(self, remedy: str, max_depth: int = MAX_DEPTH) -> None:
        self.functions: dict[str, TaskFunction] = {}
        self.max_depth = max_depth
        self._remedy = remedy

    def add(self, source: TaskSource) -> None:
        """Serve the functions of a source. Raises `BadRequest`, and `TypeError` for one whose arguments have no names."""
        found = functions_of(source)
        for function in found.values():
            bind(function)
        self.functions |= found

    async def execute(self, call: TaskCall) -> Answer:
        """Run the function of a task."""
        function = self.functions.get(call.url)
        return self.missing(call.url) if function is None else await run_task(function, call, self.max_depth)

    def missing(self, url: str) -> Answer:
        """Return the answer for a task without a function."""
        known = ", ".join(sorted(self.functions)) or "none"
        remedy = self._remedy.replace("{url}", url)
        return Answer(error=ErrorInfo(f"no function serves task {url} (served here: {known}): {remedy}", NOT_HERE))

    async def ready(self) -> None:
        """Return at once: there is no transport to wait for."""

    def cancel(self, step_key: str) -> None:
        """Do nothing: the engine cancels the coroutine, and a thread cannot be ended."""
        del step_key


class LocalTasks(FunctionTasks):
    """Functions as tasks whose output reaches those who follow their flows (B8)."""

    def __init__(self, remedy: str, outputs: LocalOutputs, max_depth: int = MAX_DEPTH) -> None:
        super().__init__(remedy, max_depth)
        self._outputs = outputs

    async def execute(self, call: TaskCall) -> Answer:
        execution, answer = Execution(self._outputs, call), None
        call.emit = execution.emit
        try:
            answer = await super().execute(call)
        finally:
            execution.finish(answer)
        return answer
