"""Opens an engine in this process, for one flow or for as long as one likes."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dwarf_nats.engine.ports import Ports
from dwarf_nats.library import engine_on
from dwarf_nats.local.functions import LocalTasks, graphs_with
from dwarf_nats.local.graph_book import GraphBook
from dwarf_nats.local.local_client import LocalClient
from dwarf_nats.local.outputs import LocalOutputs
from dwarf_nats.local.services import LocalServices
from dwarf_nats.ports import TaskCapabilities
from dwarf_nats.settings import EngineSettings
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.local.functions import TaskSource
    from dwarf_nats.local.graph_book import GraphSource
    from dwarf_nats.local.services import Service
    from dwarf_nats.local.states import Values
    from dwarf_nats.workflow.records import Outcome, Pause

T = TypeVar("T")
REMEDY = "give its worker or its function as tasks=…"
NO_SERVICES: Mapping[str, Any] = {}


@asynccontextmanager
async def client(
    *,
    tasks: TaskSource = (),
    graphs: GraphSource | Iterable[GraphSource] = (),
    services: Mapping[str, Service] = NO_SERVICES,
    database: str | Path = "",
    settings: EngineSettings | None = None,
) -> AsyncIterator[LocalClient]:
    """Open an engine, and drain it at the end.

    `tasks`: workers, functions, or mappings of urls to functions. `graphs`: graphs, files, folders. `services`: functions by
    subject for request and publish nodes. `database`: an SQLite file, in memory by default, or a DSN. Raises `Unusable` if
    another process has the file, `BadRequest` for graphs and tasks that cannot be used.
    """
    settings = settings if settings is not None else EngineSettings()
    outputs, book, local_services = LocalOutputs(), GraphBook(), LocalServices(services)
    functions = LocalTasks(REMEDY, outputs, settings.max_depth)
    functions.add(tasks)
    for graph in graphs_with(tasks):
        book.add(graph)
    for source in [graphs] if isinstance(graphs, Graph | str | Path) else graphs:
        book.add(source)
    ports = Ports(
        tasks=functions,
        capabilities=TaskCapabilities(max_depth=settings.max_depth),
        graphs=book,
        services=local_services,
    )
    async with engine_on([_dsn(database)], ports, settings) as engine:
        yield LocalClient(engine, book, local_services, outputs)


def run(
    workflow: str | Graph | Path,
    state: Values = None,
    *,
    tasks: TaskSource = (),
    graphs: GraphSource | Iterable[GraphSource] = (),
    services: Mapping[str, Service] = NO_SERVICES,
    database: str | Path = "",
    timeout: float | None = None,
    answer: Callable[[Pause], Any] | None = None,
) -> Outcome:
    """Run one flow to its end, or to a pause that nobody answers, and return its outcome.

    `workflow`: a graph, a graph file, or the name of one of `graphs`. `answer` is asked at each pause of `ask` and `interrupt`;
    it returns the data to resume with. `timeout`: seconds; then `TimedOut` is raised. Works also where an event loop runs, as
    in a notebook. The other arguments are those of `client`.
    """

    async def running() -> Outcome:
        async with client(tasks=tasks, graphs=graphs, services=services, database=database) as local:
            outcome = await local.run(workflow, state, timeout=timeout)
            while answer is not None and outcome.status is Status.INTERRUPTED:
                outcome = await _answered(local, outcome, answer, timeout)
            return outcome

    return _run(running)


async def _answered(
    local: LocalClient, outcome: Outcome, answer: Callable[[Pause], Any], timeout: float | None
) -> Outcome:
    """Answer the pauses of a flow, and return its next outcome."""
    asked = [pause for pause in outcome.pauses if pause.kind == "interrupt"]
    for pause in asked:
        await local.resume(data=await asyncio.to_thread(answer, pause), step_key=pause.step_key)
    return await local.await_(outcome.flow_key, timeout)


def _dsn(database: str | Path) -> str:
    text = str(database)
    return text if "://" in text else f"sqlite:///{text}" if text else "sqlite://"


def _run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end: on an event loop of its own, in a thread of its own if one runs here already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def noted() -> T:
        started.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await main()

    with ThreadPoolExecutor(1, thread_name_prefix="dwarf-local") as pool:
        future = pool.submit(contextvars.copy_context().run, asyncio.run, noted())
        try:
            return future.result()
        except KeyboardInterrupt:  # a notebook was stopped: end the flow's engine, too
            for loop, task in started:
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
            raise
