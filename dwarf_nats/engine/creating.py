"""Creation of flows (O1)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from dwarf_nats.engine.reading import current_outcome, flow_key, with_final_state
from dwarf_nats.errors import BadRequest, Conflict, Unavailable
from dwarf_nats.rules.settlement import FlowFacts, NewFlow
from dwarf_nats.workflow import lending
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.options import FlowOptions
from dwarf_nats.workflow.reducers import combine
from dwarf_nats.workflow.state import Raw, State, check_json, decode_state, encode_state, encode_value, state_from
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.graphs import GraphBook
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Clock
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.telemetry.traces import Traces, Workflow
    from dwarf_nats.workflow.keys import Tokens
    from dwarf_nats.workflow.records import Outcome
    from dwarf_nats.workflow.rows import FlowRow

DEFAULTS = FlowOptions()
MAX_TEXT = 256
MAX_SEARCH = 256
MAX_INT = 2**31 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


@dataclass(slots=True)
class Created:
    """A flow that was made, or found by its idempotency key. `waiting` is set if the outcome was asked for."""

    key: str
    flow_id: int
    waiting: asyncio.Future[Outcome | None]


class Creator:
    """Turns what a caller gave into a flow in the database."""

    def __init__(
        self, settings: EngineSettings, graphs: GraphBook, tokens: Tokens, clock: Clock, traces: Traces
    ) -> None:
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
        others: Sequence[Shard],
        *,
        start: bool,
        wait: bool = False,
    ) -> Created:
        """Check and insert a flow, its options checked already; `wait` has `Created.waiting` resolved when it stops.

        `others`: the other shards, where its idempotency key may be known.
        """
        options = options if options is not None else DEFAULTS
        baggage = self._baggage(options.baggage)
        initial = self._state(state)
        if isinstance(workflow, str):
            check_subject_name(workflow, "workflow")
        if options.idempotency_key is not None:  # before the graph is looked for: it may be gone by now
            name = workflow if isinstance(workflow, str) else workflow.name
            digest = _request_digest(name, initial)
            before = await self._made_somewhere([shard, *others], digest, options, start=start, wait=wait)
            if before is not None:
                return before
        graph = (
            await self._graphs.find(workflow, baggage)
            if isinstance(workflow, str)
            else await self._graphs.admit(workflow)
        )
        new = await self._new_flow(shard, thread, graph, initial, baggage, options, start=start)
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
            made = await self._made_before(shard, new.request_digest, options, start=start, wait=wait)
            if made is None:
                raise Unavailable("the flow of this idempotency key was deleted this moment: ask again")
            return made
        if span is not None:
            span.end()
        return Created(new.facts.key, flow_id, waiting)

    async def continue_(
        self,
        shard: Shard,
        others: Sequence[Shard],
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
        while True:
            # Read before the key is looked for: if a request with the same key made it, that is found then.
            latest = await shard.store.latest_of_thread(member.thread_id)
            if options.idempotency_key is not None:
                before = await self._made_somewhere([shard, *others], digest, options, start=start, wait=False)
                if before is not None:
                    return before.key
            if latest is None or latest.status is not Status.COMPLETED:
                status = "gone" if latest is None else latest.status
                raise Conflict(f"the latest flow of the thread is {status}: only a completed one can be continued")
            try:
                latest = await with_final_state(shard.store, latest)
            except lending.Gone:  # it runs again, or was deleted
                continue
            new = await self._next_flow(shard, latest, given, options, digest, start=start)
            span = self._trace(new, latest.trace)
            created_at = await shard.store.create_next(latest, new)
            if created_at is None or created_at < 0:  # somebody else used the key, or continued the thread
                continue
            if span is not None:
                span.end()
            self._created(shard, new, created_at)
            return new.facts.key

    def _trace(self, new: NewFlow, *follows: str) -> Workflow | None:
        """Begin the root span of a flow; it is ended once the flow is there (T2)."""
        span = self._traces.workflow(new.facts.shown, new.facts.workflow, follows=[one for one in follows if one])
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
            shard.tally.flows_started.add(facts.workflow)
        if shard.debug:
            shard.log.debug(
                "flow %s of workflow %s is created", facts.key, facts.workflow,
                extra={"flow_id": facts.shown, "workflow": facts.workflow, "flow_key": facts.key},
            )  # fmt: skip
        changed = [shard.change(facts.flow_id, facts.thread_id, facts.workflow, Status.CREATED, created_at)]
        if new.start:
            changed.append(shard.change(facts.flow_id, facts.thread_id, facts.workflow, Status.RUNNING, created_at))
        pending = []
        if new.running:
            shard.first_step(new, created_at)
        elif new.start:
            due = max(new.start_at or 0, created_at)
            shard.line.hint_of(facts, due - created_at)
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
        digest = await self._graphs.save(shard.number, graph)
        await shard.flow_ids.ensure()
        flow_id = shard.flow_ids.take()
        await shard.step_ids.ensure()
        step_id = shard.step_ids.take()
        token = self._tokens()
        facts = FlowFacts(
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
        )

    async def _made_somewhere(
        self, shards: Sequence[Shard], digest: str, options: FlowOptions, *, start: bool, wait: bool
    ) -> Created | None:
        """As `_made_before`, on any of these shards: keys are unique across them."""
        rows = await asyncio.gather(
            *(one.store.flow_by_idempotency(options.fairness_key, options.idempotency_key or "") for one in shards)
        )
        for one, row in zip(shards, rows, strict=True):
            if row is not None:
                return await self._made_before(one, digest, options, start=start, wait=wait)
        return None

    async def _made_before(
        self, shard: Shard, digest: str, options: FlowOptions, *, start: bool, wait: bool
    ) -> Created | None:
        """The flow that the same idempotency key made before (O1), if there is one."""
        row = await shard.store.flow_by_idempotency(options.fairness_key, options.idempotency_key or "")
        if row is None:
            return None
        if row.request_digest != digest:
            raise Conflict(
                f"idempotency key {str(options.idempotency_key)[:80]!r} was used before for another workflow or state:"
                " use a new key, or repeat the first request unchanged"
            )
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
        return Created(flow_key(shard.number, row), row.flow_id, waiting)

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
