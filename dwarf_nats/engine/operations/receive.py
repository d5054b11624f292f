"""Flows that messages of sources start, one for each message however often it is delivered (R1)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.engine.operations.groups import Wanted
from dwarf_nats.errors import Conflict, DwarfError, Unavailable
from dwarf_nats.ports.receiving import StaleCount
from dwarf_nats.rules.receiving import Receipt, check_unkeyed, refused

if TYPE_CHECKING:
    from dwarf_nats.engine.operations.create import Creator
    from dwarf_nats.engine.operations.groups import GroupCreator, Workflows
    from dwarf_nats.engine.replica import Replica
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports.receiving import CreatedFlows
    from dwarf_nats.rules.receiving import MessageFlow
    from dwarf_nats.rules.steps import NewFlow

COUNT_TRIES = 5
"""Attempts at a group while the replicas agree on another number of shards."""


class Received(NamedTuple):
    """The outcome of messages: an error for each that failed, in their order, and the number of flows that were started."""

    errors: list[DwarfError | None]
    started: int


class _Place(NamedTuple):
    """The home of messages, the number of shards it was worked out with, and the shard on which their flows are to lie."""

    home: Shard
    shards: int
    target: Shard


class MessageReceiver:
    """Starts the flows of messages in groups.

    The home of a receipt is a shard that follows from it and the agreed number of shards. The receipt lies with its flow. If
    the flow is to lie elsewhere, because the home is cordoned or the flow joins a thread, the home first gets a pointer to the
    shard that decides. The homes that a receipt had with other numbers of shards are asked before. No other shard need be
    there.
    """

    def __init__(self, shards: Mapping[int, Shard], replica: Replica, creator: Creator, groups: GroupCreator) -> None:
        self._shards = shards
        self._replica = replica
        self._deployment = replica.deployment
        self._creator = creator
        self._groups = groups

    async def receive(self, messages: Sequence[MessageFlow]) -> Received:
        """Start a flow for each message that was not used before."""
        results: list[DwarfError | None] = [None] * len(messages)
        for _ in range(COUNT_TRIES):
            try:
                return Received(results, await self._receive(messages, results))
            except StaleCount:
                await self._deployment.agree()
        changing = Unavailable("the number of shards is being changed: try again")
        return Received([changing if one is None else one for one in results], 0)

    async def _receive(self, messages: Sequence[MessageFlow], results: list[DwarfError | None]) -> int:
        """As `receive`. Raises `StaleCount`; what was made by then has its receipts, and is not made again."""
        workflows = self._groups.workflows()
        unremembered: list[int] = []
        wanted: dict[_Place, list[Wanted[Receipt]]] = defaultdict(list)
        open_shard = self._deployment.any_shard()
        for place, message in enumerate(messages):
            results[place] = None
            if message.receipt is None:
                unremembered.append(place)
                continue
            try:
                where, one = await self._wanted(message, place, workflows, open_shard)
                wanted[where].append(one)
            except Exception as error:
                results[place] = self._refused(error)
        jobs = [self._start(messages[place], place, results) for place in unremembered]
        jobs += [self._create(where, group, results) for where, group in wanted.items()]
        found = await asyncio.gather(*jobs, return_exceptions=True)
        started = 0
        for one_result in found:
            if isinstance(one_result, BaseException):
                raise one_result
            started += one_result
        return started

    async def _wanted(
        self, message: MessageFlow, place: int, workflows: Workflows, open_shard: Shard
    ) -> tuple[_Place, Wanted[Receipt]]:
        """Check one message; return it with its place. `open_shard`: for a flow whose receipt has a cordoned home."""
        receipt = message.receipt
        assert receipt is not None
        check_unkeyed(message.options, "the place of a message in its stream is its idempotency key")
        request, of_thread = await self._groups.request(message.workflow, message.state, message.options)
        graph = await workflows.find(request)
        home, count = await self._deployment.home(str(receipt.scope), str(receipt.sequence))
        target = of_thread
        if target is None:
            target = open_shard if self._deployment.is_cordoned(home.number) else home
        return _Place(home, count, target), Wanted(receipt, place, request, graph)

    async def _create(self, where: _Place, group: list[Wanted[Receipt]], results: list[DwarfError | None]) -> int:
        try:
            decided = await self._decided(where, {one.identity for one in group})
        except Unavailable as error:
            for one in group:
                results[one.place] = error
            return 0
        return await self._create_where_decided(where, group, decided, results)

    async def _decided(self, where: _Place, receipts: Collection[Receipt]) -> Mapping[Receipt, int]:
        """Find out which shard decides each message; 0 if it was used. Raises `Unavailable`, `StaleCount`."""
        found = await self._known_before(where.home, receipts)
        new = [one for one in receipts if one not in found]
        if where.target is where.home:
            found.update(dict.fromkeys(new, where.home.number))
        elif new:
            found.update(await where.home.store.receiving.point(new, to=where.target.number, shards=where.shards))
        return found

    async def _known_before(self, home: Shard, receipts: Collection[Receipt]) -> dict[Receipt, int]:
        """Ask the other homes that receipts have had."""
        asked: dict[Shard, list[Receipt]] = defaultdict(list)
        if self._deployment.homes_have_moved:
            for one in receipts:
                for shard in self._deployment.homes(str(one.scope), str(one.sequence)):
                    if shard is not home:
                        asked[shard].append(one)
        known: dict[Receipt, int] = {}
        for found in await asyncio.gather(*(shard.store.receiving.known(some) for shard, some in asked.items())):
            known.update(found)
        return known

    async def _create_where_decided(
        self,
        where: _Place,
        group: Sequence[Wanted[Receipt]],
        decided: Mapping[Receipt, int],
        results: list[DwarfError | None],
    ) -> int:
        """Create the flows of messages that were not used, each on the shard that decides it."""
        by_shard: dict[int, list[Wanted[Receipt]]] = defaultdict(list)
        for one in group:
            if number := decided.get(one.identity, 0):
                by_shard[number].append(one)
        started = 0
        for number, some in by_shard.items():
            shard = self._shards.get(number)
            if shard is None:
                for one in some:
                    results[one.place] = self._deployment.unknown_shard(number)
                continue
            there = await self._of_its_thread(where, shard, some, results)
            started += await self._create_on(where, shard, there, results) if there else 0
        return started

    async def _of_its_thread(
        self, where: _Place, shard: Shard, group: list[Wanted[Receipt]], results: list[DwarfError | None]
    ) -> list[Wanted[Receipt]]:
        """Return the messages of a group whose flows may lie on a shard: it is the shard of their thread, or they have none.

        The others were begun before their source was changed.
        """
        misplaced = [one for one in group if one.request.thread is not None and shard is not where.target]
        if not misplaced:
            return group
        used = await shard.store.receiving.known([one.identity for one in misplaced])
        for one in misplaced:
            if one.identity not in used:
                results[one.place] = Conflict(
                    f"the message was begun on shard {shard.number}, and its flow now joins a thread on shard"
                    f" {where.target.number}: its source was changed meanwhile, so create this flow by hand"
                )
        return [one for one in group if one not in misplaced]

    async def _create_on(
        self, where: _Place, shard: Shard, group: Sequence[Wanted[Receipt]], results: list[DwarfError | None]
    ) -> int:
        elsewhere: dict[Receipt, int] = {}

        async def write(flows: Sequence[tuple[Receipt, NewFlow]]) -> CreatedFlows:
            budget_ms = self._replica.settings.time_budget_ms
            created = await shard.store.receiving.create(flows, shards=where.shards, budget_ms=budget_ms)
            elsewhere.update(created.elsewhere)
            return created

        started = await self._groups.create(shard, group, write, results)
        if not elsewhere:
            return started
        if shard is not where.home:
            for one in group:
                if one.identity in elsewhere:
                    results[one.place] = Unavailable("another replica has begun with this message: try again")
            return started
        # Another replica, for which the home was cordoned, has begun them elsewhere.
        return started + await self._create_where_decided(where, group, elsewhere, results)

    async def _start(self, message: MessageFlow, place: int, results: list[DwarfError | None]) -> int:
        """Start the flow of a message that nothing remembers, with the next group of the shard's committer."""
        try:
            await self._creator.create(message.workflow, message.state, message.options, start=True)
        except Exception as error:
            results[place] = self._refused(error)
            return 0
        return 1

    def _refused(self, error: Exception) -> DwarfError:
        if not isinstance(error, DwarfError):
            self._replica.logger.error("a defect while the flow of a message was prepared", exc_info=error)
        return refused(error)
