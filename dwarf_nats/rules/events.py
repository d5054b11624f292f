"""Events as signals bring them and stores keep them (E1-E3). Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec
import orjson

DEFAULT_KEEP_MS = 24 * 3_600_000
"""Milliseconds an event waits for a step, unless the signal says otherwise."""
MAX_KEEP_MS = 366 * 24 * 3_600_000
"""Longest time an event waits for a step: a year."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Topic(NamedTuple):
    """Events of one name with one key, which a step waits for."""

    event: str
    key: str

    @property
    def lock(self) -> int:
        """The number of the lock that a signal and a step that begins to wait take in turn, signed with 64 bits."""
        text = f"{self.event}\0{self.key}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(text).digest()[:8], signed=True)


class Ask(NamedTuple):
    """A step that began to wait, so that other shards are to be asked for an event that they keep."""

    step_id: int
    lease_seq: int
    topic: Topic


@dataclass(slots=True, frozen=True, kw_only=True)
class NewEvent:
    """An event that a signal brings. `repeatable`: the caller gave the id, and may send it again."""

    topic: Topic
    id: str
    repeatable: bool
    data: str
    """JSON."""
    keep_ms: int = DEFAULT_KEEP_MS


class EventState(StrEnum):
    """The state of an event at its home. Of several shards, an open one has not visited all."""

    OPEN = "open"
    KEPT = "kept"
    RESERVED = "reserved"
    DONE = "done"


class StoredEvent(msgspec.Struct, kw_only=True):
    """One row of `dwarf_events`, its columns in this order."""

    event: str
    key: str
    number: int
    """Events of one topic are handed out in the order of their numbers."""
    id: str
    repeatable: int
    data: str
    at: int
    keep_until: int
    state: str
    delivered: int | None
    """The steps that received it, as it was answered first; `None` while that is not known."""
    kept: int | None
    visited: str
    """JSON: shard → steps there that received it."""
    turn: int
    """The number of its last reservation."""
    shard: int | None
    """The shard that it is reserved for."""

    @property
    def topic(self) -> Topic:
        return Topic(self.event, self.key)

    @property
    def text(self) -> str:
        """The event as its step sees it."""
        return event_text(self.id, self.data, self.at)

    @property
    def visits(self) -> dict[int, int]:
        """The steps that received it, by the shards that were visited."""
        stored: dict[str, int] = orjson.loads(self.visited)
        return {int(shard): count for shard, count in stored.items()}


def event_text(event_id: str, data: str, at: int) -> str:
    """Return an event as its step sees it, JSON: data, id, and the time it was signalled at (E2)."""
    when = (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f'{{"data":{data},"id":{orjson.dumps(event_id).decode()},"at":"{when}"}}'


def visits_text(visits: dict[int, int]) -> str:
    """Return visits as they are stored."""
    return orjson.dumps({str(shard): count for shard, count in sorted(visits.items())}).decode()
