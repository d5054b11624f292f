"""Graphs by name, from the registry or the injected source; parsed and checked once per digest (G10; wire section 3)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from dwarf_nats.clock import SystemClock
from dwarf_nats.engine.registry_look_ups import RegistryLookUps
from dwarf_nats.errors import BadRequest, DwarfError, Internal, NotFound, TooLarge, Unavailable
from dwarf_nats.ports import Refused
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.limits import UNLIMITED, Limits, over
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.nodes import PublishMessage, SendRequest
from dwarf_nats.workflow.records import GraphInfo
from dwarf_nats.workflow.services import literal_subject

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock, Graphs, GraphStore, Services
    from dwarf_nats.workflow.state import Raw

T = TypeVar("T")
CACHED_GRAPHS = 4096
"""Parsed graphs kept in memory; the one used longest ago goes first."""
RESAVE_US = 3_000_000
"""Age at which a saved graph is saved again before it is used: half of the time the database keeps it for."""
THREAD_MIN_CHARACTERS = 5_000
"""Size from which a graph is checked in a thread: characters of conditions, and 25 for each transition. That takes 20 ms."""


async def _validated(graph: Graph) -> None:
    """Validate a graph; a large one in a thread, so that it does not block the event loop."""
    if _is_small(graph):
        graph.validate()
    else:
        await asyncio.to_thread(graph.validate)


async def warnings(graph: Graph) -> list[str]:
    """Return what looks like a mistake in a sound graph (G11)."""
    return graph.warnings() if _is_small(graph) else await asyncio.to_thread(graph.warnings)


def check_subjects(graph: Graph, refuses: Callable[[str], str]) -> None:
    """Raise `BadRequest` for a subject, written out in the graph, to which it may not send (N3, N4)."""
    for node in graph.nodes.values():
        actions = (
            [(node.action, "")]
            if node.compensate is None
            else [(node.action, ""), (node.compensate.action, "compensate.")]
        )
        for action, part in actions:
            if not isinstance(action, SendRequest | PublishMessage):
                continue
            subject = literal_subject(action)
            if subject is not None and (reason := refuses(subject)):
                raise BadRequest(
                    f"graph {graph.name!r}, node {node.name!r}, {part}{action.kind}.subject: nothing can be sent to"
                    f" {subject!r}: {reason}; choose another subject"
                )


def graph_of_task(task: str) -> Graph:
    """Return the graph of a flow that runs one task. Raises `BadRequest` for a name that is no task's."""
    check_subject_name(task, "task")
    graph = Graph(task)
    graph.add_task(task)
    graph.add_transition(task, "END")
    return graph


def _is_small(graph: Graph) -> bool:
    return sum(len(edge.when) + 25 for edge in graph.transitions) <= THREAD_MIN_CHARACTERS


