"""The messages about shards, as types: their health, their size, and what waits there."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from .message_fields import Maybe, Message

Due = Annotated[int, Meta(description="Milliseconds since its oldest step came due.")]
Counted = Annotated[int, Meta(description="Steps that are due, counted up to 1,000.")]


class KeyBacklog(Message):
    """The due steps of one fairness key; those of flows without a key have the empty one."""

    fairness_key: str
    steps: Annotated[int, Meta(description="Steps that are due, counted up to 200.")]
    oldest_ms: Due


class PriorityBacklog(Message):
    """The due steps of one priority, and of the fairness keys that have most of them among the first 50."""

    priority: int
    steps: Counted
    fairness_keys: Annotated[int, Meta(description="Fairness keys with due steps, counted up to 100.")]
    oldest_ms: Due
    keys: list[KeyBacklog]


class Shard(Message):
    """Health and size of one shard; `error` is empty for a healthy one (O16).

    `joining` is true while not every replica knows the shard: no new flows are placed there yet (O17). `backlog`: the steps
    that are due and not taken up, of the eight best priorities.
    """

    shard: int
    error: str
    latency_ms: float
    flows: int
    steps: int
    joining: Maybe[bool] = UNSET
    backlog: Maybe[list[PriorityBacklog]] = UNSET


class ShardInfoReply(Message):
    """All shards."""

    shards: list[Shard]
