"""The graphs that a worker registers when it starts."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwarf_nats.backoff import Backoff
from dwarf_nats.errors import BadRequest, DwarfError, Unavailable
from dwarf_nats.workflow.graph import Graph

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats

    from .client import Client

log = logging.getLogger("dwarf_nats.worker")
RETRY_BACKOFF = Backoff(0.2, 2, 5.0)
"""Pauses between two attempts while no replica answers."""


class WorkerGraphs:
    """Graphs by name, each sound, with the prefix of the deployment that they are registered in."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Graph, str]] = {}

    def __len__(self) -> int:
        return len(self._found)

    @property
    def all(self) -> list[Graph]:
        """The graphs, in the order in which they were added."""
        return [graph for graph, _ in self._found.values()]

    def add(self, given: Sequence[Graph | str | os.PathLike[str]], prefix: str) -> None:
        """Read and check graphs. Raises `BadRequest` with all problems, each with file and line; then none was added."""
        fresh: dict[str, tuple[Graph, str]] = {}
        problems: list[str] = []
        for one in self._read(given, problems):
            try:
                one.validate()
            except BadRequest as error:
                problems.append(error.message)
                continue
            taken = self._found.get(one.name) or fresh.get(one.name)
            if taken is not None and taken[0] is not one:
                problems.append(f"the graph {one.name!r} is there twice{_places(taken[0], one)}: give one another name")
            fresh[one.name] = (one, prefix)
        if problems:
            raise BadRequest("\n".join(problems))
        self._found |= fresh

    def _read(self, given: Sequence[Graph | str | os.PathLike[str]], problems: list[str]) -> list[Graph]:
        from dwarf_nats.workflow.graph_files import files_of  # here: it needs the YAML library

        found: list[Graph] = []
        for one in given:
            if isinstance(one, Graph):
                found.append(one)
                continue
            try:
                paths = list(files_of([one]))
            except (BadRequest, OSError) as error:
                problems.append(str(error))
                continue
            for path in paths:
                try:
                    found.append(Graph.from_file(path))
                except BadRequest as error:
                    problems.append(error.message)
        return found

    async def register(self, nc: Nats, *, name: str, retry: bool) -> None:
        """Register the graphs over this connection. With `retry`, wait for a replica for ever.

        Raises `BadRequest` for a graph that the service refuses, `Forbidden` if permissions do, and `Unavailable` if no replica
        answers.
        """
        from .client import Client  # here: a worker without graphs needs none

        for graph, prefix in self._found.values():
            client = Client(nc=nc, prefix=prefix, name=name)
            try:
                await self._put(client, graph, retry)
            finally:
                await client.close()

    async def _put(self, client: Client, graph: Graph, retry: bool) -> None:
        failures = 0
        while True:
            try:
                info = await client.put_graph(graph)
            except Unavailable as error:
                if not retry:
                    raise
                if not failures:
                    log.warning("graph %s cannot be registered yet: %s", graph.name, error)
                await asyncio.sleep(RETRY_BACKOFF.delay(failures))
                failures += 1
            except DwarfError as error:
                log.error("graph %s is not registered: %s", graph.name, error)
                raise
            else:
                for warning in info.warnings:
                    log.warning("graph %s: %s", graph.name, warning)
                log.info("registered graph %s", graph.name)
                return


def _places(*graphs: Graph) -> str:
    paths = [one.origin.path for one in graphs if one.origin is not None and one.origin.path]
    return f" ({', '.join(paths)})" if paths else ""
