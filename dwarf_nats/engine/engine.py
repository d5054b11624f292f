"""The engine: the facade of everything a host or a service asks for.

It runs flows against one or more databases and reaches the outside through four injected ports: `Graphs` loads a graph by
name, `Tasks` executes one task, `Notices` hears what became of flows, `Signals` tells the other replicas. It needs no NATS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from dwarf_nats.engine.administration import Administration
from dwarf_nats.engine.assembly import new_replica, new_shard
from dwarf_nats.engine.graphs import graph_of_task
from dwarf_nats.engine.lifecycle import Lifecycle
from dwarf_nats.engine.message_sources import MessageSources
from dwarf_nats.engine.operations.all import Operations
from dwarf_nats.engine.peers import PeerSignals
from dwarf_nats.engine.schedules import Schedules
from dwarf_nats.engine.shard import Shard
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.render.history import fits_mermaid
from dwarf_nats.settings import EngineSettings
from dwarf_nats.telemetry.providers import Telemetry

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.new_flows import GivenState
    from dwarf_nats.engine.ports import Ports
    from dwarf_nats.ports import Clock, Store
    from dwarf_nats.workflow.bulk import Bulk, BulkPage
    from dwarf_nats.workflow.explanation import Explanation
    from dwarf_nats.workflow.graph import Graph
    from dwarf_nats.workflow.options import FlowOptions, Query
    from dwarf_nats.workflow.records import (
        EventReceipt,
        FlowCounts,
        FlowSummary,
        GraphInfo,
        Outcome,
        ShardInfo,
        Step,
    )
    from dwarf_nats.workflow.status import Status
    from dwarf_nats.workflow.tags import TagChanges, Tags, TagValue

log = logging.getLogger("dwarf_nats.engine")
Shards: TypeAlias = "list[ShardInfo]"  # inside the class, `list` is the operation
Steps: TypeAlias = "list[Step]"
Summaries: TypeAlias = "list[FlowSummary]"
GraphInfos: TypeAlias = "list[GraphInfo]"
Texts: TypeAlias = list[str]


class Engine(Administration, Schedules, MessageSources):
    """Durable workflow execution on the databases behind `stores`.

    `async with Engine(…) as engine:` starts it and drains it at the end. Every operation raises a `DwarfError` leaf.

    `name`: of this replica, by default made of host and process. `telemetry` is asked once, here, whether it listens.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        ports: Ports,
        settings: EngineSettings | None = None,
        telemetry: Telemetry | None = None,
        *,
        name: str = "",
    ) -> None:
        if not stores:
            raise BadRequest("an engine needs at least one database: give it a DSN")
        self.shards: dict[int, Shard] = {}
        self.replica = replica = new_replica(
            stores, self.shards, ports, settings=settings, telemetry=telemetry, name=name
        )
        """The parts that its shards share. This and `shards` are for tests and for looking into a running engine."""
        self.shards |= {store.shard: new_shard(replica, store) for store in stores}
        self._operations = Operations(self.shards, replica)
        self._lifecycle = Lifecycle(self.shards, replica, self._operations)
        self.peers = PeerSignals(self.shards, replica.backpressure, replica.definitions)
        """Takes the signals of other replicas: the other end of the port `Signals`."""

    # -- start and stop

    @property
    def settings(self) -> EngineSettings:
        """Its settings; `configure` changes some of them."""
        return self.replica.settings

    @property
    def clock(self) -> Clock:
        """The clock it was given, or the machine's."""
        return self.replica.clock

    @property
    def ready(self) -> bool:
        """Started and not stopping."""
        return self._lifecycle.ready

    @property
    def shard_count(self) -> int:
        """The number of its databases."""
        return len(self.shards)

    async def startup(self, *, migrate: bool = True, patient: bool = False) -> None:
        """Open the databases, bring their schemas up to date, take up work.

        If `patient`, one database that is there is enough: the others are taken up when they come, and operations that need
        them raise `Unavailable` meanwhile. Raises `Unusable` naming a database as only a person can mend it, `Unavailable`
        naming one that is away.
        """
        await self._lifecycle.start(migrate=migrate, patient=patient)

    async def add_shard(self, store: Store, *, migrate: bool = True) -> None:
        """Take up one more database while running; new flows go there too once every living replica knows it (O17).

        Its number must be the next one. Raises `BadRequest` otherwise, and for the database of another shard or deployment;
        `Unavailable` if it is away.
        """
        await self._lifecycle.add(store, migrate=migrate)

    def configure(
        self,
        *,
        workers: int | None = None,
        time_budget_ms: int | None = None,
        default_priority: int | None = None,
        pool: int | None = None,
    ) -> None:
        """Change settings while running (O17); they take effect at once. Raises `BadRequest` below 1."""
        self._lifecycle.configure(
            workers=workers, time_budget_ms=time_budget_ms, default_priority=default_priority, pool=pool
        )

    def stop_claiming(self) -> None:
        """Take no more work, as the first step of a drain."""
        self._lifecycle.stop_claiming()

    async def shutdown(self) -> None:
        """Drain (B3): stop claiming, wait for the steps in flight up to `drain_ms`, release the rest at once, close."""
        await self._lifecycle.stop()

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    def _check_ready(self) -> None:
        if not self.ready:
            raise Unavailable("this replica is not running: ask again")

    # -- creating and running flows

    async def create(
        self,
        workflow: str | Graph,
        state: GivenState = None,
        options: FlowOptions | None = None,
        *,
        start: bool = False,
    ) -> str:
        """Create a flow of a workflow (by name, or of a graph given inline); return its key. It runs once started (O1).

        Raises `BadRequest`, `NotFound` (no such workflow), `Conflict` (idempotency key used for something else), `TooLarge`,
        `Unavailable`.
        """
        self._check_ready()
        return (await self._operations.creator.create(workflow, state, options, start=start)).key

    async def create_task(
        self, task: str, state: GivenState = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create a flow of one task, named after it; return its key."""
        return await self.create(graph_of_task(task), state, options, start=start)

    async def continue_(
        self, thread: str, state: GivenState = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Create the next flow of a thread, its state the last final state with `state` merged through the reducers (O15).

        `thread`: any flow key of it. `Conflict` unless its latest flow is completed, `BadRequest` for what cannot be merged.
        """
        self._check_ready()
        return await self._operations.threads.continue_(thread, state, options, start=start)

    async def fork(self, step: str, overrides: GivenState = None, tags: Tags | None = None) -> str:
        """Copy an ended flow up to a step and run on from there, with other `tags` if given; return its key (O14)."""
        return await self._operations.forks.fork(step, overrides, tags)

    async def start(self, flow: str, notify: str = "") -> None:
        """Start a created flow; `notify` names where its outcome is announced (O2). `Conflict` if it is not created."""
        await self._operations.control.start(flow, notify)

    async def run(
        self,
        workflow: str | Graph,
        state: GivenState = None,
        options: FlowOptions | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Create, start and await in one call (O3). `timeout` in seconds; `TimedOut` carries `flowKey`, the flow goes on."""
        self._check_ready()
        return await self._operations.waits.run(workflow, state, options, timeout)

    async def await_(self, flow: str, timeout: float | None = None) -> Outcome:
        """Return the outcome as soon as the flow is stopped (O4). `timeout` in seconds, `None`: for ever; then `TimedOut`."""
        return await self._operations.waits.await_(flow, timeout)

    async def poll(self, flow: str, timeout: float | None = None) -> Outcome:
        """As `await_`, but a timeout answers with the current outcome."""
        return await self._operations.waits.poll(flow, timeout)

    # -- reading

    async def snapshot(self, flow: str) -> Outcome:
        """Return the outcome so far: where the flow stands (O5)."""
        return await self._operations.queries.snapshot(flow)

    async def fingerprint(self, flow: str) -> tuple[str, Status]:
        """Return a digest that changes whenever anything observable about the flow does, and its status (O6)."""
        return await self._operations.queries.fingerprint(flow)

    async def history(self, flow: str) -> Steps:
        """Return the steps of the flow by depth and id, without state and changes; those of subgraphs nested (O7).

        Raises `TooLarge` for more steps than `max_history`: read it with `history_page`.
        """
        return await self._operations.queries.history(flow)

    async def history_page(self, flow: str, limit: int = 100, cursor: str = "") -> tuple[Steps, str]:
        """Return at most `limit` steps of the flow after the cursor, and the cursor of the next page, empty on the last (O7).

        Below a step that called a sub-workflow stands the beginning of its history, of no more steps than a page has; where
        that is not all, the step is `truncated`, and its `sub_flow_key` reads the rest.
        """
        return await self._operations.queries.history_page(flow, limit, cursor)

    async def mermaid(self, flow: str, fits: Callable[[str], bool] = fits_mermaid) -> str:
        """Draw the history as a Mermaid flowchart (O8), with so much folded that it `fits`. Raises `TooLarge` as `history`."""
        return await self._operations.queries.mermaid(flow, fits)

    async def flow_graph(self, flow: str) -> Graph:
        """Return the graph that the flow runs, whatever has become of the registered one (G10)."""
        return await self._operations.queries.flow_graph(flow)

    async def step(self, step: str) -> Step:
        """Return one step, with state, changes and the keys of its neighbours (O7)."""
        return await self._operations.queries.step(step)

    async def explain(self, flow: str) -> Explanation:
        """Explain why the flow stands where it stands: what each living step of it, and of flows it called, waits for (Q2)."""
        return await self._operations.explanations.explain(flow)

    async def list(self, query: Query | None = None, cursor: str = "") -> tuple[Summaries, str]:
        """Return root flows that match, newest first, and the cursor of the next page, empty on the last one (O9)."""
        return await self._operations.queries.list_flows(query, cursor)

    async def count(self, query: Query | None = None) -> FlowCounts:
        """Count the root flows that match by status, up to a bound (O9)."""
        return await self._operations.queries.count(query)

    # -- controlling

    async def purge(self, query: Query) -> int:
        """Delete root flows that match and are not running, at most `limit`, by default 10,000; return how many (O9)."""
        return await self._operations.queries.purge(query)

    async def bulk(self, order: Bulk) -> BulkPage:
        """Carry out one page of a bulk operation (M1): an action for each flow that a query finds, by the rules of the action.

        The page's cursor, in the next order, goes on; it is empty on the last page. A page that is asked for again does nothing
        twice, but that a resume may continue another pause of a flow.
        """
        self._check_ready()
        return await self._operations.bulk.bulk(order)

    async def delete(self, flow: str) -> None:
        """Delete a flow with its steps and subgraph flows (O9). `Conflict` while it runs, `BadRequest` for a subgraph's."""
        await self._operations.control.delete(flow)

    async def cancel(self, flow: str, reason: str = "") -> None:
        """Cancel a flow, and every flow above and below it in the subgraph chain (O10); `Conflict` if it is terminal."""
        await self._operations.control.cancel(flow, reason)

    async def resume(self, flow: str = "", data: Any = None, *, step: str = "") -> None:
        """Continue the oldest interrupt of the flow, or of one it called, with data for its task (O11).

        Given the key of a `step` instead, continue exactly its interrupt (P5). `data`: Python values, or `msgspec.Raw` JSON
        text. `Conflict` if no interrupt is waiting.
        """
        await self._operations.control.resume(flow, data, step=step)

    async def resume_break(self, flow: str = "", overrides: GivenState = None, *, step: str = "") -> None:
        """Continue the oldest breakpoint, or that of a `step`, with overrides (O11, P5). `Conflict` if none is waiting."""
        await self._operations.control.resume_break(flow, overrides, step=step)

    async def signal(
        self, event: str, key: str = "", data: Any = None, *, event_id: str | None = None, keep_ms: int | None = None
    ) -> EventReceipt:
        """Hand an event to every step that waits for it with this key; if none does, keep it for the first to come (E1).

        `event_id`: signalled again within `keep_ms`, it counts once. `keep_ms`: a day by default, 0 does not keep it.
        """
        self._check_ready()
        return await self._operations.signals.signal(event, key, data, event_id=event_id, keep_ms=keep_ms)

    async def tag(self, flow: str, changes: TagChanges) -> dict[str, TagValue]:
        """Set tags of a flow, or remove them with `None`; return all it has then (Q1). With none, only return them."""
        return await self._operations.control.tag(flow, changes)

    async def break_before(self, flow: str, task: str, enabled: bool = True) -> None:
        """Set or clear a breakpoint before the node of that name or url (O12); `Conflict` on a terminal flow."""
        await self._operations.control.break_before(flow, task, enabled=enabled)

    async def restart(self, flow: str, overrides: GivenState = None) -> None:
        """Run a stopped flow again from its entry step, in place, with overrides (O13). `Conflict` if it is not stopped."""
        await self._operations.control.restart(flow, overrides)

    async def restart_from(self, step: str, overrides: GivenState = None) -> None:
        """Rewind a step in place: it runs again, and exactly what it led to is removed (O13). `Conflict` if that runs."""
        await self._operations.control.restart_from(step, overrides)
