"""Continuation of threads: the next flow after the latest one (O15)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.checks import check_is_root, check_options
from dwarf_nats.engine.operations.create import DEFAULTS, MAX_TRIES
from dwarf_nats.engine.operations.new_flows import CreateRequest, after_creation, request_digest
from dwarf_nats.engine.projections import with_final_state
from dwarf_nats.errors import BadRequest, Conflict, NotFound, TooLarge, Unavailable
from dwarf_nats.rules import state_refs
from dwarf_nats.workflow import tags
from dwarf_nats.workflow.reducers import combine
from dwarf_nats.workflow.state import Raw, decode_state, encode_state
from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.idempotency import IdempotencyKeys
    from dwarf_nats.engine.operations.new_flows import FlowFactory, GivenState
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.workflow.options import FlowOptions

Reserved = tuple["Shard", "NewFlow"]
"""The home of an idempotency key, and the flow it was reserved for on another shard."""


class ThreadContinuer:
    """Creates the next flow of a thread from the final state of the latest one."""

    def __init__(self, placement: Placement, keys: IdempotencyKeys, factory: FlowFactory, replica: Replica) -> None:
        self._placement = placement
        self._keys = keys
        self._factory = factory
        self._deployment = replica.deployment
        self._graphs = replica.graphs
        self._limits = replica.settings.limits()

    async def continue_(self, thread: str, state: GivenState, options: FlowOptions | None, *, start: bool) -> str:
        """Create the next flow of a thread, given the key of any flow of it; return its key.

        Raises `BadRequest`, `NotFound`, `Conflict`, `TooLarge`, `Unavailable`.
        """
        shard, key = self._placement.locate(thread, "thread")
        member = await shard.store.flows.thread(key)
        check_is_root(key.shard, member, "continued")
        return await self._continue(shard, member.thread_id, self._request(shard, member, state, options, start=start))

    def _request(
        self, shard: Shard, member: FlowRow, state: GivenState, options: FlowOptions | None, *, start: bool
    ) -> CreateRequest:
        """Check what the caller gave. The state is still to be merged into that of the latest flow."""
        options = options if options is not None else DEFAULTS
        check_options(options)
        if options.thread is not None:
            raise BadRequest("options.threadKey has no place in a continue: the thread is given by threadKey itself")
        given = self._factory.state(state)
        digest = ""
        if options.idempotency_key is not None:
            digest = request_digest(f"thread {shard.number}-{member.thread_id}", given)
        return CreateRequest(
            workflow=member.workflow, state=given, baggage=Raw(b""), options=options, digest=digest, start=start
        )

    async def _continue(self, shard: Shard, thread_id: int, request: CreateRequest) -> str:
        reserved: Reserved | None = None
        try:
            for _ in range(MAX_TRIES):
                # Read before the key is looked for: if a request with the same key made it, that is found then.
                latest = await shard.store.flows.latest_of_thread(thread_id)
                home, shards = await self._home(shard, request.options)
                before = await self._keys.find_created(request) if shards else None
                if before is not None:
                    return before.key
                completed = await _completed(shard, latest)
                if completed is None:
                    continue
                new = await self._next_flow(shard, completed, request)
                new.shards, new.reserves = shards, bool(shards) and home is shard
                if home is not shard:
                    if await self._keys.reserve(home, new) != shard.number:
                        continue
                    reserved = home, new
                if await self._insert(shard, completed, new):
                    return new.flow.key
                if new.reserves:
                    await self._keys.settle(home, new)
        except (Conflict, BadRequest, NotFound, TooLarge):
            if reserved is not None:
                await self._keys.give_up(*reserved)
            raise
        raise Unavailable("the thread or its idempotency key is changed again and again this moment: ask again")

    async def _home(self, shard: Shard, options: FlowOptions) -> tuple[Shard, int]:
        """Return the home of the idempotency key and the number of shards it was worked out with; 0 without a key."""
        if options.idempotency_key is None:
            return shard, 0
        return await self._deployment.home(options.fairness_key, options.idempotency_key)

    async def _next_flow(self, shard: Shard, latest: FlowRow, request: CreateRequest) -> NewFlow:
        graph = await self._graphs.frozen(shard.number, latest.graph_digest)
        state = combine(graph.reducers, decode_state(latest.final_state or "{}"), [request.state])
        self._limits.check_bytes(len(encode_state(state)), "the merged state")
        given = request.options.baggage
        baggage = Raw(latest.baggage.encode()) if given is None else self._factory.baggage(given)
        options = request.options
        if options.tags is None:
            options = replace(options, tags=tags.read(latest.tags))
        merged = replace(request, state=state, baggage=baggage, thread=latest, options=options)
        return await self._factory.build(shard, merged, graph)

    async def _insert(self, shard: Shard, latest: FlowRow, new: NewFlow) -> bool:
        """Insert the next flow of a thread; false if somebody else used the key or continued the thread."""
        span = self._factory.begin_trace(new, latest.trace)
        created_at = await shard.store.control.create_next(latest, new)
        if created_at is None:
            return False
        if span is not None:
            span.end()
        after_creation(shard, new, created_at)
        return True


async def _completed(shard: Shard, latest: FlowRow | None) -> FlowRow | None:
    """Return the latest flow with its whole final state; `None` if it has changed meanwhile.

    Raises `Conflict` unless it is completed.
    """
    if latest is None or latest.status is not Status.COMPLETED:
        status = "gone" if latest is None else latest.status
        raise Conflict(f"the latest flow of the thread is {status}: only a completed one can be continued")
    try:
        return await with_final_state(shard.store.flows, latest)
    except state_refs.DanglingRef:  # it runs again, or was deleted
        return None
