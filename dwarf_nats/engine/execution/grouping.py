"""Groups of a committer: how much of a queue one transaction takes (design note 0001)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dwarf_nats.rules.settlement import Settlement

T = TypeVar("T")
MAX_GROUP_BYTES = 16 * 1024 * 1024
"""Bytes of states after which a group takes no more members: bounds the memory and the time of one transaction."""
LINK_MIN_BYTES = 4 * 1024
"""Bytes that a link of a chain counts at least: bounds the statements and rows of one transaction."""

SMALL_GROUP = 32
"""Settlements of which a group always takes all: fewer would hardly make its transaction shorter."""


def share_of(waiting: int) -> int:
    """The settlements that the next group takes of those that wait: of many, half.

    Steps that are written together are dispatched, executed and answered together, and wait for each other at each stage while
    all other stages stand still. Groups that are parted drift apart, so that replica, workers and database work at once.
    """
    return max(SMALL_GROUP, -(-waiting // 2))


def next_group(
    queue: deque[T], limit: int, weight: Callable[[T], int], identity: Callable[[T], object] = id
) -> list[T]:
    """Take the next members from a queue: at most `limit`, few large ones, and none that is in the group already.

    A step that was taken away and claimed again here has two results, of which one is fenced off: the store tells them apart
    by their step only (X1).
    """
    group: list[T] = []
    there: set[object] = set()
    total = 0
    while queue and len(group) < limit and total < MAX_GROUP_BYTES:
        member = queue[0]
        known = identity(member)
        if known in there:
            break
        there.add(known)
        group.append(queue.popleft())
        total += weight(member)
    return group


def weight(settlement: Settlement) -> int:
    """Bytes that a settlement writes, with its chain."""
    written = settlement.successor or settlement.end or settlement.child
    own = len(settlement.changes_json()) + (len(written.state_json) if written is not None else 0)
    if settlement.branches:
        own += sum(len(branch.state_json) for branch in settlement.branches)
    if settlement.links:
        own += sum(max(weight(link), LINK_MIN_BYTES) for link in settlement.links)
    return own


def parted(group: list[Settlement]) -> list[list[Settlement]]:
    """The halves of a group; one settlement goes without its chain, whose steps are then settled one by one."""
    if len(group) == 1:
        group[0].unlink()
        return [group]
    half = len(group) // 2
    return [group[:half], group[half:]]
