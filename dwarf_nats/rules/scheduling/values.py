"""The values that pass between a store, the view of its ready queue and the fair scheduler (C1-C3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import msgspec

PAGE_MIN_HEADS, PAGE_MAX_HEADS = 16, 1_000
"""Queue heads in one page: one for every four worker slots to fill, within these bounds; the most until a band is known."""

NO_BUDGETS: Mapping[str, int] = MappingProxyType({})
"""No task is limited."""


class QueueHead(NamedTuple):
    """The oldest due step of a fairness key; where tasks are blocked, of one task of it.

    `due_at`: microseconds, on the shard's clock.
    """

    priority: int
    fairness_key: str
    url: str
    due_at: int
    weight: float


class PageRequest(NamedTuple):
    """Which page of a ready queue to read: bands worse than `floor`; of `band` the heads from `fairness_key` and `url` on."""

    floor: int = 0
    band: int = 0
    fairness_key: str = ""
    url: str = ""
    limit: int = PAGE_MAX_HEADS


@dataclass(slots=True)
class Page:
    """Queue heads in the order of bands, keys and tasks. Times are microseconds on the shard's clock.

    `best`: the best band asked for that has anything due, blocked or not. `full`: there may be more beyond the last
    head. `next_due_at`: when the next scheduled step comes due; in the past if some only wait to be promoted.
    """

    now: int
    best: int | None
    heads: Sequence[QueueHead]
    full: bool
    next_due_at: int | None


class Share(msgspec.Struct, frozen=True, gc=False):
    """Take up to `steps` of the steps of this key that have been due longest, after the first `skip` of them.

    `weight`: what the key is charged by.
    """

    priority: int
    fairness_key: str
    steps: int
    skip: int = 0
    weight: float = 1.0


class Claim(NamedTuple):
    """A claim from one shard: up to `limit` steps, from the shares one after the other."""

    limit: int
    shares: list[Share]
