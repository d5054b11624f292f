"""Creation of flows (O1)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dwarf_nats.engine.operations.checks import check_is_root, check_options
from dwarf_nats.engine.operations.new_flows import Created, CreateRequest, after_creation
from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import DatabaseAway
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.options import FlowOptions

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.idempotency import IdempotencyKeys
    from dwarf_nats.engine.operations.new_flows import FlowFactory, GivenState
    from dwarf_nats.engine.placement import Placement
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.rules.rows import FlowRow
    from dwarf_nats.rules.steps import NewFlow
    from dwarf_nats.workflow.keys import Key

DEFAULTS = FlowOptions()
MAX_TRIES = 50
"""Most attempts at a key or thread that others change, or a shard that is away, before the caller is told to ask again."""


class Creator:
    """Creates flows, each on the shard of its thread, of its idempotency key, or on any."""

    def __init__(
        self,
        shards: Mapping[int, Shard],
        replica: Replica,
        *,
        placement: Placement,
        keys: IdempotencyKeys,
        factory: FlowFactory,
    ) -> None:
        self._shards = shards
        self._placement = placement
        self._keys = keys
        self._factory = factory
        self._deployment = replica.deployment
        self._graphs = replica.graphs

    async def create(
        self,
        workflow: str | Graph,
        state: GivenState,
        options: FlowOptions | None,
        *,
        start: bool,
        wait: bool = False,
    ) -> Created:
        """Create a flow, or find the one of its idempotency key. `wait`: have `Created.outcome` resolved when it stops.

        Raises `BadRequest`, `NotFound`, `Conflict`, `TooLarge`, `Unavailable`.
        """
        shard, thread = await self._place(options)
        request = self._factory.request(
            workflow, state, options if options is not None else DEFAULTS, thread=thread, start=start, wait=wait
        )
        if request.options.idempotency_key is not None:
            return await self._create_keyed(request)
        return await self.create_on(shard, request)

    async def _place(self, options: FlowOptions | None) -> tuple[Shard, FlowRow | None]:
        """Check options; return the shard of the thread they name and a flow of it, else any shard (O1)."""
        if options is not None:
            check_options(options)
            if options.thread is not None:
                shard, key = self._placement.locate(options.thread, "thread")
                row = await shard.store.flows.thread(key)
                check_is_root(key.shard, row, "joined")
                return shard, row
        return self._deployment.any_shard(), None

    async def create_on(self, shard: Shard, request: CreateRequest) -> Created:
        """Create a flow without an idempotency key on the shard, or if that turns out to be away, on another one.

        Raises as `create`.
        """
        graph, assumed = self._assumed(request)
        for _ in range(MAX_TRIES):
            if graph is None:
                graph = await self._graph(request)
            try:
                created = await self._insert(shard, request, graph, assumed=assumed)
            except DatabaseAway as error:
                if error.undecided or request.thread is not None:
                    raise
                other = self._deployment.other_than(shard)  # nothing was made: any shard will do
                if other is None:
                    raise
                shard = other
                continue
            if isinstance(created, Created):
                return created
            if assumed:
                graph, assumed = None, False
        raise Unavailable("the database took too long, again and again, to create the flow: ask again")

    async def _create_keyed(self, request: CreateRequest) -> Created:
        """Find the flow of an idempotency key, else create it on the home of the key (O1)."""
        options = request.options
        key = options.idempotency_key or ""
        graph, assumed = self._assumed(request)
        for _ in range(MAX_TRIES):
            home, count = await self._deployment.home(options.fairness_key, key)
            # Before the graph is looked for: it may be gone by now.
            before = await self._keys.find_created(request)
            if before is not None:
                return before
            cordoned = self._deployment.is_cordoned(home.number)
            if graph is None or (assumed and cordoned):
                graph, assumed = await self._graph(request), False
            if cordoned:
                elsewhere = await self._create_elsewhere(
                    home, request, graph, shard=self._deployment.any_shard(), shards=count
                )
                if elsewhere is not None:
                    return elsewhere
                continue
            created = await self._insert(home, request, graph, shards=count, assumed=assumed)
            if isinstance(created, Created):
                return created
            held = await self._keys.settle(home, created)
            if assumed:  # another graph may have been put: look for it, if the key is not taken by now
                graph, assumed = None, False
                continue
            if held is not None and held.shard:  # the home was cordoned when this request came first
                elsewhere = await self._create_elsewhere(
                    home, request, graph, shard=self._shards[held.shard], shards=count
                )
                if elsewhere is not None:
                    return elsewhere
        raise Unavailable("the flow of this idempotency key is made, deleted or moved this moment: ask again")

    async def _create_elsewhere(
        self, home: Shard, request: CreateRequest, graph: Graph, *, shard: Shard, shards: int
    ) -> Created | None:
        """Create a flow whose key has its home on a cordoned shard: the key is reserved there, the flow made on another one.

        `shard`: that one, unless an earlier try of this request has reserved another. `None` if the key is taken meanwhile, or
        the number of shards has changed: look again.
        """
        new = await self._factory.build(shard, request, graph)
        new.shards, new.reserves = shards, False
        reserved_for = await self._keys.reserve(home, new)
        if reserved_for != shard.number:
            if reserved_for:
                return await self._create_elsewhere(
                    home, request, graph, shard=self._shards[reserved_for], shards=shards
                )
            return None
        span = self._factory.begin_trace(new)
        outcome = shard.waiters.add(new.flow.flow_id) if request.wait else asyncio.get_running_loop().create_future()
        try:
            created_at = await asyncio.shield(_placed(shard, new))
        except BaseException:
            shard.waiters.drop(new.flow.flow_id, outcome)
            raise
        if created_at is None:
            shard.waiters.drop(new.flow.flow_id, outcome)
            self._graphs.doubt(shard.number, new.flow.digest)
            return None
        if span is not None:
            span.end()
        return Created(shard, new.flow.key, new.flow.flow_id, outcome)

    async def prepare_elsewhere(
        self, workflow: str, state: GivenState, options: FlowOptions, planned: Key | None = None
    ) -> NewFlow | None:
        """Make ready a flow on another shard than the home of its idempotency key, which does not get to know it.

        `planned`: the key it is to have, from an earlier try. `None` if no other shard is there. Raises as `create`.
        """
        request = self._factory.request(workflow, state, options, start=False)
        graph = await self._graph(request)
        home, count = await self._deployment.home(options.fairness_key, options.idempotency_key or "")
        shard = self._shards[planned.shard] if planned is not None else self._deployment.other_than(home)
        if shard is None:
            return None
        new = await self._factory.build(shard, request, graph)
        new.shards, new.reserves = count, False
        if planned is not None:
            flow = new.flow
            flow.flow_id = flow.root_id = flow.thread_id = planned.id
            flow.token = new.thread_token = planned.token
        return new

    async def create_prepared(self, new: NewFlow) -> bool:
        """Create a flow that was prepared, unless one with its id was created before; return whether there is, or was, one.

        `False`: prepare it anew. Raises `Unavailable`.
        """
        shard = self._shards[new.flow.shard]
        if await asyncio.shield(_placed(shard, new)) is not None:
            return True
        self._graphs.doubt(shard.number, new.flow.digest)
        return await shard.store.keys.is_placed(new.flow.flow_id) is not None

    def _assumed(self, request: CreateRequest) -> tuple[Graph | None, bool]:
        """Return the graph that the workflow had a moment ago, and true, if the database can find out whether it has it yet."""
        workflow, options = request.workflow, request.options
        if not isinstance(workflow, str) or options.durability is not None:  # that makes it a graph of its own
            return None, False
        graph = self._graphs.assumed(workflow)
        return graph, graph is not None

    async def _graph(self, request: CreateRequest) -> Graph:
        if isinstance(request.workflow, str):
            return await self._graphs.find(request.workflow, request.baggage)
        return await self._graphs.admit(request.workflow)

    async def _insert(
        self, shard: Shard, request: CreateRequest, graph: Graph, *, shards: int = 0, assumed: bool = False
    ) -> Created | NewFlow:
        """Insert a flow. `shards`: the number of shards that the home of its idempotency key was worked out with, if any.

        `assumed`: the database is to find out whether its workflow has this graph yet. Returns the value it was to be made from
        if it has not, if the key is taken or that number has changed, or if the graph is not kept any more.
        """
        new = await self._factory.build(shard, request, graph)
        new.shards, new.reserves, new.assumed = shards, bool(shards), assumed
        flow_id = new.flow.flow_id
        span = self._factory.begin_trace(new)
        outcome = shard.waiters.add(flow_id) if request.wait else asyncio.get_running_loop().create_future()
        # A start time is for the database's clock to judge: such a flow goes to the ready queue.
        new.eager = (
            new.start
            and new.start_at is None
            and shard.admission.reserve(new.flow.priority, new.url, new.flow.workflow)
        )
        try:
            created_at = await asyncio.shield(_inserted(shard, new))
        except BaseException:
            shard.waiters.drop(flow_id, outcome)
            raise
        if created_at is None:
            shard.waiters.drop(flow_id, outcome)
            self._graphs.doubt(shard.number, new.flow.digest)
            return new
        if span is not None:
            span.end()
        return Created(shard, new.flow.key, flow_id, outcome)


async def _placed(shard: Shard, new: NewFlow) -> int | None:
    """Insert a flow whose key is reserved elsewhere, and set it going; return when it was created, if it was."""
    created_at = await shard.store.control.create_placed(new)
    if created_at is not None:
        after_creation(shard, new, created_at)
    return created_at


async def _inserted(shard: Shard, new: NewFlow) -> int | None:
    """Insert a flow and set it going; return when it was created, if it was.

    Shielded by the caller: once the group is on its way it is followed through.
    """
    try:
        created_at = await shard.committer.create(new)
    except BaseException:
        if new.eager:
            shard.admission.release(new.url)
        raise
    if created_at is None:
        if new.eager:
            shard.admission.release(new.url)
        return None
    after_creation(shard, new, created_at)
    return created_at
