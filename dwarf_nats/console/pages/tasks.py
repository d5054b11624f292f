"""The tasks: who serves them, what holds them back, and what waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dwarf_nats.console.console import Console
from dwarf_nats.console.live import PolledView, Update
from dwarf_nats.console.rates import Waiting, by_task
from dwarf_nats.console.source import SLOW_SECONDS, Source
from dwarf_nats.errors import Forbidden

UNDER_WAY_FLOWS = 500
"""Newest flows under way that are looked through for what they wait for."""


@dataclass(slots=True)
class Task:
    """One task. `servers`: the services that say they serve it. `rates`: operations a second that replicas allow now."""

    url: str
    servers: list[dict[str, Any]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    breaker: dict[str, Any] | None = None
    waiting: Waiting = field(default_factory=Waiting)
    requests: int = 0
    errors: int = 0
    nanoseconds: int = 0
    last_error: str = ""

    @property
    def average(self) -> int | None:
        """Microseconds that an execution takes, as its services report it."""
        return self.nanoseconds // self.requests // 1000 if self.requests else None

    @property
    def unserved(self) -> bool:
        """True if flows wait for it and nobody is known to serve it."""
        return not self.servers and (self.breaker is not None or self.waiting.queued > 0)


def routes(console: Console) -> list[Route]:
    """The route of the list."""

    async def show(request: Request) -> Response:
        source = await console.source_of(request)
        values = await task_values(source)
        return await console.page(request, "tasks.html", section="tasks", title="Tasks", **values)

    console.views["tasks"] = lambda _request, source: TaskList(console, source)
    return [Route("/tasks", show)]


async def task_values(source: Source) -> dict[str, Any]:
    """The values of the template."""
    under_way, info, stats = await asyncio.gather(
        source.read("flow.list", {"status": "running", "limit": UNDER_WAY_FLOWS}, seconds=SLOW_SECONDS),
        _services(source, "INFO"),
        _services(source, "STATS"),
    )
    prefix = source.client.subjects.prefix
    tasks = collect(info or [], stats or [], prefix)
    for url, waiting in by_task(under_way["flows"], {}).items():
        tasks.setdefault(url, Task(url)).waiting = waiting
    rows = sorted(tasks.values(), key=lambda one: (not one.unserved, one.breaker is None, one.url))
    return {"tasks": rows, "hidden": info is None, "sample": UNDER_WAY_FLOWS}


async def _services(source: Source, verb: str) -> list[dict[str, Any]] | None:
    """The replies of all services; `None` if NATS does not let this user ask."""
    try:
        return await source.services(verb)
    except Forbidden:
        return None


def collect(info: Iterable[Mapping[str, Any]], stats: Iterable[Mapping[str, Any]], prefix: str) -> dict[str, Task]:
    """Tasks by url, from the replies of services to INFO and STATS."""
    tasks: dict[str, Task] = {}
    for service in info:
        for endpoint in service.get("endpoints") or ():
            url = (endpoint.get("metadata") or {}).get("task")
            if url:
                server = {"service": service["name"], "id": service["id"], "queue": endpoint.get("queue_group", "")}
                tasks.setdefault(url, Task(url)).servers.append(server)
    by_name = {(one["service"], url.replace(".", "-")): task for url, task in tasks.items() for one in task.servers}
    for service in stats:
        ours = (service.get("metadata") or {}).get("prefix") == prefix
        for endpoint in service.get("endpoints") or ():
            task = by_name.get((service["name"], endpoint["name"]))
            if task is not None:
                _count(task, endpoint)
            if ours:
                _hold(tasks, (endpoint.get("data") or {}).get("tasks") or ())
    return tasks


def _count(task: Task, endpoint: Mapping[str, Any]) -> None:
    task.requests += endpoint.get("num_requests", 0)
    task.errors += endpoint.get("num_errors", 0)
    task.nanoseconds += endpoint.get("processing_time", 0)
    task.last_error = endpoint.get("last_error") or task.last_error


def _hold(tasks: dict[str, Task], held: Iterable[Mapping[str, Any]]) -> None:
    """Note what a replica holds back."""
    for one in held:
        task = tasks.setdefault(one["task"], Task(one["task"]))
        if "ratePerSecond" in one:
            task.rates.append(one["ratePerSecond"])
        task.breaker = one.get("breaker") or task.breaker


class TaskList(PolledView):
    """The rows of the list."""

    key = "tasks"

    def __init__(self, console: Console, source: Source) -> None:
        super().__init__(source)
        self._console = console

    async def render(self) -> Update:
        return Update(html={"rows": self._console.html("tasks_rows.html", **await task_values(self.source))})