class GraphBook:
    """Finds graphs by name, and keeps them by digest.

    `stores`: the databases by shard, each with all of the registry. `source`: where graphs are looked for that are not
    registered. `away`: tells whether a shard cannot be asked. `services`: tells where graphs may send requests and messages.
    """

    def __init__(
        self,
        stores: Mapping[int, GraphStore],
        source: Graphs | None,
        *,
        away: Callable[[int], bool] = lambda _: False,
        services: Services | None = None,
        limits: Limits = UNLIMITED,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._stores = dict(stores)
        self._limits = limits
        self._away = away
        self._services = services
        self._source = source
        self._by_digest: OrderedDict[str, Graph] = OrderedDict()
        self._digests: dict[int, str] = {}
        """The digests of the graphs in `_by_digest`, by identity: to compute one takes 13 µs for ten nodes."""
        self._saved: dict[tuple[int, str], tuple[int, int]] = {}
        self._saving: dict[tuple[int, str], asyncio.Task[int]] = {}
        self._sound: set[str] = set()
        self._look_ups = RegistryLookUps(self._registered, self._clock)

    @property
    def _registry(self) -> GraphStore:
        """The database to read the registry from: every shard has all of it, so that one of them may be away."""
        there = [number for number in self._stores if not self._away(number)]
        return self._stores[min(there or self._stores)]

    def assumed(self, workflow: str) -> Graph | None:
        """Return the graph that was registered for `workflow` a moment ago, if it is at hand: another may be by now."""
        digest = self._look_ups.recent(workflow)
        return self._by_digest.get(digest) if digest in self._sound else None

    async def find(self, workflow: str, baggage: Raw) -> Graph:
        """Return the graph that a new flow of `workflow` runs. `baggage`: for the source.

        Raises `NotFound` that lists where the workflow was looked for, `BadRequest` if the graph is not sound or not
        executable, `Unavailable`.
        """
        found = await self._named(workflow)
        if found is not None:
            return await self._admitted(*found)
        graph = await self._from_source(workflow, baggage)
        if graph is None:
            raise NotFound(
                f"no workflow {workflow!r}: it is neither in the registry (dwarf.graph.put), nor in the directory of graph"
                f" files (--graphs), nor does a service answer on graph.{workflow}"
            )
        if graph.name != workflow:
            raise BadRequest(
                f"the graph source answered workflow {workflow!r} with a graph named {graph.name!r}: rename it"
            )
        return await self.admit(graph)

    async def _admitted(self, graph: Graph, digest: str) -> Graph:
        """Check a registered graph for a new flow: another version may have accepted what this one refuses (G6)."""
        if digest not in self._sound:
            try:
                await _validated(graph)
            except BadRequest as error:
                raise BadRequest(
                    f"{error.message}. The graph was registered when it was valid; correct it and put it again"
                    " (flows under way keep theirs)"
                ) from None
            self._found_sound(digest)
        return graph

    def _found_sound(self, digest: str) -> None:
        if len(self._sound) > CACHED_GRAPHS * 4:
            self._sound.clear()
        self._sound.add(digest)

    async def _from_source(self, workflow: str, baggage: Raw) -> Graph | None:
        if self._source is None:
            return None
        try:
            return await self._source.load(workflow, baggage)
        except (BadRequest, NotFound, Unavailable):
            raise
        except DwarfError as error:
            raise Refused(f"the graph source refused workflow {workflow!r}: {error}") from error
        except Exception as error:
            raise Refused(f"the graph source failed on workflow {workflow!r}: {error}") from error

    async def admit(self, graph: Graph) -> Graph:
        """Check a graph, once per content; return the copy that is kept. Raises as `check`."""
        digest = graph.digest()
        known = self._by_digest.get(digest)
        if known is not None and digest in self._sound:
            self._by_digest.move_to_end(digest)
            return known
        kept = await self.check(graph)
        self._found_sound(digest)
        self._keep(digest, kept)
        return kept

    async def check(self, graph: Graph) -> Graph:
        """Check a graph; return a copy of it, since the caller may go on building on theirs.

        Raises `BadRequest` for one that is not sound (G6, G7), `TooLarge` for one beyond the limits.
        """
        limits = self._limits
        text = graph.to_json()
        for what, size, name, most in (
            ("nodes", len(graph.nodes), "max_nodes", limits.max_nodes),
            ("transitions", len(graph.transitions), "max_transitions", limits.max_transitions),
            ("bytes", len(text), "max_graph_bytes", limits.max_graph_bytes),
        ):
            if size > most:
                remedy = "make a part of it a sub-workflow of its own"
                raise TooLarge(over(f"graph {graph.name[:80]!r} has {size} {what}", name, most, remedy))
        kept = Graph.from_json(text)
        await _validated(kept)
        if self._services is not None:
            check_subjects(kept, self._services.refuses)
        return kept

    def at_hand(self, digest: str) -> Graph | None:
        """Return the graph of a flow that was created, if no database need be asked for it."""
        graph = self._by_digest.get(digest)
        if graph is not None:
            self._by_digest.move_to_end(digest)
        return graph

    async def frozen(self, shard: int, digest: str) -> Graph:
        """Return the graph a flow was created with. It is not checked: a condition that this version refuses is false.

        Raises `Internal` if the database does not have it, `Unavailable`.
        """
        graph = self.at_hand(digest)
        if graph is None:
            body = await self._stores[shard].load(digest)
            if body is None:
                raise Internal(f"graph {digest[:12]} is missing from shard {shard}")
            graph = Graph.from_json(body)
            self._keep(digest, graph)
        return graph

    async def save(self, shard: int, graph: Graph) -> str:
        """Save the graph in the shard's database, unless it is there; return its digest. Raises `Unavailable`."""
        return (await self.saved(shard, graph))[0]

    async def saved(self, shard: int, graph: Graph) -> tuple[str, int]:
        """As `save`; return also until when the graph is kept for a flow to come, in microseconds of the database's clock."""
        digest = self._digests.get(id(graph)) or graph.digest()
        key = (shard, digest)
        asked_at, kept_until = self._saved.get(key, (0, 0))
        if 0 <= self._clock.now() - asked_at < RESAVE_US:
            return digest, kept_until
        saving = self._saving.get(key)
        if saving is None:
            # One for all flows that are created meanwhile: they would wait for each other at the same row.
            saving = self._saving[key] = asyncio.get_running_loop().create_task(self._save(key, graph))
            saving.add_done_callback(partial(self._forget_saving, key))
        return digest, await asyncio.shield(saving)

    async def _save(self, key: tuple[int, str], graph: Graph) -> int:
        now = self._clock.now()
        kept_until = await self._stores[key[0]].save(key[1], graph.to_json())
        if len(self._saved) > CACHED_GRAPHS * 4:
            self._saved.clear()
        self._saved[key] = (now, kept_until)
        return kept_until

    def _forget_saving(self, key: tuple[int, str], saving: asyncio.Task[int]) -> None:
        del self._saving[key]
        if not saving.cancelled():
            saving.exception()  # those that wait for it get the error; perhaps nobody does any more

    def doubt(self, shard: int, digest: str) -> None:
        """Save the graph again before the next flow: one could not be created, perhaps as its graph is not kept any more."""
        self._saved.pop((shard, digest), None)

    # -- the registry

    async def put(self, graph: Graph) -> GraphInfo:
        """Register a graph under its name, on every shard. Raises as `check`, and `Unavailable`."""
        kept = await self.admit(graph)
        digest = kept.digest()
        await self._everywhere(lambda store: store.save(digest, kept.to_json()))
        first, *others = self._stores.values()
        updated_at = await first.register(kept.name, digest)
        for store in others:
            await store.register(kept.name, digest)
        await self._everywhere(lambda store: store.save(digest, kept.to_json()))  # registering may have taken long
        return GraphInfo(kept.name, digest, updated_at, tuple(await warnings(kept)))

    async def add_store(self, shard: int, store: GraphStore) -> None:
        """Take in the database of one more shard, and copy the registry to it. Raises `Unavailable`, and leaves it out then."""
        self._stores[shard] = store
        try:
            await self._copy_registry(shard)
        except BaseException:
            del self._stores[shard]
            raise

    async def _copy_registry(self, shard: int) -> None:
        source = self._registry
        if source.shard == shard:
            return
        for name, digest, updated_at in await source.registered():
            body = await source.load(digest)
            if body is not None:
                await self._stores[shard].save(digest, body)
                await self._stores[shard].register(name, digest, updated_at)
                await self._stores[shard].save(digest, body)

    async def _read(self, read: Callable[[GraphStore], Awaitable[T]]) -> T:
        """Read the registry from the first database that answers: a shard that is away costs no create its graph."""
        first, *others = sorted(self._stores, key=lambda number: (self._away(number), number))
        try:
            return await read(self._stores[first])
        except Unavailable:
            for number in others:
                with contextlib.suppress(Unavailable):
                    return await read(self._stores[number])
            raise

    async def _everywhere(self, work: Callable[[GraphStore], Awaitable[T]]) -> list[T]:
        return list(await asyncio.gather(*(work(store) for store in self._stores.values())))

    async def get(self, name: str) -> Graph:
        """Return a copy of a registered graph, to build on. Raises `NotFound`, `Unavailable`."""
        found = await self._named(name)
        if found is None:
            raise NotFound(f"no graph {name!r} in the registry: put one with dwarf.graph.put")
        return Graph.from_json(found[0].to_json())

    async def _named(self, name: str) -> tuple[Graph, str] | None:
        """Return the graph registered for `name`, and its digest."""
        for again in (True, True, False):
            digest = await self._look_ups.digest(name)
            if digest is None:
                return None
            try:
                return await self._read(partial(self._load, digest)), digest
            except Internal:  # another one was put in its place, and it was removed
                if not again:
                    raise
        raise AssertionError("unreachable")

    async def _load(self, digest: str, store: GraphStore) -> Graph:
        return await self.frozen(store.shard, digest)

    async def delete(self, name: str) -> None:
        """Take a graph out of the registry, on every shard. Raises `NotFound`, `Unavailable`."""
        if not any(await self._everywhere(lambda store: store.unregister(name))):
            raise NotFound(f"no graph {name!r} in the registry")

    async def list(self) -> list[GraphInfo]:
        """Return the registered graphs, by name. Raises `Unavailable`."""
        return [GraphInfo(*row) for row in await self._read(lambda store: store.registered())]

    async def _registered(self, names: Sequence[str]) -> Mapping[str, str]:
        """Read the digests of registered names."""
        return await self._read(lambda store: store.registered_digests(names))

    def _keep(self, digest: str, graph: Graph) -> None:
        before = self._by_digest.get(digest)
        if before is not None:
            self._digests.pop(id(before), None)
        self._by_digest[digest] = graph
        self._digests[id(graph)] = digest
        if len(self._by_digest) > CACHED_GRAPHS:
            self._digests.pop(id(self._by_digest.popitem(last=False)[1]), None)
