"""The pace of work on many flows, such as bulk operations and removals, beside the steps of other flows (M1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
GROUP_SECONDS = 0.1
"""Time that a group should take at most: steps of other flows may wait for its transaction that long."""
MIN_GROUP, FIRST_GROUP, MAX_GROUP = 40, 80, 400
"""Members of a group. Its statements cost much the same for few members, so fewer would not take much less time."""
MEMBERS_PER_SECOND = 500
"""Members a second at most while steps of other flows are settled."""
LEAST_REST = 3.0
"""Rest after a group then, at least, as a multiple of the time it took: a busy machine is slow, too (design note 0044)."""


class Pace:
    """The pace of one shard on this replica: one group of members at a time, a rest after it while others are at work.

    `settled`: counts what is written for other work. The size of a group follows from the time that groups take.
    """

    def __init__(self, settled: Callable[[], int]) -> None:
        self._settled = settled
        self._seen = settled()
        self._turn = asyncio.Lock()
        self.size = FIRST_GROUP
        """Members of the next group."""

    async def run(
        self, members: Sequence[T], work: Callable[[Sequence[T]], Awaitable[R]], *, weight: int = 1
    ) -> tuple[int, R]:
        """Do `work` on as many of the first members as a group has; return how many, and its result.

        `weight`: the work for one member as a multiple of what it is where many are changed together.
        """
        async with self._turn:
            group = members[: max(1, self.size // weight)]
            began = time.perf_counter()
            try:
                return len(group), await work(group)
            finally:
                took = time.perf_counter() - began
                self._resize(len(group) * weight, took)
                if self._others_at_work():
                    due = len(group) * weight / MEMBERS_PER_SECOND
                    await asyncio.sleep(max(due - took, took * LEAST_REST))

    def _others_at_work(self) -> bool:
        seen, self._seen = self._seen, self._settled()
        return self._seen != seen

    def _resize(self, members: int, took: float) -> None:
        if took > GROUP_SECONDS:
            self.size = max(MIN_GROUP, self.size * 2 // 3)
        elif took < GROUP_SECONDS / 2 and members >= self.size // 2:
            self.size = min(MAX_GROUP, self.size * 3 // 2)
