"""The port to the events of one shard: those it keeps, and its steps that wait for one (E1-E3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.rules.events import Ask, NewEvent, StoredEvent, Topic
    from dwarf_nats.rules.steps import ReadyStep


class Delivered(NamedTuple):
    """Steps of a shard that received an event. `due`: those that became pending by this call, none if it was done before."""

    steps: int
    due: Sequence[ReadyStep]


class Signalled(NamedTuple):
    """An event at its home once it was signalled, and the steps there that became pending."""

    event: StoredEvent
    due: Sequence[ReadyStep]


class EventStore(Protocol):
    """Events at home on this shard, and steps on this shard that wait.

    All methods about one topic, and the settlements that begin to wait for it, come one after the other.
    """

    async def signal(self, new: NewEvent, *, shards: int) -> Signalled | None:
        """Hand an event to every step here that waits for it.

        With one shard it is done or kept then, with several it is open. An event whose id counts already changes nothing and
        is returned as it is. `None` if the replicas have agreed on another number of shards than `shards`.
        """
        ...

    async def find(self, topic: Topic, event_id: str) -> StoredEvent | None:
        """Return the event whose id counts already."""
        ...

    async def deliver(self, event: StoredEvent, *, turn: int) -> Delivered:
        """Hand an event of another shard to the steps here: to all that wait, or with a `turn` above 0 to one of them.

        What was done for the same turn before is not done again.
        """
        ...

    async def answer(self, event: StoredEvent, visits: dict[int, int], *, kept: bool) -> StoredEvent | None:
        """Note the visits so far, and the answer if none was noted before. `None` if the event is gone."""
        ...

    async def finish(self, event: StoredEvent, visits: dict[int, int]) -> StoredEvent | None:
        """Close an open event that has visited all shards: it is done if a step received it, else kept, if it is to be.

        One that is not open any more is returned as it is. `None` if it is gone.
        """
        ...

    async def oldest_kept(self, topic: Topic) -> StoredEvent | None:
        """Return the kept event that is to be handed out next."""
        ...

    async def waits_since(self, topic: Topic) -> int | None:
        """Return since when a step here has waited longest, or `None` if none waits."""
        ...

    async def hand_out(self, topic: Topic) -> Delivered:
        """Hand the oldest event kept here to one step that waits here, if there are both."""
        ...

    async def reserve(self, event: StoredEvent, shard: int) -> StoredEvent | None:
        """Reserve a kept event for a step of another shard; `None` if it is not kept any more."""
        ...

    async def close_reservation(self, event: StoredEvent, *, delivered: bool) -> None:
        """End a reservation: a step has the event, or it is kept again. One that has ended already is left alone."""
        ...

    async def matched(self, event: StoredEvent) -> None:
        """Note that no step waited anywhere after the event was kept: nothing is left to do until one comes."""
        ...

    async def take_unfinished(self, age_ms: int, limit: int) -> Sequence[StoredEvent]:
        """Take up events with which something is left to do, and that nobody has touched for `age_ms`."""
        ...

    async def take_asks(self, age_ms: int, limit: int) -> Sequence[Ask]:
        """Take up asks that nobody has touched for `age_ms`."""
        ...

    async def close_asks(self, asks: Sequence[Ask]) -> None:
        """Forget asks: the other shards were asked."""
        ...

    async def remove_old(self, limit: int) -> int:
        """Remove up to `limit` events whose time is over; return how many."""
        ...

    async def old_visits(self, age_ms: int, limit: int) -> Sequence[tuple[Topic, str, int]]:
        """Return up to `limit` records of deliveries of that age: topic, id of the event, and turn."""
        ...

    async def unfinished_among(self, visits: Sequence[tuple[Topic, str, int]]) -> Sequence[tuple[Topic, str, int]]:
        """Return those of these deliveries whose event is at home here, and which may be repeated."""
        ...

    async def remove_visits(self, visits: Sequence[tuple[Topic, str, int]]) -> None:
        """Remove records of deliveries that are not repeated any more."""
        ...
