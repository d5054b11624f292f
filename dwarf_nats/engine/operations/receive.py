"""Flows that messages of sources start, one for each message however often it is delivered (R1)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dwarf_nats.engine.operations.groups import Wanted
from dwarf_nats.errors import DwarfError, Unavailable
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


class MessageReceiver:
    """Starts the flows of messages in groups.

    The receipt of a message lies with its flow, on a shard that follows from the receipt and the agreed number of shards. The
    other shards are asked first: there may have been fewer when the message was used.
    """

    def __init__(self, shards: Mapping[int, Shard], replica: Replica, creator: Creator, groups: GroupCreator) -> None:
        self._shards = shards
        self._replica = replica
        self._creator = creator
        self._groups = groups

    async def receive(self, messages: Sequence[MessageFlow]) -> Received:
        """Start a flow for each message that was not used before."""
        results: list[DwarfError | None] = [None] * len(messages)
        for _ in range(COUNT_TRIES):
            try:
                return Received(results, await self._receive(messages, results))
            except StaleCount:
                await self._replica.deployment.agree()
        changing = Unavailable("the number of shards is being changed: try again")
        return Received([changing if one is None else one for one in results], 0)

    async def _receive(self, messages: Sequence[MessageFlow], results: list[DwarfError | None]) -> int:
        """As `receive`. Raises `StaleCount`; what was made by then has its receipts, and is not made again."""
        workflows = self._groups.workflows()
        unremembered: list[int] = []
        wanted: dict[tuple[int, int], list[Wanted[Receipt]]] = defaultdict(list)
        for place, message in enumerate(messages):
            results[place] = None
            if message.receipt is None:
                unremembered.append(place)
                continue
            try:
                where, one = await self._wanted(message, place, workflows)
                wanted[where].append(one)
            except Exception as error:
                results[place] = self._refused(error)
        jobs = [self._start(messages[place], place, results) for place in unremembered]
        jobs += [self._create(self._shards[number], count, group, results) for (number, count), group in wanted.items()]
        found = await asyncio.gather(*jobs, return_exceptions=True)
        started = 0
        for one_result in found:
            if isinstance(one_result, BaseException):
                raise one_result
            started += one_result
        return started

    async def _wanted(
        self, message: MessageFlow, place: int, workflows: Workflows
    ) -> tuple[tuple[int, int], Wanted[Receipt]]:
        """Check one message; return it with its shard and the number of shards that this was worked out with."""
        receipt = message.receipt
        assert receipt is not None
        check_unkeyed(message.options, "the place of a message in its stream is its idempotency key")
        request, of_thread = await self._groups.request(message.workflow, message.state, message.options)
        graph = await workflows.find(request)
        home, count = await self._replica.deployment.home(str(receipt.scope), str(receipt.sequence))
        shard = of_thread if of_thread is not None else home
        return (shard.number, count), Wanted(receipt, place, request, graph)

    async def _create(
        self, shard: Shard, count: int, group: list[Wanted[Receipt]], results: list[DwarfError | None]
    ) -> int:
        try:
            known = await self._known_elsewhere(shard, [one.identity for one in group])
        except Unavailable as error:
            for one in group:
                results[one.place] = error
            return 0
        fresh = [one for one in group if one.identity not in known]
        return await self._groups.create(shard, fresh, partial(self._write, shard, count), results) if fresh else 0

    async def _known_elsewhere(self, shard: Shard, receipts: Sequence[Receipt]) -> set[Receipt]:
        others = [one for one in self._shards.values() if one is not shard]
        found = await asyncio.gather(*(one.store.receiving.known(receipts) for one in others))
        return set().union(*found)

    async def _write(self, shard: Shard, count: int, flows: Sequence[tuple[Receipt, NewFlow]]) -> CreatedFlows:
        budget_ms = self._replica.settings.time_budget_ms
        return await shard.store.receiving.create(flows, shards=count, budget_ms=budget_ms)

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
