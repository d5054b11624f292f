"""The engine: what a host holds.

It runs flows against one or more databases and reaches the outside through four injected ports: `Graphs` loads a graph by
name, `Tasks` executes one task, `Notices` hears what became of flows, `Signals` tells the other replicas. It needs no NATS.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from dwarf_nats.clock import SystemClock
from dwarf_nats.engine import placement
from dwarf_nats.engine.backpressure import Backpressure
from dwarf_nats.engine.deployment import Deployment
from dwarf_nats.engine.gauges import Gauges
from dwarf_nats.engine.graphs import GraphBook, warnings
from dwarf_nats.engine.health import shard_health
from dwarf_nats.engine.maintenance.integrity import sweep
from dwarf_nats.engine.operations import history as histories
from dwarf_nats.engine.operations.control import Steering, only_roots
from dwarf_nats.engine.operations.create import (
    MAX_INT,
    MAX_SEARCH,
    MAX_TEXT,
    Creator,
    check_options,
    check_text,
    refuse_empty,
)
from dwarf_nats.engine.operations.idempotency import Keys
from dwarf_nats.engine.operations.step_links import Walk
from dwarf_nats.engine.peers import PeerSignals
from dwarf_nats.engine.projections import current_outcome, nested, step_of
from dwarf_nats.engine.refilling import Fetcher
from dwarf_nats.engine.shard import Shard
from dwarf_nats.engine.slots import WorkerSlots
from dwarf_nats.errors import BadRequest, DwarfError, NotFound, TimedOut, TooLarge, Unavailable
from dwarf_nats.ports import Unusable
from dwarf_nats.render import fits_mermaid, history_mermaid
from dwarf_nats.rules.rows import FlowRow
from dwarf_nats.settings import EngineSettings
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.telemetry.instruments import Instruments, MeterProvider
from dwarf_nats.telemetry.traces import TracerProvider, Traces
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.keys import Key, Tokens, parse_key
from dwarf_nats.workflow.limits import over
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.records import FlowSummary, GraphInfo, Outcome, ShardHealth, ShardInfo, Step, TaskHealth
from dwarf_nats.workflow.state import State
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Graphs, Logger, Notices, Signals, Store, Tasks

log = logging.getLogger("dwarf_nats.engine")
PURGE_LIMIT = 10_000
LIST_LIMIT = 1_000
LISTED = 100
"""Flows of a page that names no limit."""
MAX_AGE_MS = 10**13
OPEN_AGAIN_SECONDS = 1.0
MAX_WAIT_SECONDS = 100 * 365 * 86_400
INFO_SECONDS = 10.0
ASIDE = 1_000
"""A history of more steps is put together in a thread."""
Shards: TypeAlias = list[ShardInfo]  # inside the class, `list` is the operation
Steps: TypeAlias = list[Step]
GraphInfos: TypeAlias = list[GraphInfo]
Texts: TypeAlias = list[str]
ShardList: TypeAlias = list[Shard]
StateLike = Mapping[str, Any] | bytes | State | None


class Engine:
    """Durable workflow execution on the databases behind `stores`.

    `async with Engine(…) as engine:` starts it and drains it at the end. Every operation raises a `DwarfError` leaf.

    `logger`: where it logs, `dwarf_nats.engine` by default. `meter_provider`, `tracer_provider`: where its metrics and spans
    go (T1, T2), by default to the providers of the process; whether those listen is looked at once, here. `counters`: where it
    counts.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        tasks: Tasks,
        graphs: Graphs | None = None,
        notices: Notices | None = None,
        signals: Signals | None = None,
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
        name: str = "",
        logger: Logger | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        counters: Counters | None = None,
    ) -> None:
        if not stores:
            raise BadRequest("an engine needs at least one database: give it a DSN")
        self.settings = settings if settings is not None else EngineSettings()
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._clock = clock if clock is not None else SystemClock()
        self._log = logger = logger if logger is not None else log
        self.counters = counters if counters is not None else Counters()
        self.traces = Traces(tracer_provider)
        self._instruments = instruments = Instruments(meter_provider, self.counters)
        self._slots = WorkerSlots(self.settings)
        self._fetcher = Fetcher(self.settings, self._clock, self._slots, logger)
        self._tokens = Tokens()
        by_number = {store.shard: store for store in stores}
        self._stores = by_number
        self.backpressure = Backpressure(self._clock, signals, self.counters, logger)
        self._limits = self.settings.limits()
        self.graphs = GraphBook(by_number, graphs, self._is_away, self._limits, self._clock)

        def new_shard(store: Store) -> Shard:
            return Shard(
                store,
                settings=self.settings,
                clock=self._clock,
                tasks=tasks,
                graphs=self.graphs,
                notices=notices,
                signals=signals,
                slots=self._slots,
                fetcher=self._fetcher,
                tokens=self._tokens,
                backpressure=self.backpressure,
                heal=self._heal,
                agree=lambda number, count: self.deployment.heard(number, count),
                instruments=instruments,
                traces=self.traces,
                logger=logger,
            )

        self._new_shard = new_shard
        self._opening: set[asyncio.Task[None]] = set()
        self._shards = {number: new_shard(store) for number, store in by_number.items()}
        self.peers = PeerSignals(self._shards, self.backpressure)
        self._gauges = Gauges(instruments, self._shards, self.backpressure, self._clock, logger)
        self.deployment = Deployment(self._shards, self.settings, logger)
        keys = Keys(self._shards, self.deployment)
        self._creator = Creator(
            self.settings, self.graphs, self._tokens, self._clock, self.traces, self.deployment, keys
        )
        self._steering = Steering(self.settings, self.graphs, self._tokens, self.traces)
        self._ready = False

    # -- lifecycle

    @property
    def ready(self) -> bool:
        """Started and not stopping."""
        return self._ready

    @property
    def shard_count(self) -> int:
        """How many databases it has."""
        return len(self._shards)

    @property
    def clock(self) -> Clock:
        """What it takes the time from."""
        return self._clock

    async def startup(self, *, migrate: bool = True, patient: bool = False) -> None:
        """Open the databases, bring their schemas up to date, take up work.

        Raises `Unusable` naming a database as only a person can mend it, `Unavailable` naming one that is away. If `patient`,
        one that is there is enough: the others are taken up when they come, and what needs them answers 503 meanwhile.
        """
        self._slots.reset()
        among = list(self._shards.values())
        for shard in among:
            shard.store.known = len(among)
        found = await asyncio.gather(*(self._open(shard, migrate=migrate) for shard in among), return_exceptions=True)
        failed = {shard.number: error for shard, error in zip(among, found, strict=True) if error is not None}
        opened = [shard for shard in among if shard.number not in failed]
        grave = [
            error for error in failed.values() if not isinstance(error, Unavailable) or isinstance(error, Unusable)
        ]
        if failed and (grave or not patient or not opened):
            for shard in opened:
                shard.stop_claiming()
                await shard.close()
            raise (grave or [*failed.values()])[0]
        for number, error in failed.items():
            self._log.warning("shard %d is away and taken up when it comes: %s", number, error, extra={"shard": number})
            self._shards[number].away = str(error)
            self._open_later(self._shards[number], migrate=migrate)
        try:
            await self.deployment.agree()
        except Unavailable as error:  # the next beat goes on
            self._log.warning("%s", error)
        except BaseException:
            await self._close_all()
            raise
        self._fetcher.start()
        self._gauges.start()
        self._ready = True

    async def _open(self, shard: Shard, *, migrate: bool) -> None:
        await shard.open(self.name, migrated=migrate, admit=self.deployment.admit)

    async def _close_all(self) -> None:
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for shard in self._shards.values():
            if shard.opened:
                shard.stop_claiming()
                await shard.close()

    async def _heal(self, shard: Shard) -> None:
        await sweep(shard, self.graphs)
        if await shard.store.is_leader():
            await self.deployment.tidy(shard)

    def _open_later(self, shard: Shard, *, migrate: bool) -> None:
        async def until_open() -> None:
            while True:
                await self._clock.sleep(OPEN_AGAIN_SECONDS)
                try:
                    await self._open(shard, migrate=migrate)
                    await self.deployment.agree()
                except DwarfError as error:
                    shard.away = str(error)
                else:
                    shard.away = ""
                    self._log.info("shard %d is here", shard.number, extra={"shard": shard.number})
                    return

        task = asyncio.create_task(until_open(), name=f"dwarf-opener-{shard.number}")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def add_shard(self, store: Store, *, migrate: bool = True) -> None:
        """Take up one more database while running; new flows go there too once every living replica knows it (O17).

        Its number must be the next one. Raises `BadRequest` otherwise, and for the database of another shard or deployment;
        `Unavailable` if it is away.
        """
        following = max(self._shards) + 1
        if store.shard != following:
            raise BadRequest(
                f"the next shard is number {following}, got {store.shard}: shards are only added, in order"
            )
        shard = self._new_shard(store)
        store.known = following
        await self._open(shard, migrate=migrate)
        self._stores[store.shard] = store
        try:
            await self.graphs.share(store.shard)
        except BaseException:
            del self._stores[store.shard]
            shard.stop_claiming()
            await shard.close()
            raise
        self._shards[store.shard] = shard
        for one in self._shards.values():
            one.store.known = following
            with contextlib.suppress(Unavailable):  # its next beat tells
                await one.store.heartbeat(self.name)
        await self.deployment.agree()

    def _is_away(self, number: int) -> bool:
        shard = self._shards.get(number)
        return shard is None or bool(shard.away)

    def stop_claiming(self) -> None:
        """Take no more work, as the first step of a drain."""
        self._fetcher.stop()
        for shard in self._shards.values():
            shard.stop_claiming()

    async def shutdown(self) -> None:
        """Drain (B3): stop claiming, wait for tasks in hand up to `drain_ms`, give back the rest at once, close."""
        if not self._ready:
            return
        self._ready = False
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        self.stop_claiming()
        if self.settings.drain_ms:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.drain_ms / 1000):
                    await self._slots.empty.wait()
        await self._fetcher.close()
        for shard in self._shards.values():
            await shard.release_in_flight()
        await asyncio.gather(*(shard.close() for shard in self._shards.values()))
        await self._gauges.close()

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    def configure(
        self,
        *,
        workers: int | None = None,
        time_budget_ms: int | None = None,
        default_priority: int | None = None,
        pool: int | None = None,
    ) -> None:
        """Change settings while running; they take effect at once (O17). `add_shard` adds a database.

        Raises `BadRequest` below 1.
        """
        for name, value in (
            ("workers", workers),
            ("time_budget_ms", time_budget_ms),
            ("default_priority", default_priority),
            ("pool", pool),
        ):
            if value is not None:
                if value < 1:
                    raise BadRequest(f"setting {name} must be at least 1, got {value}")
                setattr(self.settings, name, value)
        self._slots.resized()
        if pool is not None:
            for shard in self._shards.values():
                shard.store.resize(pool)

    # -- making and running flows

    async def create(
        self,
        workflow: str | Graph,
        state: StateLike = None,
        options: FlowOptions | None = None,
        *,
        start: bool = False,
    ) -> str:
        """Make a flow of a workflow (by name, or of a graph given inline); its key. It runs once started (O1).

        Raises `BadRequest`, `NotFound` (no such workflow), `Conflict` (idempotency key used for something else), `TooLarge`,
        `Unavailable`.
        """
        shard = self._place(options)
        thread = await self._thread(options)
        return (await self._creator.create(shard, thread, workflow, state, options, start=start)).key

    async def create_task(
        self, task: str, state: StateLike = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Make a flow of one task, named after it; its key."""
        return await self.create(_single(task), state, options, start=start)

    async def start(self, flow: str, notify: str = "") -> None:
        """Start a created flow; `notify` names where its outcome is announced (O2). `Conflict` if it is not created."""
        key = parse_key(flow)
        if notify:
            check_subject_name(notify, "notify target")
        shard = self._shard(key)
        row = await shard.store.flow(key)
        await shard.start(row, notify)

    async def run(
        self,
        workflow: str | Graph,
        state: StateLike = None,
        options: FlowOptions | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Create, start and await in one call (O3). `timeout` in seconds; `TimedOut` carries `flowKey`, the flow goes on."""
        shard = self._place(options)
        thread = await self._thread(options)
        created = await self._creator.create(shard, thread, workflow, state, options, start=True, wait=True)
        return await self._wait(created.shard, created.key, created.flow_id, created.waiting, timeout)

    async def await_(self, flow: str, timeout: float | None = None) -> Outcome:
        """The outcome as soon as the flow is stopped; `TimedOut` otherwise (O4). `timeout` in seconds, `None`: for ever."""
        key = parse_key(flow)
        shard = self._shard(key)
        future = shard.waiters.add(key.id)
        try:
            outcome = await current_outcome(shard.store, await shard.store.flow(key))
        except BaseException:
            shard.waiters.drop(key.id, future)
            raise
        if outcome.status.stopped:
            shard.waiters.drop(key.id, future)
            return outcome
        return await self._wait(shard, flow, key.id, future, timeout)

    async def poll(self, flow: str, timeout: float | None = None) -> Outcome:
        """As `await_`, but a timeout answers with the current outcome."""
        try:
            return await self.await_(flow, timeout)
        except TimedOut:
            return await self.snapshot(flow)

    async def _wait(
        self, shard: Shard, flow: str, flow_id: int, future: asyncio.Future[Outcome | None], timeout: float | None
    ) -> Outcome:
        try:
            async with asyncio.timeout(_seconds(timeout)):
                while (outcome := await future) is None:  # somebody says it stopped: the database knows
                    future = shard.waiters.add(flow_id)
                    current = await self.snapshot(flow)
                    if current.status.stopped:
                        return current
                return outcome
        except TimeoutError:
            raise TimedOut(
                f"flow {shard.number}-{flow_id} did not stop within {timeout} s; it goes on: await it again",
                flowKey=flow,
            ) from None
        finally:
            shard.waiters.drop(flow_id, future)

    # -- reading

    async def snapshot(self, flow: str) -> Outcome:
        """Where the flow stands (O5)."""
        key = parse_key(flow)
        store = self._shard(key).store
        return await current_outcome(store, await store.flow(key))

    async def fingerprint(self, flow: str) -> tuple[str, Status]:
        """A digest that changes whenever anything observable about the flow does, and its status (O6)."""
        key = parse_key(flow)
        store = self._shard(key).store
        facts = await store.fingerprint(await store.flow(key))
        if not facts:
            raise NotFound(f"no flow {key.public_id}: it was deleted")
        return hashlib.sha256("|".join(facts).encode()).hexdigest()[:32], Status(facts[0])

    async def history(self, flow: str) -> list[Step]:
        """The steps of the flow by depth and id, without state and changes; those of subgraphs nested, however deep (O7).

        Raises `TooLarge` for more steps than `max_history`: read it with `history_page`.
        """
        key = parse_key(flow)
        store = self._shard(key).store
        flows = await store.called(await store.flow(key))
        flow_ids = [one.flow_id for one in flows]
        most = self._limits.max_history
        if await store.count_steps(flow_ids, most) > most:
            remedy = "read its history page by page"
            raise TooLarge(over(f"flow {key.public_id} has more than {most} steps", "max_history", most, remedy))
        steps = await store.steps(flow_ids)
        # What takes long leaves the others their turn.
        if len(steps) > ASIDE:
            return await asyncio.to_thread(nested, key.shard, key.id, flows, steps)
        return nested(key.shard, key.id, flows, steps)

    async def history_page(self, flow: str, limit: int = 100, cursor: str = "") -> tuple[Steps, str]:
        """At most `limit` steps of the flow after the cursor, and the cursor of the next page, empty on the last (O7).

        Below a step that called a sub-workflow stands the beginning of its history, of no more steps than a page has; where
        that is not all, the step is `truncated`, and its `sub_flow_key` reads the rest.
        """
        if not 1 <= limit <= LIST_LIMIT:
            raise BadRequest(f"limit must be between 1 and {LIST_LIMIT}, got {limit}")
        key = parse_key(flow)
        store = self._shard(key).store
        return await histories.page(store, await store.flow(key), cursor, limit)

    async def mermaid(self, flow: str, fits: Callable[[str], bool] = fits_mermaid) -> str:
        """The history as a Mermaid flowchart (O8), with so much folded that it `fits`. Raises `TooLarge` as `history`."""
        key = parse_key(flow)
        row = await self._shard(key).store.flow(key)
        return await asyncio.to_thread(history_mermaid, await self.history(flow), row.workflow, fits)

    async def step(self, step: str) -> Step:
        """One step, with state, changes and the keys of its neighbours (O7)."""
        key = parse_key(step, "step")
        store = self._shard(key, "step").store
        row = await store.step(key)
        record = step_of(key.shard, row, whole=True)
        flow = await store.flow_by_id(row.flow_id)
        if flow is None:
            return record
        walk = Walk(store, flow.root_id)
        child = await walk.child(row)
        if child is not None:
            record.subgraph, record.sub_workflow = True, child.workflow
            record.sub_flow_key = f"{key.shard}-{child.flow_id}-{child.token}"
        before, after = await walk.preceding(row), await walk.following(row)
        record.prev_key = None if before is None else f"{key.shard}-{before.step_id}-{before.token}"
        record.next_key = None if after is None else f"{key.shard}-{after.step_id}-{after.token}"
        return record

    async def list(self, query: Query | None = None, cursor: str = "") -> tuple[list[FlowSummary], str]:
        """Root flows that match, newest first, and the cursor of the next page, empty on the last one (O9)."""
        query = query if query is not None else Query()
        limit = _limit(query, LISTED, LIST_LIMIT)
        among, thread_id = await self._queried(query)
        return await placement.page(among, query, limit, thread_id, cursor)

    async def purge(self, query: Query) -> int:
        """Delete root flows that match and are not running, at most `limit`, by default 10,000; how many (O9)."""
        limit = _limit(query, PURGE_LIMIT, PURGE_LIMIT)
        if query.status is None and query.workflow is None and query.older_than_ms is None:
            raise BadRequest(
                "purge needs at least one of status, workflow, olderThanMs, so that nothing goes by accident"
            )
        if query.status is Status.RUNNING:
            raise BadRequest("running flows are never purged: cancel them first")
        among, thread_id = await self._queried(query)
        return await placement.purge(among, query, limit, thread_id)

    async def delete(self, flow: str) -> None:
        """Delete a flow with its steps and subgraph flows; `Conflict` while it runs (O9).

        `BadRequest` for the flow of a subgraph.
        """
        key = parse_key(flow)
        await self._steering.delete(self._shard(key), key)

    async def cancel(self, flow: str, reason: str = "") -> None:
        """Cancel a flow, and every flow above and below it in the subgraph chain (O10); `Conflict` if it is terminal."""
        key = parse_key(flow)
        await self._steering.cancel(self._shard(key), key, reason)

    async def resume(self, flow: str, data: Any = None) -> None:
        """Continue the oldest interrupt of the flow, or of one it called, with data for its task (O11).

        `data`: Python values, or `msgspec.Raw` JSON text. `Conflict` if no interrupt is waiting.
        """
        key = parse_key(flow)
        await self._steering.resume(self._shard(key), key, data)

    async def resume_break(self, flow: str, overrides: StateLike = None) -> None:
        """Continue the oldest breakpoint, with fields of the step's state replaced; a null removes one (O11).

        `Conflict` if no breakpoint is waiting.
        """
        key = parse_key(flow)
        await self._steering.resume_break(self._shard(key), key, overrides)

    async def break_before(self, flow: str, task: str, enabled: bool = True) -> None:
        """Set or clear a breakpoint before the node of that name or url (O12); `Conflict` on a terminal flow."""
        key = parse_key(flow)
        await self._steering.break_before(self._shard(key), key, task, enabled=enabled)

    # -- running again

    async def restart(self, flow: str, overrides: StateLike = None) -> None:
        """A stopped flow runs again from its entry step, in place, with fields of the entry state replaced (O13).

        `Conflict` if it is not stopped, `BadRequest` for a subgraph's flow.
        """
        key = parse_key(flow)
        await self._steering.restart(self._shard(key), key, overrides)

    async def restart_from(self, step: str, overrides: StateLike = None) -> None:
        """Rewind a step in place: it runs again, and exactly what it led to is removed (O13).

        `Conflict` on a cancelled flow, and if the step or what it led to is not at rest.
        """
        key = parse_key(step, "step")
        await self._steering.restart_from(self._shard(key, "step"), key, overrides)

    async def fork(self, step: str, overrides: StateLike = None) -> str:
        """Copy a terminal flow up to a step and run on from there; the key of the copy (O14).

        `Conflict` if the flow has not ended.
        """
        key = parse_key(step, "step")
        return await self._steering.fork(self._shard(key, "step"), key, overrides)

    async def continue_(
        self, thread: str, state: StateLike = None, options: FlowOptions | None = None, *, start: bool = False
    ) -> str:
        """Make the next flow of a thread, its state the last final state with `state` merged through the reducers (O15).

        `thread`: any flow key of it. `Conflict` unless its latest flow is completed, `BadRequest` for what cannot be merged.
        """
        if not self._ready:
            raise Unavailable("this replica is not running: ask again")
        key = parse_key(thread, "thread")
        shard = self._shard(key, "thread")
        row = await shard.store.thread(key)
        only_roots(key.shard, row, "continued")
        return await self._creator.continue_(shard, row, state, options, start=start)

    async def shard_info(self) -> Shards:
        """Health and size of every shard (O16)."""

        async def ask(shard: Shard) -> ShardInfo:
            before = time.perf_counter()
            try:
                async with asyncio.timeout(INFO_SECONDS):
                    flows, steps = await shard.store.size()
            except (DwarfError, TimeoutError) as error:
                return ShardInfo(shard.number, error=str(error) or f"no answer within {INFO_SECONDS:g} s")
            latency_ms = round((time.perf_counter() - before) * 1000, 3)
            joining = shard.number > self.deployment.count > 0
            return ShardInfo(shard.number, "", latency_ms, flows, steps, joining)

        return [*await asyncio.gather(*(ask(shard) for shard in self._shards.values()))]

    def health(self) -> Sequence[ShardHealth]:
        """Whether it does its duties to each shard, from what its upkeep knows: nothing is asked."""
        return [shard_health(shard, self._clock) for shard in self._shards.values()]

    def dead_jobs(self) -> Sequence[str]:
        """Jobs of its own, beside those of the shards, that have ended and should not."""
        return self._fetcher.dead_jobs() if self._ready else ()

    async def breaker_tripped(self, task: str) -> bool:
        """Whether the breaker of a task, named by its url, is tripped somewhere in the deployment (O16)."""
        check_subject_name(task, "task")
        return await self.backpressure.tripped(task)

    def task_health(self) -> Sequence[TaskHealth]:
        """The tasks this replica holds back, by url: what their valves allow, and why their breakers are tripped."""
        return self.backpressure.tasks()

    # -- graphs

    async def put_graph(self, graph: Graph) -> GraphInfo:
        """Register a graph under its name. `BadRequest` if it is not sound."""
        return await self.graphs.put(graph)

    async def validate_graph(self, graph: Graph) -> Texts:
        """What looks like a mistake in it (G11). `BadRequest` for a graph that is not sound, `TooLarge` beyond the limits."""
        return await warnings(await self.graphs.check(graph))

    async def get_graph(self, name: str) -> Graph:
        """The registered graph; `NotFound`."""
        return await self.graphs.get(name)

    async def delete_graph(self, name: str) -> None:
        """Forget a registered graph; flows made of it keep theirs. `NotFound`."""
        await self.graphs.delete(name)

    async def list_graphs(self) -> GraphInfos:
        """What is registered, by name."""
        return await self.graphs.list()

    # -- helpers

    def _shard(self, key: Key, what: str = "flow") -> Shard:
        if self.deployment.count >= key.shard > len(self._shards):
            raise self.deployment.unknown(key.shard)
        return placement.of_key(self._shards, key, what)

    def _place(self, options: FlowOptions | None) -> Shard:
        """The shard of a new flow: its thread's, else any (O1)."""
        if not self._ready:
            raise Unavailable("this replica is not running: ask again")
        if options is not None:
            check_options(options)
        if options is not None and options.thread is not None:
            return self._shard(parse_key(options.thread, "thread"), "thread")
        return self.deployment.any_shard()

    async def _thread(self, options: FlowOptions | None) -> FlowRow | None:
        if options is None or options.thread is None:
            return None
        key = parse_key(options.thread, "thread")
        row = await self._shard(key, "thread").store.thread(key)
        only_roots(key.shard, row, "joined")
        return row

    async def _queried(self, query: Query) -> tuple[ShardList, int | None]:
        """The shards a query is about, and the id of its thread."""
        _check_query(query)
        among = placement.chosen(self._shards, query)
        if query.thread is None:
            return among, None
        key = parse_key(query.thread, "thread")
        thread = await self._shard(key, "thread").store.thread(key)
        return [shard for shard in among if shard.number == key.shard], thread.thread_id


def _seconds(timeout: float | None) -> float | None:
    """A wait as the event loop takes it: one that is longer than a century is one without end."""
    if timeout is not None and not timeout >= 0:
        raise BadRequest(f"timeout must be at least 0 seconds, got {timeout}")
    return timeout if timeout is None or timeout < MAX_WAIT_SECONDS else None


def _limit(query: Query, default: int, most: int) -> int:
    limit = default if query.limit is None else query.limit
    if not 1 <= limit <= most:
        raise BadRequest(f"limit must be between 1 and {most}, got {limit}")
    return limit


def _check_query(query: Query) -> None:
    refuse_empty(workflow=query.workflow, threadKey=query.thread, task=query.task, search=query.search)
    for name, text, most in (
        ("workflow", query.workflow, MAX_TEXT),
        ("task", query.task, 2 * MAX_TEXT),
        ("fairnessKey", query.fairness_key, MAX_TEXT),
        ("search", query.search, MAX_SEARCH),
    ):
        check_text(text or "", name, most)
    for name, number, limit in (
        ("priority", query.priority, MAX_INT),
        ("olderThanMs", query.older_than_ms, MAX_AGE_MS),
        ("newerThanMs", query.newer_than_ms, MAX_AGE_MS),
    ):
        if number is not None and not 0 <= number <= limit:
            raise BadRequest(f"{name} must be between 0 and {limit}, got {number}")


def _single(task: str) -> Graph:
    check_subject_name(task, "task")
    graph = Graph(task)
    graph.add_task(task)
    graph.add_transition(task, "END")
    return graph
