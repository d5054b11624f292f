"""Creation of flows (O1)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from dwarf_nats.engine.operations.idempotency import in_use
from dwarf_nats.engine.projections import current_outcome, flow_key, with_final_state
from dwarf_nats.errors import BadRequest, Conflict, NotFound, TooLarge, Unavailable
from dwarf_nats.ports import DatabaseAway
from dwarf_nats.rules import state_refs
from dwarf_nats.rules.steps import FlowContext, NewFlow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.reducers import combine
from dwarf_nats.workflow.state import Raw, State, check_json, decode_state, encode_state, encode_value, state_from
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.deployment import Deployment
    from dwarf_nats.engine.graphs import GraphBook
    from dwarf_nats.engine.operations.idempotency import Keys
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Clock
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.telemetry.traces import Traces, Workflow
    from dwarf_nats.workflow.keys import Tokens
    from dwarf_nats.workflow.records import Outcome

DEFAULTS = FlowOptions()
MAX_TEXT = 256
TRIES = 50
"""A key or a thread that changes while it is looked at is looked at again, so often."""
MAX_SEARCH = 256
MAX_INT = 2**31 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


@dataclass(slots=True)
class Created:
    """A flow that was made, or found by its idempotency key. `waiting` is set if the outcome was asked for."""

    shard: Shard
    key: str
    flow_id: int
    waiting: asyncio.Future[Outcome | None]


class Creator:
    """Turns what a caller gave into a flow in the database."""

    def __init__(
        self,
        settings: EngineSettings,
        graphs: GraphBook,
        tokens: Tokens,
        clock: Clock,
        traces: Traces,
        deployment: Deployment,
        keys: Keys,
    ) -> None:
        self._deployment = deployment
        self._keys = keys
        self._traces = traces
        self._settings = settings
        self._limits = settings.limits()
        self._graphs = graphs
        self._tokens = tokens
        self._clock = clock

    async def create(
        self,
        shard: Shard,
        thread: FlowRow | None,
        workflow: str | Graph,
        state: Mapping[str, Any] | bytes | State | None,
        options: FlowOptions | None,
        *,
        start: bool,
        wait: bool = False,
    ) -> Created:
        """Check and insert a flow, its options checked already; `wait` has `Created.waiting` resolved when it stops.

        `shard`: where it is to lie, unless its idempotency key says where.
        """
        options = options if options is not None else DEFAULTS
        baggage = self._baggage(options.baggage)
        initial = self._state(state)
        if isinstance(workflow, str):
            check_subject_name(workflow, "workflow")
        if options.idempotency_key is not None:
            return await self._create_keyed(workflow, initial, baggage, options, start=start, wait=wait)
        graph = await self._graph(workflow, baggage)
        for _ in range(TRIES):
            try:
                created = await self._make(shard, thread, graph, initial, baggage, options, start=start, wait=wait)
            except DatabaseAway as error:
                if error.undecided or thread is not None:
                    raise
                other = self._deployment.other_than(shard)  # nothing was made: any shard will do
                if other is None:
                    raise
                shard = other
                continue
            if isinstance(created, Created):
                return created
        raise Unavailable("the database took too long, again and again, to create the flow: ask again")

    async def _graph(self, workflow: str | Graph, baggage: Raw) -> Graph:
        if isinstance(workflow, str):
            return await self._graphs.find(workflow, baggage)
        return await self._graphs.admit(workflow)

    async def _create_keyed(
        self, workflow: str | Graph, state: State, baggage: Raw, options: FlowOptions, *, start: bool, wait: bool
    ) -> Created:
        """The flow of an idempotency key: the one that was made before, else a new one on the key's home (O1)."""
        key = options.idempotency_key or ""
        digest = _request_digest(workflow if isinstance(workflow, str) else workflow.name, state)
        graph: Graph | None = None
        for _ in range(TRIES):
            home, count = await self._deployment.home(options.fairness_key, key)
            # Before the graph is looked for: it may be gone by now.
            before = await self._made_before(digest, options, start=start, wait=wait)
            if before is not None:
                return before
            graph = graph if graph is not None else await self._graph(workflow, baggage)
            made = await self._make(home, None, graph, state, baggage, options, start=start, wait=wait, shards=count)
            if isinstance(made, Created):
                return made
            await self._keys.settle(home, made)
        raise Unavailable("the flow of this idempotency key is made, deleted or moved this moment: ask again")

    async def _make(
        self,
        shard: Shard,
        thread: FlowRow | None,
        graph: Graph,
        state: State,
        baggage: Raw,
        options: FlowOptions,
        *,
        start: bool,
        wait: bool,
        shards: int = 0,
    ) -> Created | NewFlow:
        """Insert a flow; what was to be inserted if its key is taken, the number of shards has changed, or it took long."""
        new = await self._new_flow(shard, thread, graph, state, baggage, options, start=start)
        new.shards, new.reserves = shards, bool(shards)
        flow_id = new.facts.flow_id
        span = self._trace(new)
        waiting = shard.waiters.add(flow_id) if wait else asyncio.get_running_loop().create_future()
        # A start time is for the database's clock to judge: such a flow stands in line.
        new.running = start and new.start_at is None and shard.reserve(new.facts.priority, new.url)
        try:
            created_at = await asyncio.shield(self._inserted(shard, new))
        except BaseException:
            shard.waiters.drop(flow_id, waiting)
            raise
        if created_at is None:
            shard.waiters.drop(flow_id, waiting)
            self._graphs.doubt(shard.number, new.facts.digest)
            return new
        if span is not None:
            span.end()
        return Created(shard, new.facts.key, flow_id, waiting)

    async def continue_(
        self,
        shard: Shard,
        member: FlowRow,
        state: Mapping[str, Any] | bytes | State | None,
        options: FlowOptions | None,
        *,
        start: bool,
    ) -> str:
        """The next flow of the thread of `member` (O15); its key."""
        options = options if options is not None else DEFAULTS
        check_options(options)
        if options.thread is not None:
            raise BadRequest("options.threadKey has no place in a continue: the thread is given by threadKey itself")
        given = self._state(state)
        digest = _request_digest(f"thread {shard.number}-{member.thread_id}", given)
        taken: tuple[Shard, NewFlow] | None = None
        try:
            for _ in range(TRIES):
                # Read before the key is looked for: if a request with the same key made it, that is found then.
                latest = await shard.store.latest_of_thread(member.thread_id)
                home, count = shard, 0
                if options.idempotency_key is not None:
                    home, count = await self._deployment.home(options.fairness_key, options.idempotency_key)
                    before = await self._made_before(digest, options, start=start, wait=False)
                    if before is not None:
                        return before.key
                if latest is None or latest.status is not Status.COMPLETED:
                    status = "gone" if latest is None else latest.status
                    raise Conflict(f"the latest flow of the thread is {status}: only a completed one can be continued")
                try:
                    latest = await with_final_state(shard.store, latest)
                except state_refs.DanglingRef:  # it runs again, or was deleted
                    continue
                new = await self._next_flow(shard, latest, given, options, digest, start=start)
                new.shards, new.reserves = count, bool(count) and home is shard
                if home is not shard:
                    if not await self._keys.reserve(home, new):
                        continue
                    taken = home, new
                key = await self._continued(shard, latest, new)
                if key is not None:
                    return key
                if new.reserves:
                    await self._keys.settle(home, new)
        except (Conflict, BadRequest, NotFound, TooLarge):
            if taken is not None:
                await self._keys.give_up(*taken)
            raise
        raise Unavailable("the thread or its idempotency key is changed again and again this moment: ask again")

    async def _continued(self, shard: Shard, latest: FlowRow, new: NewFlow) -> str | None:
        """Insert the next flow of a thread; its key, or nothing if somebody else used the key or continued the thread."""
        span = self._trace(new, latest.trace)
        created_at = await shard.store.create_next(latest, new)
        if created_at is None or created_at < 0:
            return None
        if span is not None:
            span.end()
        self._created(shard, new, created_at)
        return new.facts.key

    def _trace(self, new: NewFlow, *follows: str) -> Workflow | None:
        """Begin the root span of a flow; it is ended once the flow is there (T2)."""
        span = self._traces.workflow(new.facts.public_id, new.facts.workflow, follows=[one for one in follows if one])
        if span is not None:
            new.facts.trace = span.carried
        return span

    async def _next_flow(
        self, shard: Shard, latest: FlowRow, given: State, options: FlowOptions, digest: str, *, start: bool
    ) -> NewFlow:
        graph = await self._graphs.frozen(shard.number, latest.graph_digest)
        state = combine(graph.reducers, decode_state(latest.final_state or "{}"), [given])
        self._limits.check_bytes(len(encode_state(state)), "the merged state")
        baggage = Raw(latest.baggage.encode()) if options.baggage is None else self._baggage(options.baggage)
        new = await self._new_flow(shard, latest, graph, state, baggage, options, start=start)
        new.request_digest = digest if options.idempotency_key is not None else ""
        return new

    async def _inserted(self, shard: Shard, new: NewFlow) -> int | None:
        """Insert and set going. Shielded by the caller: once the group is on its way it is followed through."""
        try:
            created_at = await shard.committer.create(new)
        except BaseException:
            if new.running:
                shard.release(new.url)
            raise
        if created_at is None:
            if new.running:
                shard.release(new.url)
            return None
        self._created(shard, new, created_at)
        return created_at

    def _created(self, shard: Shard, new: NewFlow, created_at: int) -> None:
        """What follows the commit: its first step is dispatched or looked for, and the world is told."""
        facts = new.facts
        if new.start:
            shard.counters.flows_started.add(facts.workflow)
        if shard.debug:
            shard.log.debug(
                "flow %s of workflow %s is created", facts.key, facts.workflow,
                extra={"flow_id": facts.public_id, "workflow": facts.workflow, "flow_key": facts.key},
            )  # fmt: skip
        changed = [shard.change(facts.flow_id, facts.thread_id, facts.workflow, Status.CREATED, created_at)]
        if new.start:
            changed.append(shard.change(facts.flow_id, facts.thread_id, facts.workflow, Status.RUNNING, created_at))
        pending = []
        if new.running:
            shard.first_step(new, created_at)
        elif new.start:
            due = max(new.start_at or 0, created_at)
            shard.ready_queue.hint_of(facts, due - created_at)
            pending = [(new.step_id, facts.priority, due)]
        shard.announce(changed, pending)

    async def _new_flow(
        self,
        shard: Shard,
        thread: FlowRow | None,
        graph: Graph,
        state: State,
        baggage: Raw,
        options: FlowOptions,
        *,
        start: bool,
    ) -> NewFlow:
        digest, kept_until = await self._graphs.saved(shard.number, graph)
        await shard.flow_ids.ensure()
        flow_id = shard.flow_ids.take()
        await shard.step_ids.ensure()
        step_id = shard.step_ids.take()
        token = self._tokens()
        facts = FlowContext(
            shard.number, flow_id, token, graph.name, digest, graph, baggage,
            options.priority if options.priority is not None else self._settings.default_priority,
            options.fairness_key, options.fairness_weight, options.time_budget_ms, options.notify or "",
            thread.thread_id if thread is not None else flow_id, 0, 0, root_id=flow_id,
        )  # fmt: skip
        entry = graph.nodes[graph.entry_point]
        return NewFlow(
            facts,
            state,
            encode_state(state),
            step_id,
            self._tokens(),
            entry.name,
            entry.url,
            thread.thread_token if thread is not None else token,
            start,
            start_at=_microseconds(options.start_at),
            idempotency_key=options.idempotency_key or "",
            request_digest=_request_digest(graph.name, state) if options.idempotency_key is not None else "",
            delete_on_completion=options.delete_on_completion,
            kept_until=kept_until,
        )

    async def _made_before(self, digest: str, options: FlowOptions, *, start: bool, wait: bool) -> Created | None:
        """The flow that the same idempotency key made before, on whichever shard (O1), if there is one."""
        key = options.idempotency_key or ""
        found = await self._keys.made(options.fairness_key, key)
        if found is None:
            return None
        shard, row = found
        if row.request_digest != digest:
            raise in_use(key)
        waiting = shard.waiters.add(row.flow_id) if wait else asyncio.get_running_loop().create_future()
        if start and row.status is Status.CREATED:
            with contextlib.suppress(Conflict):  # somebody else started it meanwhile
                await shard.start(row)
        if wait:
            again = await shard.store.flow_by_id(row.flow_id)
            if again is not None and again.status.stopped and not waiting.done():
                outcome = await current_outcome(shard.store, again)
                if outcome.status.stopped and not waiting.done():
                    waiting.set_result(outcome)
        return Created(shard, flow_key(shard.number, row), row.flow_id, waiting)

    def _state(self, state: Mapping[str, Any] | bytes | State | None) -> State:
        if isinstance(state, bytes):
            self._limits.check_bytes(len(state), "the state")
        initial = state_from(state, max_depth=self._limits.max_depth)
        if not isinstance(state, bytes):
            self._limits.check_bytes(len(encode_state(initial)), "the state")
        return initial

    def _baggage(self, value: Any) -> Raw:
        text = bytes(value) if isinstance(value, Raw) else encode_value({} if value is None else value, "baggage")
        self._limits.check_bytes(len(text), "the baggage")
        check_json(text, "baggage", self._limits.max_depth)
        return Raw(text)


