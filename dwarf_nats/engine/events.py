"""Events over the shards of a deployment (E1-E3; design note 0030).

An event lies at its home, a shard that follows from its topic. It visits the other shards once, and is kept if no step waited
anywhere. A kept event is reserved for a shard with a step that waits, handed out there, and then removed. Each transaction
leaves what `sweep` of any replica needs to go on, so an event is handed out once even if a replica dies in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from dwarf_nats.errors import Unavailable
from dwarf_nats.rules.events import EventState, StoredEvent, Topic
from dwarf_nats.workflow.records import EventReceipt

if TYPE_CHECKING:
    from dwarf_nats.engine.deployment import Deployment
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Logger
    from dwarf_nats.rules.events import Ask, NewEvent
    from dwarf_nats.rules.steps import ReadyStep

T = TypeVar("T")
COUNT_ATTEMPTS = 5
"""Attempts to signal while the replicas agree on another number of shards."""
SWEEP_BATCH = 100
"""Events and asks that are taken up in one run of the sweep, so that it stays short."""
MAX_HANDED_OUT = 1_000
"""Kept events of one topic that are handed out in a row; the sweep goes on with the others."""
TAKE_UP_MS = 10_000
"""Age at which an event counts as left behind, and another replica finishes it: a signal takes far less."""
VISITS_KEPT_MS = 600_000
"""Age at which it is asked whether the record of a visit is still needed."""


class EventExchange:
    """Brings events to the steps that wait for them, on all shards of this deployment."""

    def __init__(self, shards: Mapping[int, Shard], deployment: Deployment, logger: Logger) -> None:
        self._shards = shards
        self._deployment = deployment
        self._log = logger
        self._asking: set[asyncio.Task[None]] = set()

    @property
    def has_several_shards(self) -> bool:
        return len(self._shards) > 1

    # -- signals

    async def signal(self, new: NewEvent) -> EventReceipt:
        """Hand an event to all steps that wait for it, or keep it; durable when this returns. Raises `Unavailable`."""
        if self._deployment.count > len(self._shards):
            raise self._deployment.unknown_shard(self._deployment.count)
        if not self.has_several_shards:
            (shard,) = self._shards.values()
            signalled = await shard.store.events.signal(new, shards=1)
            assert signalled is not None
            _announce(shard, signalled.due)
            return _receipt(signalled.event)
        home, event = await self._open(new)
        return await self._complete(home, event)

    async def _open(self, new: NewEvent) -> tuple[Shard, StoredEvent]:
        """Write an event at its home; return it, or the one that has its id already."""
        for _ in range(COUNT_ATTEMPTS):
            home, count = await self._deployment.home(*new.topic)
            if new.repeatable and (earlier := await self._find_elsewhere(home, new)) is not None:
                return earlier
            signalled = await home.store.events.signal(new, shards=count)
            if signalled is not None:
                _announce(home, signalled.due)
                return home, signalled.event
            if (identity := await home.store.deployment.identity()) is not None:
                self._deployment.record_count(home.number, identity.shards, identity.counts)
        raise Unavailable("the number of shards is being changed: try again")

    async def _find_elsewhere(self, home: Shard, new: NewEvent) -> tuple[Shard, StoredEvent] | None:
        """Find the event that has this id on a shard that was the home of its topic before there were more shards."""
        others = [shard for shard in self._reachable() if shard is not home]
        found, _ = await _each(others, (one.store.events.find(new.topic, new.id) for one in others))
        return next(((shard, event) for shard, event in found.items() if event is not None), None)

    async def _complete(self, home: Shard, event: StoredEvent) -> EventReceipt:
        """Visit the shards that an open event has not visited, and close it. It is durable, so a shard may be away."""
        if event.state != EventState.OPEN:
            return _receipt(event)
        visits = event.visits
        visits_all = await self._visit(home, event, visits)
        try:
            if not visits_all:
                noted = await home.store.events.answer(event, visits, kept=True)
                return _receipt(noted) if noted is not None else EventReceipt(sum(visits.values()), kept=True)
            finished = await home.store.events.finish(event, visits)
            if finished is None:
                return _unknown(event, visits)
            if finished.state == EventState.KEPT and await self.match(finished.topic):
                await home.store.events.matched(finished)
            return _receipt(finished)
        except Unavailable as error:
            self._log.debug("an event is left to the sweep: %s", error)
            return _unknown(event, visits)

    async def _visit(self, home: Shard, event: StoredEvent, visits: dict[int, int]) -> bool:
        """Hand an open event to the steps of other shards, and note that in `visits`; return whether all could be visited."""
        others = [shard for shard in self._shards.values() if shard is not home and shard.number not in visits]
        there = [shard for shard in others if not self._deployment.is_away(shard.number)]
        done, _ = await _each(there, (shard.store.events.deliver(event, turn=0) for shard in there))
        for shard, delivered in done.items():
            _announce(shard, delivered.due)
            visits[shard.number] = delivered.steps
        return len(done) == len(others) and self._deployment.count <= len(self._shards)

    # -- kept events

    async def match(self, topic: Topic) -> bool:
        """Hand kept events to steps that wait, the oldest first, until one of both is missing.

        Return whether that was certain: all shards could be asked.
        """
        for _ in range(MAX_HANDED_OUT):
            shards = self._reachable()
            kept, all_kept = await _each(shards, (shard.store.events.oldest_kept(topic) for shard in shards))
            complete = all_kept and len(shards) == len(self._shards)
            events = [(event.at, shard.number, event) for shard, event in kept.items() if event is not None]
            if not events:
                return complete
            waits, all_waits = await _each(shards, (shard.store.events.waits_since(topic) for shard in shards))
            since = [(at, shard.number) for shard, at in waits.items() if at is not None]
            if not since:
                return complete and all_waits
            _, home, event = min(events, key=lambda one: one[:2])
            await self._hand_out(self._shards[home], event, self._shards[min(since)[1]])
        return False

    async def _hand_out(self, home: Shard, event: StoredEvent, target: Shard) -> None:
        """Hand a kept event to a step of the target. Nothing happens if event or step have found another by now."""
        if target is home:
            _announce(home, (await home.store.events.hand_out(event.topic)).due)
            return
        reserved = await home.store.events.reserve(event, target.number)
        if reserved is not None:
            await self._hand_over(home, reserved)

    async def _hand_over(self, home: Shard, reserved: StoredEvent) -> None:
        """Hand a reserved event to a step of its shard, and end the reservation."""
        target = self._shards.get(reserved.shard or 0)
        if target is None:
            raise self._deployment.unknown_shard(reserved.shard or 0)
        delivered = await target.store.events.deliver(reserved, turn=reserved.turn)
        _announce(target, delivered.due)
        await home.store.events.close_reservation(reserved, delivered=delivered.steps > 0)

    # -- steps that begin to wait

    def ask(self, number: int, asks: Sequence[Ask]) -> None:
        """Look on all shards for events that are kept for steps of a shard which have begun to wait."""
        task = asyncio.create_task(self._ask(self._shards[number], asks), name=f"dwarf-event-asks-{number}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, shard: Shard, asks: Sequence[Ask]) -> None:
        try:
            done = {topic: await self.match(topic) for topic in {ask.topic for ask in asks}}
            if answered := [ask for ask in asks if done[ask.topic]]:
                await shard.store.events.close_asks(answered)
        except Unavailable as error:
            self._log.debug("asks for events are left to the sweep: %s", error)
        except Exception:
            self._log.exception("a defect while events were looked for")

    async def close(self) -> None:
        """End the looking; another replica's sweep goes on."""
        for task in tuple(self._asking):
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    # -- what is left behind

    async def sweep(self, shard: Shard, age_ms: int = TAKE_UP_MS) -> None:
        """Finish what nobody has touched for `age_ms`: events at home on a shard, and asks of its steps.

        Raises `Unavailable`.
        """
        for event in await shard.store.events.take_unfinished(age_ms, SWEEP_BATCH):
            try:
                await self._finish(shard, event)
            except Unavailable as error:
                self._log.debug("an event is left to the next sweep: %s", error)
        if asks := await shard.store.events.take_asks(age_ms, SWEEP_BATCH):
            await self._ask(shard, asks)

    async def _finish(self, home: Shard, event: StoredEvent) -> None:
        if event.state == EventState.OPEN:
            await self._complete(home, event)
            return
        if event.state == EventState.RESERVED:
            await self._hand_over(home, event)
        if await self.match(event.topic) and event.state == EventState.KEPT:
            await home.store.events.matched(event)

    async def remove_visits(self, shard: Shard, age_ms: int = VISITS_KEPT_MS) -> None:
        """Remove records of visits to a shard that will not be repeated. Raises `Unavailable`."""
        while visits := await shard.store.events.old_visits(age_ms, SWEEP_BATCH):
            needed: set[tuple[Topic, str, int]] = set()
            for other in self._shards.values():
                needed.update(await other.store.events.unfinished_among(visits))
            over = [one for one in visits if one not in needed]
            await shard.store.events.remove_visits(over)
            if needed or len(visits) < SWEEP_BATCH:
                return

    def _reachable(self) -> list[Shard]:
        return [shard for number, shard in sorted(self._shards.items()) if not self._deployment.is_away(number)]


async def _each(shards: Sequence[Shard], asked: Iterable[Awaitable[T]]) -> tuple[dict[Shard, T], bool]:
    """Ask shards at once; return what those say that answer, and whether all did."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    found: dict[Shard, T] = {}
    for shard, answer in zip(shards, answers, strict=True):
        if not isinstance(answer, BaseException):
            found[shard] = answer
        elif not isinstance(answer, Unavailable):
            raise answer
    return found, len(found) == len(shards)


def _announce(shard: Shard, due: Sequence[ReadyStep]) -> None:
    if due:
        shard.announcer.unparked(due)


def _receipt(event: StoredEvent) -> EventReceipt:
    """Return the answer that was noted with an event, or what is known if none was."""
    if event.delivered is None:
        return _unknown(event, event.visits)
    return EventReceipt(event.delivered, bool(event.kept))


def _unknown(event: StoredEvent, visits: Mapping[int, int]) -> EventReceipt:
    """Return the answer for an event that is durable, and that other shards are still to receive."""
    delivered = sum(visits.values())
    return EventReceipt(delivered, kept=not delivered and event.keep_until > event.at)
