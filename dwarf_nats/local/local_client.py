"""The client of an engine in the same process: the methods of the SDK's `Client`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from dwarf_nats.errors import BadRequest, NotFound, TimedOut
from dwarf_nats.local.graph_book import graphs_of
from dwarf_nats.local.outputs import LocalStream
from dwarf_nats.local.states import Values, given
from dwarf_nats.render.graph import graph_mermaid
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import Query

if TYPE_CHECKING:
    from pathlib import Path

    from dwarf_nats.engine import Engine
    from dwarf_nats.local.graph_book import GraphBook
    from dwarf_nats.local.outputs import LocalOutputs
    from dwarf_nats.local.services import LocalServices, Message
    from dwarf_nats.workflow.explanation import Explanation
    from dwarf_nats.workflow.options import FlowOptions
    from dwarf_nats.workflow.records import EventReceipt, FlowCounts, FlowSummary, Outcome, Step
    from dwarf_nats.workflow.tags import TagChanges, Tags, TagValue

LIST_FLOWS = 100
"""Flows that `find` returns unless the query has a limit."""


class SignalArguments(TypedDict, total=False):
    """`id`: signalled again while it is kept, the event counts once. `keep`: seconds, else a day."""

    id: str | None
    keep: float | None


class LocalClient:
    """Calls the engine of this process. Every refusal is raised as a leaf of `DwarfError`.

    `engine` has every further operation, such as schedules, limits and holds.
    """

    def __init__(self, engine: Engine, graphs: GraphBook, services: LocalServices, outputs: LocalOutputs) -> None:
        self.engine = engine
        self._outputs = outputs
        self._graphs = graphs
        self._services = services

    @property
    def published(self) -> Sequence[Message]:
        """The newest messages that publish nodes have sent, in their order."""
        return list(self._services.published)

    # -- creating and running flows

    async def create(
        self,
        workflow: str | Graph | Path,
        state: Values = None,
        options: FlowOptions | None = None,
        *,
        start: bool = False,
    ) -> str:
        """Create a flow of a workflow: a name, a graph, or a graph file; return its key (O1)."""
        return await self.engine.create(self._workflow(workflow), given(state), options, start=start)

    async def create_task(
        self, task: str, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create a flow of a single task; return its key (O1)."""
        return await self.engine.create_task(task, given(state), options, start=start)

    async def continue_(
        self, thread_key: str, state: Values = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create the next flow of a thread, named by the key of any of its flows; return its key (O15)."""
        return await self.engine.continue_(thread_key, given(state), options, start=start)

    async def start(self, flow_key: str) -> None:
        """Start a created flow (O2)."""
        await self.engine.start(flow_key)

    async def run(
        self,
        workflow: str | Graph | Path,
        state: Values = None,
        options: FlowOptions | None = None,
        *,
        timeout: float | None = 30.0,
    ) -> Outcome:
        """Create a flow, start it and wait until it is stopped: ended, or paused (O3).

        `timeout`: in seconds, `None` for no limit. Raises `TimedOut`, with the key in `details["flow_key"]`.
        """
        with _key_in_details():
            return await self.engine.run(self._workflow(workflow), given(state), options, timeout)

    async def await_(self, flow_key: str, timeout: float | None = 30.0) -> Outcome:
        """Return the outcome as soon as the flow is stopped (O4). Raises `TimedOut` if it is still going then."""
        with _key_in_details():
            return await self.engine.await_(flow_key, timeout)

    async def poll(self, flow_key: str, timeout: float | None = 30.0) -> Outcome:
        """Wait as `await_` does, but return where the flow stands if it is still going after `timeout` seconds (O4)."""
        return await self.engine.poll(flow_key, timeout)

    def stream(self, flow_key: str, *, end_at_pause: bool = False) -> LocalStream:
        """Follow what the tasks of a flow, and of flows that it calls, emit while they run, until it is stopped (B8).

        An async iterator of `Chunk`s, and a context manager: inside of `async with`, nothing that is emitted is missed, so
        start the flow there. With `end_at_pause` the iteration also ends when the flow is interrupted. Afterwards `outcome`
        is the flow's.
        """
        return LocalStream(self, self._outputs, flow_key, end_at_pause=end_at_pause)

    # -- reading

    async def snapshot(self, flow_key: str) -> Outcome:
        """Return where a flow stands now (O5)."""
        return await self.engine.snapshot(flow_key)

    async def history(self, flow_key: str) -> list[Step]:
        """Return the steps of the flow, those of called workflows nested (O7)."""
        return await self.engine.history(flow_key)

    async def step(self, step_key: str) -> Step:
        """Return one step with state, changes and the keys of its neighbours (O7)."""
        return await self.engine.step(step_key)

    async def explain(self, flow_key: str) -> Explanation:
        """Return why the flow stands where it stands (Q2)."""
        return await self.engine.explain(flow_key)

    async def mermaid(self, flow_key: str) -> str:
        """Return the flow's history as a Mermaid flowchart (O8)."""
        return await self.engine.mermaid(flow_key)

    async def graph_mermaid(self, name: str) -> str:
        """Return a graph that was given as a Mermaid flowchart (D1). Raises `NotFound`."""
        graph = self._graphs.graphs.get(name)
        if graph is None:
            known = ", ".join(sorted(self._graphs.graphs)) or "none"
            raise NotFound(f"there is no graph {name!r} here (known: {known}): give it as graphs=…")
        return graph_mermaid(graph)

    async def flow_graph(self, flow_key: str) -> Graph:
        """Return the graph that the flow runs (G10)."""
        return await self.engine.flow_graph(flow_key)

    async def find(self, query: Query | None = None, /, **tags: TagValue) -> list[FlowSummary]:
        """Return the newest root flows that have these tags, 100 unless the query has a limit (Q1)."""
        query = query or Query()
        if tags:
            query = replace(query, tags={**(query.tags or {}), **tags})
        limit = query.limit or LIST_FLOWS
        flows, cursor = await self.engine.list(query)
        while cursor and len(flows) < limit:  # a page may end early
            more, cursor = await self.engine.list(replace(query, limit=limit - len(flows)), cursor)
            flows += more
        return flows[:limit]

    async def count(self, query: Query | None = None) -> FlowCounts:
        """Return how many root flows have each status (O9)."""
        return await self.engine.count(query)

    # -- steering

    async def resume(self, flow_key: str = "", data: Any = None, *, step_key: str = "") -> None:
        """Continue the oldest interrupt of a flow, or exactly that of a step, with data (O11, P5)."""
        await self.engine.resume(flow_key, data, step=step_key)

    async def resume_break(self, flow_key: str = "", overrides: Values = None, *, step_key: str = "") -> None:
        """Continue the oldest breakpoint of a flow, or exactly that of a step, with overrides (O11, P5)."""
        await self.engine.resume_break(flow_key, given(overrides, "overrides"), step=step_key)

    async def break_before(self, flow_key: str, task: str, enabled: bool = True) -> None:
        """Set a breakpoint before a task, or clear it (O12)."""
        await self.engine.break_before(flow_key, task, enabled=enabled)

    async def signal(self, event: str, key: str = "", data: Any = None, **how: Unpack[SignalArguments]) -> EventReceipt:
        """Hand an event to every step that waits for it with this key; if none does, keep it for the first to come (E1)."""
        keep = how.get("keep")
        return await self.engine.signal(
            event, key, data, event_id=how.get("id"), keep_ms=None if keep is None else math.ceil(keep * 1000)
        )

    async def cancel(self, flow_key: str, reason: str = "") -> None:
        """Cancel a flow that has not ended yet (O10)."""
        await self.engine.cancel(flow_key, reason)

    async def restart(self, flow_key: str, overrides: Values = None) -> None:
        """Run a stopped flow again from its entry step, in place (O13)."""
        await self.engine.restart(flow_key, given(overrides, "overrides"))

    async def restart_from(self, step_key: str, overrides: Values = None) -> None:
        """Run a step again, in place, and on from there (O13)."""
        await self.engine.restart_from(step_key, given(overrides, "overrides"))

    async def fork(self, step_key: str, overrides: Values = None, tags: Tags | None = None) -> str:
        """Copy a flow that has ended up to this step and run the copy on from there; return its key (O14)."""
        return await self.engine.fork(step_key, given(overrides, "overrides"), tags)

    async def tag(
        self, flow_key: str, tags: TagChanges | None = None, /, **named: TagValue | None
    ) -> dict[str, TagValue]:
        """Set tags of a flow, or remove them with `None`; return all it has then (Q1)."""
        return await self.engine.tag(flow_key, {**(tags or {}), **named})

    async def delete(self, flow_key: str) -> None:
        """Delete a flow with its steps (O9)."""
        await self.engine.delete(flow_key)

    # -- inside

    def _workflow(self, workflow: str | Graph | Path) -> str | Graph:
        """The name of a workflow, or its graph, which is known from then on."""
        if isinstance(workflow, str) and not workflow.endswith((".yaml", ".yml", ".json")):
            return workflow
        found = graphs_of(workflow)
        if len(found) != 1:
            raise BadRequest(f"{workflow} has {len(found)} graphs: give the folder as graphs=…, and name the workflow")
        self._graphs.graphs |= {graph.name: graph for graph in found}
        return found[0]


@contextmanager
def _key_in_details() -> Iterator[None]:
    """Name the flow of a wait that was too long as the client of the service does."""
    try:
        yield
    except TimedOut as error:
        raise TimedOut(error.message, flow_key=error.details.get("flowKey")) from None
