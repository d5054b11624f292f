"""The messages about shards, as types: their health, their size, and what waits there."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from .message_fields import MOST, Maybe, Message, Request

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
    cordoned: Maybe[Annotated[bool, Meta(description="It takes no new flows.")]] = UNSET
    weight: Maybe[Annotated[float, Meta(description="Its share of new flows; left out: 1.")]] = UNSET
    backlog: Maybe[list[PriorityBacklog]] = UNSET


class ShardPutRequest(Request):
    """Say whether a shard takes new flows, and its share of them; what is left out stays as it is (O17)."""

    shard: Annotated[int, Meta(ge=1, le=MOST)]
    cordoned: Maybe[Annotated[bool, Meta(description="It takes no new flows, and goes on with those it has.")]] = UNSET
    weight: Maybe[Annotated[float, Meta(ge=0.001, le=1000, description="Its share of new flows; at first 1.")]] = UNSET


class ShardPutReply(Message):
    """The policy of a shard from now on (O17)."""

    shard: int
    cordoned: bool
    weight: float


class ShardInfoReply(Message):
    """All shards."""

    shards: list[Shard]