def check_options(options: FlowOptions) -> None:
    """Raise `BadRequest` for options no flow can have."""
    if options.priority is not None and not 1 <= options.priority <= MAX_INT:
        raise BadRequest(f"priority must be at least 1 (1 is the best) and at most {MAX_INT}, got {options.priority}")
    if not 0 < options.fairness_weight < float("inf"):
        raise BadRequest(f"fairnessWeight must be above 0, got {options.fairness_weight}")
    if options.time_budget_ms is not None and not 1 <= options.time_budget_ms <= MAX_INT:
        raise BadRequest(f"timeBudgetMs must be between 1 and {MAX_INT}, got {options.time_budget_ms}")
    refuse_empty(idempotencyKey=options.idempotency_key, notify=options.notify, threadKey=options.thread)
    for name, text in (("fairnessKey", options.fairness_key), ("idempotencyKey", options.idempotency_key or "")):
        check_text(text, name, MAX_TEXT)
    if options.notify is not None:
        check_subject_name(options.notify, "notify target")
    if options.idempotency_key is not None and options.thread is not None:
        raise BadRequest("idempotencyKey and threadKey cannot be used together: leave one out")
    _microseconds(options.start_at)


def refuse_empty(**texts: str | None) -> None:
    """Raise `BadRequest` for a text that is given but empty: an unset variable of the caller must not mean none, or all."""
    for name, text in texts.items():
        if text == "":
            raise BadRequest(f"{name} is empty: leave it out, or give it a value")


def check_text(text: str, what: str, most: int | None = None) -> None:
    """Raise `BadRequest` for text that no database column holds, and for more than `most` characters."""
    if most is not None and len(text) > most:
        raise BadRequest(f"{what} must be at most {most} characters, got {len(text)}")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRequest(f"{what} must not contain NUL characters or lone surrogates")


def _microseconds(at: datetime | None) -> int | None:
    """Since the epoch. Raises `BadRequest` for a time without a zone, or one that is not within the years 1970 to 9999 UTC."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise BadRequest("startAt needs a time zone: use an aware datetime")
    try:
        micros = (at - _EPOCH) // timedelta(microseconds=1)
    except (OverflowError, ValueError):
        micros = -1
    if not 0 <= micros <= _LAST:
        raise BadRequest(f"startAt must be within the years 1970 to 9999 in UTC, got {at.isoformat()}")
    return micros


def _request_digest(workflow: str, state: State) -> str:
    canonical = orjson.dumps(orjson.loads(encode_state(state)), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(workflow.encode() + b"\0" + canonical).hexdigest()
