"""Flows created in groups, one commit for many: for messages of sources and rows of an outbox (R1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from dwarf_nats.engine.operations.checks import check_options
from dwarf_nats.engine.operations.new_flows import after_creation
from dwarf_nats.errors import DwarfError, Unavailable
from dwarf_nats.ports.receiving import StaleCount, StaleGraph
from dwarf_nats.rules.receiving import refused
from dwarf_nats.workflow.options import FlowOptions

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.new_flows import CreateRequest, FlowFactory
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Logger
    from dwarf_nats.ports.receiving import CreatedFlows
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.workflow.graph import Graph

Id = TypeVar("Id")
STALE_TRIES = 5
"""Attempts at a group whose graph is removed at that moment, again and again."""
DEFAULTS = FlowOptions()


@dataclass(slots=True)
class Wanted(Generic[Id]):
    """A flow that is wanted. `identity`: what makes it one flow, such as a receipt. `place`: of its result."""

    identity: Id
    place: int
    request: CreateRequest
    graph: Graph


Write = Callable[["Sequence[tuple[Id, NewFlow]]"], Awaitable["CreatedFlows"]]
"""Writes flows with their identities in one transaction."""


class Workflows:
    """The graphs that one group has asked for: each workflow is looked up once for all flows of it."""

    def __init__(self, replica: Replica) -> None:
        self._graphs = replica.graphs
        self._found: dict[tuple[str, bytes], Graph | DwarfError] = {}

    async def find(self, request: CreateRequest) -> Graph:
        """Return the graph of a request. Raises as `GraphBook.find`."""
        workflow, baggage = request.workflow, request.baggage
        assert isinstance(workflow, str)
        key = (workflow, bytes(baggage))
        found = self._found.get(key)
        if found is None:
            try:
                found = await self._graphs.find(workflow, baggage)
            except DwarfError as error:
                found = error
            self._found[key] = found
        if isinstance(found, DwarfError):
            raise found
        return found


class GroupCreator:
    """Checks what is wanted, and creates flows in groups."""

    def __init__(self, placement: Placement, factory: FlowFactory, replica: Replica) -> None:
        self._placement = placement
        self._factory = factory
        self._replica = replica
        self._log: Logger = replica.logger

    def workflows(self) -> Workflows:
        """Return the reader of graphs for one group."""
        return Workflows(self._replica)

    async def request(
        self, workflow: str, state: bytes, options: FlowOptions | None
    ) -> tuple[CreateRequest, Shard | None]:
        """Check a flow that is wanted; return the request, and the shard of its thread if it joins one.

        Raises as `Creator.create`.
        """
        thread: FlowRow | None = None
        shard: Shard | None = None
        if options is not None:
            check_options(options)
            if options.thread is not None:
                shard, key = self._placement.locate(options.thread, "thread")
                thread = await shard.store.flows.thread(key)
        given = options if options is not None else DEFAULTS
        return self._factory.request(workflow, state, given, thread=thread, start=True), shard

    async def create(
        self, shard: Shard, group: Sequence[Wanted[Id]], write: Write[Id], results: list[DwarfError | None]
    ) -> int:
        """Create a group on a shard, note the errors of those that failed, and return how many flows were made.

        A flow that the database cannot store fails alone. Raises `StaleCount` if `write` does.
        """
        try:
            return await self._created(shard, group, write)
        except DwarfError as error:
            if len(group) > 1 and not isinstance(error, Unavailable):
                half = len(group) // 2
                made = await self.create(shard, group[:half], write, results)
                return made + await self.create(shard, group[half:], write, results)
            failure = error
        except StaleCount:
            raise
        except Exception as error:
            self._log.exception("a defect while flows were created in a group")
            failure = refused(error)
        for one in group:
            results[one.place] = failure
        return 0

    async def _created(self, shard: Shard, group: Sequence[Wanted[Id]], write: Write[Id]) -> int:
        for _ in range(STALE_TRIES):
            flows = [(one.identity, await self._built(shard, one)) for one in group]
            try:
                return await asyncio.shield(self._written(shard, flows, write))
            except StaleGraph:
                for digest in {new.flow.digest for _, new in flows}:
                    self._replica.graphs.doubt(shard.number, digest)
        raise Unavailable("the graph is removed at this moment, again and again: try again")

    async def _built(self, shard: Shard, one: Wanted[Id]) -> NewFlow:
        new = await self._factory.build(shard, one.request, one.graph)
        span = self._factory.begin_trace(new)
        if span is not None:
            span.end()
        return new

    async def _written(self, shard: Shard, flows: Sequence[tuple[Id, NewFlow]], write: Write[Id]) -> int:
        """Write a group and follow up on it. Shielded: once it is on its way it is followed through."""
        made = None
        for _, new in flows:
            # A start time is for the database's clock to judge: such a flow goes to the ready queue.
            new.eager = new.start_at is None and shard.admission.reserve(new.flow.priority, new.url, new.flow.workflow)
        try:
            made = (await write(flows)).made
        finally:
            for _, new in flows:
                if new.eager and (made is None or new.flow.flow_id not in made):
                    shard.admission.release(new.url)
        for _, new in flows:
            if (created_at := made.get(new.flow.flow_id)) is not None:
                after_creation(shard, new, created_at)
        return len(made)
